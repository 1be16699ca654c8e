//! Files that somebody else may have written or damaged: whatever bytes they hold, reading them ends with an error or with
//! something sound, never with a panic, and never with more memory than the file's own size explains.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use embed_collections::collection::{Entry, Request, discover};
use embed_collections::config::{CommandLine, Environment, resolve};
use embed_collections::domain::{CollectionName, Digest};
use embed_collections::model::weights::Weights;
use embed_collections::output::{Ledger, MANIFEST_FILE, read_manifest, read_segment, read_shard};
use embed_collections::prepare::Tokenizer;
use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

const TINY_MODEL: &str = "tests/fixtures/models/bert-minilm";

/// What is done to a file: bytes replaced, a part doubled, the end cut off.
#[derive(Debug, Clone)]
struct Damage {
    bytes: Vec<(Index, u8)>,
    doubled: Option<(Index, u8)>,
    cut: Option<Index>,
}

impl Damage {
    fn of(&self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for (place, byte) in &self.bytes {
            let place = place.index(bytes.len());
            bytes[place] = *byte;
        }
        if let Some((place, length)) = &self.doubled {
            let start = place.index(bytes.len());
            let part = bytes[start..(start + usize::from(*length)).min(bytes.len())].to_vec();
            bytes.splice(start..start, part);
        }
        if let Some(cut) = &self.cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    }
}

/// Bytes that mean something in JSON and TOML come often.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), proptest::sample::select(&b"\"\\[]{}:,=.-+019eEnt \n\xff\0"[..])]
}

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = proptest::collection::vec((any::<Index>(), byte()), 1..4);
    let doubled = proptest::option::of((any::<Index>(), any::<u8>()));
    let cut = proptest::option::weighted(0.2, any::<Index>());
    (bytes, doubled, cut).prop_map(|(bytes, doubled, cut)| Damage { bytes, doubled, cut })
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(byte(), 0..200)
}

/// A finished output in all formats, made by the program.
struct Whole {
    root: TempDir,
}

impl Whole {
    fn get() -> &'static Self {
        static WHOLE: OnceLock<Whole> = OnceLock::new();
        WHOLE.get_or_init(|| {
            let root = tempfile::tempdir().unwrap();
            let run = std::process::Command::new(env!("CARGO_BIN_EXE_embed-collections"))
                .args(["--chunked-dir", "tests/data/Chunked", "--collections", "tidepool", "--shard-rows", "4"])
                .args(["--model", TINY_MODEL, "--offline", "--force-cpu", "--format", "jsonl,parquet,arrow,npy"])
                .arg("--output-dir")
                .arg(root.path().join("out"))
                .arg("--cache-dir")
                .arg(root.path().join("cache"))
                .env("EMBED_LEASE_DIR", root.path().join("leases"))
                .output()
                .unwrap();
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            Self { root }
        })
    }

    fn model(&self) -> PathBuf {
        self.root.path().join("out/tidepool/bert-minilm")
    }
}

/// A directory with one file in it.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    (directory, path)
}

fn read_as_chunks(name: &str, bytes: &[u8]) {
    let (_directory, path) = file(name, bytes);
    let Ok(found) = discover(&Request { root: &path, only: &[] }) else { return };
    let mut rows = 0;
    for entry in found.collections.iter().flat_map(embed_collections::collection::Collection::read) {
        if let Entry::Chunk(chunk) = entry {
            assert_eq!(chunk.row.0, rows);
            rows += 1;
        }
    }
}

fn read_as_config(bytes: &[u8]) {
    let (_directory, path) = file("settings.toml", bytes);
    if let Err(error) = resolve(&CommandLine { config: Some(path), values: Vec::new() }, &Environment::default()) {
        assert!(!error.to_string().is_empty());
    }
}

fn read_as_weights(name: &str, bytes: &[u8]) {
    let (_directory, path) = file(name, bytes);
    let Ok(weights) = Weights::open(&[path]) else { return };
    let Ok(tensors) = weights.tensors() else { return };
    for tensor in tensors {
        // None where it is there under several prefixes.
        let Ok(tensor) = weights.tensor(&tensor.name) else { continue };
        let numbers = tensor.shape.iter().product::<usize>();
        assert_eq!(tensor.bytes.len() * 8, numbers * tensor.dtype.bitsize(), "{}", tensor.name);
        let _ = (tensor.to_f32(), tensor.to_i64());
    }
}

/// A tokenizer of few words, so that many of its files are read in a second.
fn small_tokenizer() -> Vec<u8> {
    let text = fs::read(Path::new(TINY_MODEL).join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let words = json["model"]["vocab"].as_object_mut().unwrap();
    let few: serde_json::Map<String, serde_json::Value> = std::mem::take(words)
        .into_iter()
        .filter(|(word, _)| word.starts_with('[') || word.len() <= 2)
        .take(80)
        .collect();
    *words = few;
    serde_json::to_vec(&json).unwrap()
}

fn read_as_tokenizer(bytes: &[u8]) {
    let (_directory, path) = file("tokenizer.json", bytes);
    if let Ok(tokenizer) = Tokenizer::load(&path, 16, String::new())
        && let Ok(tokens) = tokenizer.encode("some words, and 12 more \u{1f980}")
    {
        assert!(tokens.ids.len() <= 16);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_manifest_of_any_bytes(bytes in any_bytes(), damage in damage()) {
        let whole = fs::read(Whole::get().model().join(MANIFEST_FILE)).unwrap();
        for bytes in [bytes, damage.of(&whole)] {
            let (_directory, path) = file(MANIFEST_FILE, &bytes);
            match read_manifest(&path) {
                Ok(manifest) => prop_assert!(serde_json::to_vec(&manifest).is_ok()),
                Err(error) => prop_assert!(error.to_string().contains(MANIFEST_FILE), "{}", error),
            }
        }
    }

    #[test]
    fn a_ledger_of_any_bytes(bytes in any_bytes(), damage in damage()) {
        let collection = Whole::get().root.path().join("out/tidepool");
        let whole = fs::read(collection.join("chunks.jsonl")).unwrap();
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(collection.join("chunks.manifest.json")).unwrap()).unwrap();
        for bytes in [bytes, damage.of(&whole)] {
            let (directory, _) = file("c/chunks.jsonl", &bytes);
            // Vouched for, so that the rows themselves are read.
            let mut manifest = manifest.clone();
            manifest["file"]["sha256"] = Digest::of(&bytes).to_string().into();
            manifest["file"]["bytes"] = bytes.len().into();
            fs::write(directory.path().join("c/chunks.manifest.json"), manifest.to_string()).unwrap();
            let ledger = Ledger::open(directory.path(), &CollectionName::new("c").unwrap()).unwrap();
            // Whoever reads on behind an error must come to an end too.
            prop_assert!(ledger.take(10_000).count() < 10_000);
        }
    }

    #[test]
    fn a_manifest_of_a_ledger_of_any_bytes(bytes in any_bytes(), damage in damage()) {
        let collection = Whole::get().root.path().join("out/tidepool");
        let whole = fs::read(collection.join("chunks.manifest.json")).unwrap();
        for bytes in [bytes, damage.of(&whole)] {
            let (directory, path) = file("c/chunks.manifest.json", &bytes);
            fs::copy(collection.join("chunks.jsonl"), path.with_file_name("chunks.jsonl")).unwrap();
            let _ = Ledger::open(directory.path(), &CollectionName::new("c").unwrap()).map(Iterator::count);
        }
    }

    #[test]
    fn a_segment_of_any_bytes_under_the_name_of_its_digest(bytes in any_bytes(), damage in damage()) {
        let whole = Whole::get();
        let manifest = read_manifest(&whole.model().join(MANIFEST_FILE)).unwrap();
        let cache = whole.root.path().join("cache").join(&manifest.vector_space);
        let segment = fs::read_dir(cache).unwrap().next().unwrap().unwrap().path();
        prop_assert!(read_segment(&segment, &manifest.vector_space).is_ok());
        for bytes in [bytes, damage.of(&fs::read(segment).unwrap())] {
            let (_directory, path) = file(&format!("{}.arrow", Digest::of(&bytes)), &bytes);
            if let Err(error) = read_segment(&path, &manifest.vector_space) {
                prop_assert!(error.to_string().contains(".arrow"), "{}", error);
            }
        }
    }

    #[test]
    fn shards_of_any_bytes_that_a_manifest_vouches_for(bytes in any_bytes(), damage in damage(), which in any::<Index>()) {
        let manifest = read_manifest(&Whole::get().model().join(MANIFEST_FILE)).unwrap();
        let shard = &manifest.shards[0];
        let which = which.index(shard.files.len());
        let whole = fs::read(Whole::get().model().join(&shard.files[which].name)).unwrap();
        for bytes in [bytes, damage.of(&whole)] {
            // Of one file alone, so that it is the one that is read.
            let mut shard = shard.clone();
            shard.files = vec![shard.files[which].clone()];
            (shard.files[0].sha256, shard.files[0].bytes) = (Digest::of(&bytes), bytes.len() as u64);
            let (directory, _) = file(&shard.files[0].name, &bytes);
            let _ = read_shard(directory.path(), &shard);
        }
    }

    #[test]
    fn chunk_files_of_any_bytes(bytes in any_bytes(), damage in damage()) {
        let document = fs::read("tests/data/Broken/entries/odd-entries.json").unwrap();
        let zst = zstd::encode_all(&document[..], 1).unwrap();
        let table = fs::read("tests/data/Broken/tables/null-text.parquet").unwrap();
        for (name, whole) in [("a.json", &document), ("a.json.zst", &zst), ("a.parquet", &table)] {
            read_as_chunks(name, &damage.of(whole));
            read_as_chunks(name, &bytes);
        }
        read_as_chunks("a.jsonl", &damage.of(&document));
        read_as_chunks("a.ndjson.gz", &bytes);
    }

    #[test]
    fn a_file_of_settings_of_any_bytes(bytes in any_bytes(), damage in damage()) {
        read_as_config(&bytes);
        read_as_config(&damage.of(&fs::read("configs/workstation.toml").unwrap()));
    }

    #[test]
    fn a_tokenizer_of_any_bytes(bytes in any_bytes(), damage in damage()) {
        static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
        read_as_tokenizer(&bytes);
        read_as_tokenizer(&damage.of(WHOLE.get_or_init(small_tokenizer)));
    }

    #[test]
    fn weights_of_any_bytes(bytes in any_bytes(), damage in damage(), claimed in any::<u64>()) {
        let whole = fs::read(Path::new(TINY_MODEL).join("model.safetensors")).unwrap();
        // The header is where damage can mislead; the numbers behind it are any.
        let header = u64::from_le_bytes(*whole.first_chunk().unwrap());
        let header = usize::try_from(header).unwrap() + 8;
        let damaged = [&damage.of(&whole[..header])[..], &whole[header..]].concat();
        let lying = [&claimed.to_le_bytes()[..], &whole[8..]].concat();
        for bytes in [bytes, damaged, lying] {
            read_as_weights("model.safetensors", &bytes);
            read_as_weights("pytorch_model.bin", &bytes);
        }
    }
}
