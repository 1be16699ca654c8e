//! Where everything lies, and what it is called.

use std::path::{Path, PathBuf};

use super::manifest::MANIFEST_FILE;
use crate::domain::CollectionName;

/// The ledger of a collection: one row a chunk.
pub const CHUNKS_FILE: &str = "chunks.jsonl";

/// What the ledger holds and who wrote it.
pub const CHUNKS_MANIFEST_FILE: &str = "chunks.manifest.json";

/// Ending of everything that is not complete.
const PARTIAL: &str = ".partial";

/// Longest name of a model's directory; leaves room for prefix and ending in the 255 bytes that file systems allow.
const LONGEST_DIRECTORY_NAME_BYTES: usize = 128;

/// The directories of one model's output for one collection.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// `<output>/<collection>`.
    pub(super) collection: PathBuf,
    /// `<output>/<collection>/<model>`.
    pub(super) model: PathBuf,
    model_name: String,
}

impl Place {
    pub(super) fn new(output_dir: &Path, collection: &CollectionName, model: &str) -> Self {
        let collection = output_dir.join(collection.as_str());
        let model_name = directory_name(model);
        Self { model: collection.join(&model_name), collection, model_name }
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.model.join(MANIFEST_FILE)
    }

    pub(super) fn chunks(&self) -> PathBuf {
        self.collection.join(CHUNKS_FILE)
    }

    /// The model's own ledger in progress: in the directory it will be published in, so that a rename is enough, and
    /// under the model's name, since several models may be at work on a collection.
    pub(super) fn pending_chunks(&self) -> PathBuf {
        self.collection.join(format!("chunks.{}.jsonl{PARTIAL}", self.model_name))
    }

    pub(super) fn chunks_manifest(&self) -> PathBuf {
        self.collection.join(CHUNKS_MANIFEST_FILE)
    }

    pub(super) fn pending_chunks_manifest(&self) -> PathBuf {
        self.collection.join(format!("chunks.{}.manifest.json{PARTIAL}", self.model_name))
    }
}

/// Name of a shard's file: `part-00000.jsonl`.
pub(super) fn shard_file(number: u32, extension: &str) -> String {
    format!("part-{number:05}.{extension}")
}

/// Where a file is written before it gets its name.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    name.into()
}

/// Whether a file of a model's directory is one that this module makes. Everything else there is left alone.
pub(super) fn is_ours(name: &str) -> bool {
    let complete = name.strip_suffix(PARTIAL).unwrap_or(name);
    let number = complete.strip_prefix("part-").and_then(|rest| rest.split_once('.')).map(|(number, _)| number);
    complete == MANIFEST_FILE || number.is_some_and(|it| it.len() >= 5 && it.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Name of the directory for a model's output: the last component of a hub id (`BAAI/bge-m3` → `bge-m3`) or path, with
/// everything but letters, digits, `.`, `-` and `_` replaced by `_`. Never empty, hidden, `.` or `..`, and never
/// `chunks.…`, which are the ledger's files. Two models may get one name; the manifest tells them apart.
pub fn directory_name(model: &str) -> String {
    let component = model.rsplit(['/', '\\']).find(|component| !component.is_empty()).unwrap_or_default();
    let safe = |character: char| if character.is_alphanumeric() || "-_.".contains(character) { character } else { '_' };
    let mut name: String = component.trim_start_matches('.').chars().map(safe).collect();
    if name.is_empty() {
        name.push_str("model");
    } else if name.starts_with("chunks.") {
        name.insert_str(0, "model-");
    }
    name.truncate(name.floor_char_boundary(LONGEST_DIRECTORY_NAME_BYTES));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(model: &str, expected: &str) {
        assert_eq!(directory_name(model), expected);
        assert_eq!(CollectionName::new(&directory_name(model)).unwrap().as_str(), expected);
    }

    #[test]
    fn a_model_gets_one_safe_component() {
        check("all-MiniLM-L6-v2", "all-MiniLM-L6-v2");
        check("BAAI/bge-m3", "bge-m3");
        check("/models/my model/", "my_model");
        check(r"C:\models\e5", "e5");
        check("./.hidden", "hidden");
        check("größe:2", "größe_2");
        check("a\0b", "a_b");
        check("chunks.jsonl", "model-chunks.jsonl");
        for name in ["", ".", "..", "/", "a/..", "...."] {
            check(name, "model");
        }
        check(&"é".repeat(200), &"é".repeat(64));
    }

    #[test]
    fn only_our_own_names_are_ours() {
        for name in ["manifest.json", "manifest.json.partial", "part-00000.jsonl", "part-123456.ids.json.partial"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["notes.txt", "part-1.jsonl", "part-0000a.jsonl", "part-00000", "x.partial", "my-part-00000.npy"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
