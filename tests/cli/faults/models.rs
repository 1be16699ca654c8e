//! A model that is here and damaged.

use std::fs;
use std::path::Path;

use embed_collections::domain::Digest;

use crate::program::{Finished, Program, TINY_MODEL};

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn embed(root: &Path) -> Finished {
    Program::bare()
        .arguments(&["--chunked-dir", "tests/data/Chunked", "--offline", "--force-cpu", "--progress", "none"])
        .path("--model", &root.join("model"))
        .path("--output-dir", &root.join("out"))
        .variable("EMBED_LEASE_DIR", root.join("leases").to_str().unwrap())
        .run()
}

#[track_caller]
fn check(root: &Path, file: &str, damage: impl Fn(&mut Vec<u8>), parts: &[&str]) {
    let path = root.join("model").join(file);
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let run = embed(root);
    assert_eq!(run.exit_code, 5, "{file}: {}", run.stderr);
    let error = run.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    fs::write(&path, whole).unwrap();
}

#[test]
fn a_damaged_model_is_refused_by_the_name_of_its_file_and_works_once_it_is_whole() {
    let root = tempfile::tempdir().unwrap();
    copy(Path::new(TINY_MODEL), &root.path().join("model"));
    let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    check(root.path(), "model.safetensors", half, &["model.safetensors", "fetch it again"]);
    check(root.path(), "model.safetensors", Vec::clear, &["model.safetensors", "fetch it again"]);
    // A header that claims to be longer than any file.
    check(root.path(), "model.safetensors", |bytes| bytes[..8].fill(0xff), &["model.safetensors", "fetch it again"]);
    check(root.path(), "tokenizer.json", half, &["tokenizer.json"]);
    check(root.path(), "config.json", half, &["config.json"]);
    check(root.path(), "config.json", |bytes| *bytes = "[".repeat(1_000_000).into_bytes(), &["config.json"]);
    assert_eq!(embed(root.path()).exit_code, 0);
}

#[test]
fn weights_in_the_hubs_cache_that_are_not_what_their_name_says_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("model");
    copy(Path::new(TINY_MODEL), &model);
    let weights = model.join("model.safetensors");
    let blob = root.path().join("blobs").join(Digest::of(&fs::read(&weights).unwrap()).to_string());
    fs::create_dir(blob.parent().unwrap()).unwrap();
    fs::rename(&weights, &blob).unwrap();
    std::os::unix::fs::symlink(&blob, &weights).unwrap();
    // One bit of a number, which no header would show.
    check(root.path(), "model.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 1, &["blobs", "fetch it again"]);
    assert!(!root.path().join("out/tidepool").exists(), "nothing was embedded with them");
    assert_eq!(embed(root.path()).exit_code, 0);
}
