//! The hub: asks what a revision is and holds, fetches the files that are read, and checks each.
//!
//! Three kinds of question, over HTTP: what commit a revision is, which files it has with their sizes and digests (of a
//! mirror that does not list them, one by one), and the files. They go into the cache that all libraries of the hub share, in its layout and under its locks. A file is
//! linked into the snapshot when all of them are here, the weights last, so that no part of a model looks like one.

mod answer;
mod blob;
mod client;
mod error;
mod patience;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Url;
use serde::Deserialize;

pub use self::answer::Answer;
use self::blob::{Fetch, Oid, Promise, cache_error};
use self::client::Client;
pub use self::error::HubError;
use self::error::{LIST, Question};
use self::patience::TO_ASK;
use super::files;
use super::hub_cache::{CachedRepository, is_commit};
use crate::domain::{Digest, Fetching};
use crate::model::spec::{ModelSpec, SpecError};

/// What to fetch.
pub(super) struct Download<'run> {
    pub(super) repository: &'run str,
    pub(super) revision: &'run str,
    pub(super) endpoint: &'run str,
    pub(super) token: Option<&'run str>,
    pub(super) cache: &'run CachedRepository,
    /// This program's own, for what is soon gone again.
    pub(super) own_cache: &'run Path,
    pub(super) on_event: &'run dyn Fn(Fetching),
}

/// What the hub says of a revision, as far as it is read.
#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

/// A file by its name alone.
#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// An entry of a list of files.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

/// What a large file is called by; the entry's own `oid` and `size` are those of a pointer to it, or its own.
#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "sha256")]
    oid: String,
    size: u64,
}

/// Fetches what is not in the cache yet; returns the snapshot, its commit, and what could not be kept in mind.
///
/// The weights come last, and only if the program can do what the other files ask for.
pub(super) fn download(download: &Download<'_>) -> Result<(PathBuf, String, Vec<String>), HubError> {
    let Download { revision, cache, .. } = *download;
    let listing = Listing::ask(download, TO_ASK)?;
    let snapshot = cache.snapshot(&listing.commit);
    let mut is_checked = false;
    for promise in &listing.promises {
        // Where there are no links, programs put the files themselves there.
        if promise.is_kept_by(&snapshot.join(&promise.path)) {
            continue;
        }
        if files::is_of_weights(&promise.path) && !is_checked {
            listing.check(download)?;
            is_checked = true;
        }
        listing.fetch(promise, download)?;
    }
    for promise in &listing.promises {
        let path = snapshot.join(&promise.path);
        if !promise.is_kept_by(&path) {
            link(&path, &cache.blob(&promise.oid.name()), &snapshot).map_err(cache_error(&path))?;
        }
    }
    let sizes: Vec<(String, u64)> = listing.promises.into_iter().map(|promise| (promise.path, promise.bytes)).collect();
    let notes = cache.record(revision, &listing.commit, &sizes);
    Ok((snapshot, listing.commit, notes))
}

/// Fetches all but the weights into the cache, and puts them into an empty directory with files of the weights' names and
/// sizes that hold nothing; returns the commit and the sizes. The hub is asked only once, for whoever only wants to know
/// does not wait long.
pub(super) fn peek(download: &Download<'_>, directory: &Path) -> Result<(String, Vec<(String, u64)>), HubError> {
    let listing = Listing::ask(download, 1)?;
    for promise in listing.promises.iter().filter(|promise| !files::is_of_weights(&promise.path)) {
        listing.fetch(promise, download)?;
    }
    listing.place_without_weights(download, directory)?;
    let sizes = listing.promises.into_iter().map(|promise| (promise.path, promise.bytes)).collect();
    Ok((listing.commit, sizes))
}

/// A directory that is gone when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn below(directory: &Path) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("check-{}-{count}", std::process::id()));
        // Left by a process of the same number that was killed.
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is small, and in a cache.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a revision holds, as the hub says.
struct Listing<'run> {
    client: Client<'run>,
    question: Question<'run>,
    commit: String,
    promises: Vec<Promise>,
}

impl<'run> Listing<'run> {
    fn ask(download: &Download<'run>, attempts: u32) -> Result<Self, HubError> {
        let Download { repository, revision, on_event, .. } = *download;
        let endpoint = download.endpoint.trim_end_matches('/');
        let question = Question { endpoint, repository, revision, with_token: download.token.is_some() };
        let failed = |answer| question.failed(None, answer);
        let client = Client::new(endpoint, download.token, attempts, on_event).map_err(failed)?;
        on_event(Fetching::Hub { endpoint: endpoint.to_owned(), repository: repository.to_owned() });
        let url = |rest: [&str; 2]| client.url(["api", "models"].into_iter().chain(repository.split('/')).chain(rest));
        let (info, _) = client.ask::<Info>(&url(["revision", revision])).map_err(failed)?;
        let commit = info.sha.filter(|commit| is_commit(commit));
        let commit = commit.ok_or_else(|| failed(Answer::malformed("it names no commit")))?;
        let mut tree = url(["tree", &commit]);
        tree.set_query(Some("recursive=true"));
        let tree = client.ask_list(tree);
        let mut listing = Self { client, question, commit, promises: Vec::new() };
        let entries = match tree {
            // Mirrors may have the files alone.
            Err(Answer::Status { status: 404 | 405 | 501, .. }) if !info.siblings.is_empty() => {
                listing.entries_of(info.siblings)?
            }
            tree => tree.map_err(|answer| question.failed(Some(LIST), answer))?,
        };
        listing.choose(entries, download)?;
        Ok(listing)
    }

    /// Takes of a list what is read, weights last. Which directories are a model's is in a file of it, which is fetched.
    fn choose(&mut self, entries: Vec<Entry>, download: &Download<'_>) -> Result<(), HubError> {
        let failed = |answer| self.question.failed(None, answer);
        let listed: BTreeMap<String, Entry> =
            entries.into_iter().filter(|entry| entry.kind == "file").map(|entry| (entry.path.clone(), entry)).collect();
        let no_weights = || HubError::NoWeights { is_adapter: listed.contains_key("adapter_config.json") };
        if !listed.keys().any(|path| files::is_of_weights(path)) {
            return Err(no_weights());
        }
        let modules = match listed.get(files::MODULES) {
            Some(entry) => {
                let promise = promise(entry).map_err(failed)?;
                let kept = download.cache.snapshot(&self.commit).join(&promise.path);
                let path = if promise.is_kept_by(&kept) {
                    kept
                } else {
                    self.fetch(&promise, download)?;
                    download.cache.blob(&promise.oid.name())
                };
                files::module_directories(&path)
            }
            None => BTreeSet::new(),
        };
        let sizes = listed.iter().map(|(path, entry)| (path.clone(), entry.bytes())).collect();
        let selection = files::select_among(&sizes, |path| files::is_wanted_with(path, &modules));
        if !files::has_weights(&selection) {
            return Err(no_weights());
        }
        let chosen = selection.iter().filter_map(|(path, _)| listed.get(path));
        self.promises = chosen.map(promise).collect::<Result<_, _>>().map_err(failed)?;
        Ok(())
    }

    /// What the hub says of each file, where it gives no list that does.
    fn entries_of(&self, siblings: Vec<Sibling>) -> Result<Vec<Entry>, HubError> {
        // Nothing is asked about files that no model could have.
        let may_be_read = |name: &str| files::is_wanted(name.rsplit('/').next().unwrap_or_default());
        let entry = |Sibling { rfilename: path }: Sibling| {
            let about = self.client.ask_about(&self.url(&path));
            let about = about.map_err(|answer| self.question.failed(Some(&path), answer))?;
            let lfs = (about.digest.len() == 64).then(|| Lfs { oid: about.digest.clone(), size: about.bytes });
            Ok(Entry { kind: "file".to_owned(), path, size: about.bytes, oid: about.digest, lfs })
        };
        siblings.into_iter().filter(|sibling| may_be_read(&sibling.rfilename)).map(entry).collect()
    }

    fn url(&self, path: &str) -> Url {
        let repository = self.question.repository.split('/');
        self.client.url(repository.chain(["resolve", &self.commit]).chain(path.split('/')))
    }

    /// Brings one file into the cache.
    fn fetch(&self, promise: &Promise, download: &Download<'_>) -> Result<(), HubError> {
        let Download { cache, on_event, .. } = *download;
        let url = self.url(&promise.path);
        let (blob, lock) = (cache.blob(&promise.oid.name()), cache.lock(&promise.oid.name()));
        Fetch { client: &self.client, question: self.question, url, promise, blob, lock, on_event }.run()
    }

    /// Puts the files that are here into a directory, and in the place of weights such as hold nothing.
    fn place_without_weights(&self, download: &Download<'_>, directory: &Path) -> Result<(), HubError> {
        let snapshot = download.cache.snapshot(&self.commit);
        for promise in &self.promises {
            let path = directory.join(&promise.path);
            fs::create_dir_all(path.parent().unwrap_or(directory)).map_err(cache_error(&path))?;
            let blob = download.cache.blob(&promise.oid.name());
            let placed = if files::is_of_weights(&promise.path) {
                fs::File::create_new(&path).and_then(|file| file.set_len(promise.bytes))
            } else {
                fs::copy(if blob.is_file() { blob } else { snapshot.join(&promise.path) }, &path).map(|_| ())
            };
            placed.map_err(cache_error(&path))?;
        }
        Ok(())
    }

    /// Refuses what embedding would refuse, before its weights are fetched.
    fn check(&self, download: &Download<'_>) -> Result<(), HubError> {
        let scratch = Scratch::below(download.own_cache);
        if self.place_without_weights(download, &scratch.0).is_err() {
            // Without a place to look at them, the files are looked at when all are here.
            return Ok(());
        }
        match ModelSpec::read(&scratch.0) {
            // What stands in the weights alone cannot be known yet.
            Ok(_) | Err(SpecError::Weights { .. } | SpecError::Read { .. }) => Ok(()),
            Err(error) => {
                let what = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
                let place = format!("{}/", scratch.0.display());
                let what = format!("{error}{what}").replace(&place, "");
                Err(HubError::Unusable { what: what.replace(&scratch.0.display().to_string(), "it") })
            }
        }
    }
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.lfs.as_ref().map_or(self.size, |large| large.size)
    }
}

/// What a list promises of a file.
fn promise(entry: &Entry) -> Result<Promise, Answer> {
    let oid = match &entry.lfs {
        Some(large) => large.oid.trim_start_matches("sha256:").parse::<Digest>().ok().map(Oid::Sha256),
        None => Oid::git(&entry.oid),
    };
    let oid = oid.ok_or_else(|| Answer::malformed(format!("it gives no digest of {}", entry.path)))?;
    Ok(Promise { path: entry.path.clone(), bytes: entry.bytes(), oid })
}

/// Puts a link to a blob in its place, as the hub's libraries do: relative, so that the cache can be moved.
fn link(path: &Path, blob: &Path, snapshot: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(snapshot);
    fs::create_dir_all(directory)?;
    let depth = directory.strip_prefix(snapshot).map_or(0, |inner| inner.components().count());
    let up: PathBuf = std::iter::repeat_n("..", depth + 2).collect();
    let target = up.join("blobs").join(blob.file_name().unwrap_or_default());
    let partial = path.with_added_extension(format!("{}.partial", std::process::id()));
    // Left by a process of the same number that was killed.
    if partial.is_symlink() {
        fs::remove_file(&partial)?;
    }
    std::os::unix::fs::symlink(&target, &partial)?;
    fs::rename(&partial, path)
}
