//! The hub's cache on disk, in the layout that all hub libraries share, read without asking anybody.
//!
//! A snapshot there may be partial: another program took only the files that it reads, or was stopped. A model
//! without its `modules.json` still loads, and gives other vectors. So a snapshot is used without a question only if
//! this program has recorded that all of it is there; else the hub is asked, and only if it cannot be is a snapshot
//! judged by what it holds.

use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo};

use super::files::Record;
use crate::domain::Digest;
use crate::model::spec::{ModelSpec, SpecError};

/// Why the cache does not have a model.
#[derive(Debug, thiserror::Error)]
pub enum CacheMiss {
    /// The repository is not in the cache.
    #[error("there is nothing of the model")]
    NotCached,
    /// The repository is in the cache, but not all of it.
    #[error("{} is not whole: {lacks}", snapshot.display())]
    Incomplete {
        /// The directory that is not whole.
        snapshot: PathBuf,
        /// What it lacks.
        lacks: String,
    },
}

/// One repository in the cache.
pub(super) struct CachedRepository {
    cache: PathBuf,
    layout: CacheRepo,
    directory: PathBuf,
    records: PathBuf,
    repository: String,
}

impl CachedRepository {
    /// The repository `owner/name` in the cache, with this program's records in its own cache.
    pub(super) fn new(cache: PathBuf, own_cache: &Path, repository: &str) -> Self {
        let repo = Repo::model(repository.to_owned());
        let folder = repo.folder_name();
        let records = own_cache.join("hub").join(&folder);
        let layout = Cache::new(cache.clone()).repo(repo);
        Self { directory: cache.join(folder), cache, layout, records, repository: repository.to_owned() }
    }

    /// The repository's part of it.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The snapshot of a revision and its commit, if it is recorded as whole and still is.
    pub(super) fn recorded_snapshot(&self, revision: &str) -> Option<(PathBuf, String)> {
        let commit = self.commit(revision)?;
        let snapshot = self.snapshot(&commit);
        let record = Record::read(&self.record_path(&commit))?;
        (record.origin == self.origin(&commit) && record.is_held_by(&snapshot)).then_some((snapshot, commit))
    }

    /// The snapshot of a revision, its commit, and a note, judged by what it holds.
    pub(super) fn unrecorded_snapshot(&self, revision: &str) -> Result<(PathBuf, String, String), CacheMiss> {
        let commit = self.commit(revision).ok_or(CacheMiss::NotCached)?;
        let snapshot = self.snapshot(&commit);
        if !snapshot.is_dir() {
            return Err(CacheMiss::NotCached);
        }
        let incomplete = |lacks: String| Err(CacheMiss::Incomplete { snapshot: snapshot.clone(), lacks });
        // The libraries mark files that they asked for and that the repository does not have.
        let is_unknown = |name: &&str| {
            !snapshot.join(name).exists() && !self.directory.join(".no_exist").join(&commit).join(name).exists()
        };
        if is_unknown(&"modules.json") {
            let lacks = "it has no modules.json, and nothing tells whether the model has one; \
                         if it has none, pass this directory as the model";
            return incomplete(lacks.to_owned());
        }
        match ModelSpec::read(&snapshot) {
            Err(error @ (SpecError::Missing { .. } | SpecError::MissingTokenizer { .. })) => {
                return incomplete(error.to_string());
            }
            // A vocabulary alone may give other tokens than the file that a repository has beside it.
            Ok(spec) => {
                let whole = spec.tokenizer.path.with_file_name("tokenizer.json");
                let name = whole.strip_prefix(&snapshot).ok().and_then(Path::to_str).unwrap_or("tokenizer.json");
                if is_unknown(&name) {
                    return incomplete(format!("it has no {name}, and nothing tells whether the model has one"));
                }
            }
            Err(_) => {}
        }
        let mut note = format!("{} could not be compared with the hub and is used as it is", snapshot.display());
        let may_be_there = ["sentence_bert_config.json", "config_sentence_transformers.json", "tokenizer_config.json"];
        let unknown: Vec<&str> = may_be_there.into_iter().filter(is_unknown).collect();
        if !unknown.is_empty() {
            note += "; nothing tells whether the model has what it lacks: ";
            note += &unknown.join(", ");
        }
        Ok((snapshot, commit, note))
    }

    /// Where the files of a commit are.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    /// Where a file is that is called `name`.
    pub(super) fn blob(&self, name: &str) -> PathBuf {
        self.directory.join("blobs").join(name)
    }

    /// The lock that all libraries of the hub hold while they fetch that file.
    pub(super) fn lock(&self, name: &str) -> PathBuf {
        let folder = self.directory.file_name().unwrap_or_default();
        self.cache.join(".locks").join(folder).join(format!("{name}.lock"))
    }

    /// Records that these are all files of a commit, and that the revision is that commit; returns what could not be
    /// written, which costs a question the next time and nothing else.
    pub(super) fn record(&self, revision: &str, commit: &str, files: &[(String, u64)]) -> Vec<String> {
        let record = Record { files: files.iter().cloned().collect(), origin: self.origin(commit) };
        let path = self.record_path(commit);
        let recorded = std::fs::create_dir_all(&self.records).and_then(|()| record.write(&path));
        let recorded = recorded.map_err(|error| {
            format!("cannot write {}: {error}; the hub will be asked again next time", path.display())
        });
        let named = if revision == commit || self.commit(revision).as_deref() == Some(commit) {
            Ok(())
        } else {
            let path = self.directory.join("refs").join(revision);
            name(&path, commit).map_err(|error| {
                format!("cannot write {}: {error}; without it, nothing here tells what {revision} is", path.display())
            })
        };
        [recorded, named].into_iter().filter_map(Result::err).collect()
    }

    fn origin(&self, commit: &str) -> String {
        format!("{} {commit}", self.repository)
    }

    fn record_path(&self, commit: &str) -> PathBuf {
        self.records.join(format!("{commit}.json"))
    }

    /// The commit of a revision, as the cache has it.
    fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = std::fs::read_to_string(self.directory.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }
}

/// Writes what a revision is.
fn name(path: &Path, commit: &str) -> io::Result<()> {
    let partial = path.with_added_extension(format!("{}.partial", std::process::id()));
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(&partial, commit)?;
    std::fs::rename(&partial, path)
}

/// The digest that a file must have, where the name of what it links to tells: large files in the hub's cache are links to
/// blobs that are called after their SHA-256.
pub fn blob_digest(path: &Path) -> Option<Digest> {
    let blob = path.canonicalize().ok()?;
    let in_cache = blob.parent()?.file_name()? == "blobs";
    in_cache.then(|| blob.file_name()?.to_str()?.parse().ok()).flatten()
}

/// Whether a revision is a commit, and so means the same for ever.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
