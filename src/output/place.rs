//! Where everything lies, and what it is called.

use std::path::{Path, PathBuf};

use super::manifest::MANIFEST_FILE;
use crate::domain::{CollectionName, Share};

/// The ledger of a collection: one row a chunk.
pub const CHUNKS_FILE: &str = "chunks.jsonl";

/// What the ledger holds and who wrote it.
pub const CHUNKS_MANIFEST_FILE: &str = "chunks.manifest.json";

/// The ids that were in the input and are no more, where an incremental run has missed some.
pub const REMOVED_FILE: &str = "removed.jsonl";

/// Ending of everything that is not complete.
const PARTIAL: &str = ".partial";

/// Longest name of a model's directory; leaves room for prefix and ending in the 255 bytes that file systems allow.
const LONGEST_DIRECTORY_NAME_BYTES: usize = 128;

/// The directories of one model's output for one collection, or of one share of it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// `<output>/<collection>`.
    pub(super) collection: PathBuf,
    /// `<output>/<collection>/<model>`.
    pub(super) model: PathBuf,
    model_name: String,
    share: Option<Share>,
}

impl Place {
    pub(super) fn new(output_dir: &Path, collection: &CollectionName, model: &str) -> Self {
        let collection = output_dir.join(collection.as_str());
        let model_name = directory_name(model);
        Self { model: collection.join(&model_name), collection, model_name, share: None }
    }

    /// The place of an output that is there, by the name of its directory.
    pub(super) fn of_directory(output_dir: &Path, collection: &CollectionName, directory: &str) -> Self {
        Self::in_collection(&output_dir.join(collection.as_str()), directory)
    }

    /// The same, by the collection's directory.
    pub(super) fn in_collection(collection: &Path, directory: &str) -> Self {
        let (collection, model_name) = (collection.to_owned(), directory.to_owned());
        Self { model: collection.join(directory), collection, model_name, share: None }
    }

    /// The same directories with the files of a share's own: parts have the names that they have without shares.
    pub(super) fn of_share(&self, share: Share) -> Self {
        Self { share: Some(share), ..self.clone() }
    }

    pub(super) fn manifest(&self) -> PathBuf {
        match self.share {
            None => self.model.join(MANIFEST_FILE),
            Some(share) => self.model.join(share_manifest_file(share)),
        }
    }

    pub(super) fn chunks(&self) -> PathBuf {
        self.collection.join(CHUNKS_FILE)
    }

    /// The model's own ledger in progress: in the directory it will be published in, so that a rename is enough, and
    /// under the model's name, since several models may be at work on a collection.
    pub(super) fn pending_chunks(&self) -> PathBuf {
        let share = self.share.map(|share| format!(".{}", share_name(share))).unwrap_or_default();
        self.collection.join(format!("chunks.{}.jsonl{share}{PARTIAL}", self.model_name))
    }

    /// The share whose ledger in progress a file of the collection's directory is, if it is one of this model's.
    pub(super) fn share_of_pending_chunks(&self, name: &str) -> Option<Share> {
        let name = name.strip_prefix("chunks.")?.strip_prefix(self.model_name.as_str())?.strip_prefix(".jsonl.")?;
        parse_share_name(name.strip_suffix(PARTIAL)?)
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

/// Name of a file that a run leaves beside the collections; each share has its own.
pub fn report_file(name: &str, share: Option<Share>, extension: &str) -> String {
    match share {
        None => format!("{name}.{extension}"),
        Some(share) => format!("{name}.{}.{extension}", share_name(share)),
    }
}

/// What the files of a share have in their names: `share-3-of-8`.
pub(super) fn share_name(share: Share) -> String {
    format!("share-{}-of-{}", share.number(), share.of())
}

/// Name of the manifest of a share, in the model's directory.
pub(super) fn share_manifest_file(share: Share) -> String {
    format!("manifest.{}.json", share_name(share))
}

/// The share whose manifest a file of a model's directory is.
pub(super) fn share_of_manifest(name: &str) -> Option<Share> {
    parse_share_name(name.strip_prefix("manifest.")?.strip_suffix(".json")?)
}

/// The share that a part of a file's name is of.
pub(super) fn parse_share_name(name: &str) -> Option<Share> {
    let (number, of) = name.strip_prefix("share-")?.split_once("-of-")?;
    let share: Share = format!("{number}/{of}").parse().ok()?;
    // Not `share-03-of-8`, which this module does not make.
    (share_name(share) == name).then_some(share)
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
    complete == MANIFEST_FILE || share_of_manifest(complete).is_some() || part_number(name).is_some()
}

/// The shard that a file of a model's directory is of, complete or not.
pub(super) fn part_number(name: &str) -> Option<u64> {
    let (number, _) = name.strip_suffix(PARTIAL).unwrap_or(name).strip_prefix("part-")?.split_once('.')?;
    (number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.parse().ok()).flatten()
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
