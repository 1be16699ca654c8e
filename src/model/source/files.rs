//! Which files of a repository or a package are a model's, and a record of those that are there.
//!
//! Names are compared as they are, case and all: so they are on the hub, and so the libraries ask for them.
//! Repositories hold the same weights several times over, for other programs; only what this one reads is fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

/// Whether the file at `path` (in the repository, with `/`) is read by this program: the files of the transformer,
/// and of the modules in directories such as `1_Pooling`. A path that leaves the directory never is.
pub(super) fn is_wanted(path: &str) -> bool {
    is_wanted_with(path, &BTreeSet::new())
}

/// The same, where directories of modules may also have other names than `1_Pooling` and its like.
pub(super) fn is_wanted_with(path: &str, modules: &BTreeSet<String>) -> bool {
    if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        return false;
    }
    match path.rsplit_once('/') {
        None => is_wanted_name(path),
        Some((directory, name)) => {
            (is_module_directory(directory) || is_named(directory, modules)) && is_wanted_name(name)
        }
    }
}

/// A directory of a module, or one below it for a module of a router.
fn is_named(path: &str, modules: &BTreeSet<String>) -> bool {
    let is_below = |(directory, name): (&str, &str)| modules.contains(directory) && is_routed(name);
    modules.contains(path) || path.rsplit_once('/').is_some_and(is_below)
}

/// What says which directories are a model's.
pub(super) const MODULES: &str = "modules.json";

/// The directories that `modules.json` names, which may be called anything. What is wrong with the file is told by
/// whoever reads the model.
pub(super) fn module_directories(modules: &Path) -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct Module {
        path: String,
    }
    let text = std::fs::read(modules).unwrap_or_default();
    let modules: Vec<Module> = serde_json::from_slice(&text).unwrap_or_default();
    modules.into_iter().map(|module| module.path.trim_end_matches('/').to_owned()).collect()
}

/// `1_Pooling`, or a router's `document_0_Transformer`, which may be in a directory of the router's own.
fn is_module_directory(path: &str) -> bool {
    let is_module = |name: &str| name.split_once('_').is_some_and(|(number, _)| is_number(number));
    match path.split_once('/') {
        None => is_module(path) || is_routed(path),
        Some((router, routed)) => is_module(router) && is_routed(routed),
    }
}

fn is_routed(name: &str) -> bool {
    let is_class = |text: &str| text.starts_with(|first: char| first.is_ascii_uppercase());
    let mut parts = name.rsplitn(3, '_');
    parts.next().is_some_and(is_class) && parts.next().is_some_and(is_number) && parts.next().is_some()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[expect(clippy::case_sensitive_file_extension_comparisons, reason = "see above")]
fn is_wanted_name(name: &str) -> bool {
    let json = |prefix: &str| name.starts_with(prefix) && name.ends_with(".json");
    let listed = [
        "modules.json",
        "router_config.json",
        "adapter_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.txt",
        // Looked for, because it means something where there is no modules.json.
        "chat_template.jinja",
        "vocab.json",
        "merges.txt",
        // What ColBERT models and the further heads of bge-m3 are described by and made of.
        "artifact.metadata",
        "sparse_linear.pt",
        "colbert_linear.pt",
    ];
    listed.contains(&name)
        || json("config")
        || json("tokenizer")
        || json("model.safetensors.index")
        || json("pytorch_model.bin.index")
        || (name.starts_with("sentence_") && name.ends_with("_config.json"))
        || is_weights(name)
}

fn is_weights(name: &str) -> bool {
    name == "model.safetensors" || name == "pytorch_model.bin" || is_shard(name)
}

#[expect(clippy::case_sensitive_file_extension_comparisons, reason = "see above")]
fn is_shard(name: &str) -> bool {
    (name.starts_with("model-") && name.ends_with(".safetensors"))
        || (name.starts_with("pytorch_model-") && name.ends_with(".bin"))
}

/// In which order weights are looked for; of a directory that has them several times over, only the first are wanted.
fn rank(name: &str) -> Option<usize> {
    let of_safetensors = !name.starts_with("pytorch_model");
    let whole = name == "model.safetensors" || name == "pytorch_model.bin";
    let index = name == "model.safetensors.index.json" || name == "pytorch_model.bin.index.json";
    (whole || index || is_shard(name)).then_some(match (of_safetensors, whole) {
        (true, true) => 0,
        (true, false) => 1,
        (false, true) => 2,
        (false, false) => 3,
    })
}

#[cfg(test)]
fn select(files: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    select_among(files, is_wanted)
}

/// The wanted ones among `files`, weights last; of weights that a directory has several times over, safetensors before
/// those of `PyTorch`, and whole ones before shards.
pub(super) fn select_among(files: &BTreeMap<String, u64>, is_wanted: impl Fn(&str) -> bool) -> Vec<(String, u64)> {
    let split = |path: &str| path.rfind('/').map_or(0, |slash| slash + 1);
    let mut best: BTreeMap<&str, usize> = BTreeMap::new();
    for path in files.keys() {
        let (directory, name) = path.split_at(split(path));
        // An index alone holds no weights.
        if let Some(rank) = rank(name).filter(|_| is_weights(name)) {
            best.entry(directory).and_modify(|best| *best = rank.min(*best)).or_insert(rank);
        }
    }
    let (mut small, mut weights) = (Vec::new(), Vec::new());
    for (path, bytes) in files {
        let (directory, name) = path.split_at(split(path));
        let spare = rank(name).is_some_and(|rank| best.get(directory).is_some_and(|best| rank != *best));
        // A vocabulary that counts only where there is no tokenizer.json.
        let other = matches!(name, "vocab.json" | "merges.txt" | "vocab.txt");
        let spare = spare || (other && files.contains_key(&format!("{directory}tokenizer.json")));
        if !is_wanted(path) || spare {
            continue;
        }
        if is_weights(name) { &mut weights } else { &mut small }.push((path.clone(), *bytes));
    }
    small.append(&mut weights);
    small
}

/// Whether a selection has weights that can be read.
pub(super) fn has_weights(selection: &[(String, u64)]) -> bool {
    selection.iter().any(|(path, _)| is_of_weights(path))
}

/// Whether a path is that of weights, in any directory.
pub(super) fn is_of_weights(path: &str) -> bool {
    is_weights(path.rsplit('/').next().unwrap_or(path))
}

/// The files of a directory and their sizes, written once all of them are there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// Path with `/` to size in bytes.
    pub(super) files: BTreeMap<String, u64>,
    /// What the directory was made from; a directory made from anything else is not the one.
    pub(super) origin: String,
}

impl Record {
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Whether all files are in the directory, at their sizes.
    pub(super) fn is_held_by(&self, directory: &Path) -> bool {
        let size = |path: &str| std::fs::metadata(directory.join(path)).ok().filter(std::fs::Metadata::is_file);
        !self.files.is_empty() && self.files.iter().all(|(path, bytes)| size(path).is_some_and(|it| it.len() == *bytes))
    }

    /// Writes the record under another name first, so that half a record is never found.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let partial = path.with_added_extension(format!("{}.partial", std::process::id()));
        let mut file = File::create(&partial)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, wanted: bool) {
        assert_eq!(is_wanted(path), wanted, "{path}");
    }

    #[test]
    fn only_files_that_are_read_are_wanted() {
        for path in [
            "modules.json",
            "config.json",
            "config_sentence_transformers.json",
            "sentence_bert_config.json",
            "sentence_xlm-roberta_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "vocab.txt",
            "0_Transformer/vocab.json",
            "merges.txt",
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "pytorch_model.bin",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model.bin.index.json",
            "2_Dense/pytorch_model.bin",
            "0_Transformer/tokenizer.json",
            "router_config.json",
            "document_0_MLMTransformer/model.safetensors",
            "0_Asym/my_query_1_Dense/config.json",
            "sparse_linear.pt",
            "artifact.metadata",
        ] {
            check(path, true);
        }
        for path in [
            "README.md",
            "data_config.json",
            "training_args.bin",
            "consolidated.safetensors",
            "onnx/model.onnx",
            "onnx/config.json",
            "openvino/tokenizer.json",
            "1_Pooling/deep/config.json",
            "document_Pooling/config.json",
            "a/document_0_Pooling/config.json",
            "../config.json",
            "1_Pooling/../../config.json",
            "/config.json",
            "",
        ] {
            check(path, false);
        }
    }

    #[test]
    fn weights_come_last_and_only_once() {
        let files = ["model.safetensors", "model-1.safetensors", "model.safetensors.index.json", "vocab.txt", "x.bin"];
        let select_names = |names: &[&str]| {
            let files = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
            select(&files).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(select_names(&files), ["vocab.txt", "model.safetensors"]);
        let tokenizers = ["0_T/tokenizer.json", "0_T/vocab.json", "merges.txt", "tokenizer.json", "vocab.txt"];
        assert_eq!(select_names(&tokenizers), ["0_T/tokenizer.json", "tokenizer.json"]);
        assert_eq!(select_names(&["0_T/tokenizer.json", "merges.txt", "vocab.json"]).len(), 3);
        let shards = ["model.safetensors.index.json", "vocab.txt", "model-1.safetensors"];
        assert_eq!(select_names(&files[1..]), shards);
        let both = ["model-1.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model-1.bin"];
        assert_eq!(select_names(&both), ["model.safetensors.index.json", "model-1.safetensors"]);
        assert_eq!(select_names(&both[1..]), ["pytorch_model.bin"], "an index without its shards is nothing");
        let shards = ["pytorch_model.bin.index.json", "pytorch_model-1.bin"];
        assert_eq!(select_names(&shards), shards);
        let apart = ["2_Dense/model.safetensors", "pytorch_model.bin"];
        assert_eq!(select_names(&apart), apart, "each directory has weights of its own");
        assert!(!has_weights(&select(&[("tf_model.h5".to_owned(), 1), ("config.json".to_owned(), 1)].into())));
    }

    #[test]
    fn a_record_holds_only_while_every_file_has_its_size() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record { files: [("a".to_owned(), 2), ("b/c".to_owned(), 0)].into(), origin: "o".to_owned() };
        let path = directory.path().join("record.json");
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path), Some(record.clone()));
        std::fs::write(directory.path().join("a"), "12").unwrap();
        assert!(!record.is_held_by(directory.path()));
        std::fs::create_dir(directory.path().join("b")).unwrap();
        std::fs::write(directory.path().join("b/c"), "").unwrap();
        assert!(record.is_held_by(directory.path()));
        std::fs::write(directory.path().join("a"), "1").unwrap();
        assert!(!record.is_held_by(directory.path()));
        assert!(!Record::default().is_held_by(directory.path()), "a record of nothing says nothing");
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Record::read(&path), None);
    }
}
