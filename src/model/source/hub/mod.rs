//! The hub: asks what a revision is and holds, fetches the files that are read, and checks each.
//!
//! Three kinds of question, over HTTP: what commit a revision is, which files it has with their sizes and digests, and
//! the files. They go into the cache that all libraries of the hub share, in its layout and under its locks. A file is
//! linked into the snapshot when all of them are here, the weights last, so that no part of a model looks like one.

mod blob;
mod client;
mod error;
mod patience;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::blob::{Fetch, Oid, Promise, cache_error};
pub use self::client::Answer;
use self::client::Client;
pub use self::error::HubError;
use self::error::Question;
use self::patience::TO_ASK;
use super::files;
use super::hub_cache::{CachedRepository, is_commit};
use crate::domain::{Digest, Fetching};

/// What to fetch.
pub(super) struct Download<'run> {
    pub(super) repository: &'run str,
    pub(super) revision: &'run str,
    pub(super) endpoint: &'run str,
    pub(super) token: Option<&'run str>,
    pub(super) cache: &'run CachedRepository,
    pub(super) on_event: &'run dyn Fn(Fetching),
}

/// What the hub says of a revision, as far as it is read.
#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
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
    oid: String,
    size: u64,
}

/// Fetches what is not in the cache yet; returns the snapshot and its commit.
pub(super) fn download(download: &Download<'_>) -> Result<(PathBuf, String), HubError> {
    let Download { revision, cache, .. } = *download;
    let listing = Listing::ask(download, TO_ASK)?;
    let snapshot = cache.snapshot(&listing.commit);
    for promise in &listing.promises {
        // Where there are no links, programs put the files themselves there.
        if !promise.is_kept_by(&snapshot.join(&promise.path)) {
            listing.fetch(promise, download)?;
        }
    }
    for promise in &listing.promises {
        let path = snapshot.join(&promise.path);
        if !promise.is_kept_by(&path) {
            link(&path, &cache.blob(&promise.oid.name()), &snapshot).map_err(cache_error(&path))?;
        }
    }
    let sizes: Vec<(String, u64)> = listing.promises.into_iter().map(|promise| (promise.path, promise.bytes)).collect();
    cache.record(revision, &listing.commit, &sizes).map_err(cache_error(cache.directory()))?;
    Ok((snapshot, listing.commit))
}

/// Fetches all but the weights into the cache, and puts them into an empty directory with files of the weights' names and
/// sizes that hold nothing; returns the commit and the sizes. The hub is asked only once, for whoever only wants to know
/// does not wait long.
pub(super) fn peek(download: &Download<'_>, directory: &Path) -> Result<(String, Vec<(String, u64)>), HubError> {
    let listing = Listing::ask(download, 1)?;
    for promise in &listing.promises {
        let path = directory.join(&promise.path);
        fs::create_dir_all(path.parent().unwrap_or(directory)).map_err(cache_error(&path))?;
        let placed = if files::is_of_weights(&promise.path) {
            fs::File::create_new(&path).and_then(|file| file.set_len(promise.bytes))
        } else {
            listing.fetch(promise, download)?;
            fs::copy(download.cache.blob(&promise.oid.name()), &path).map(|_| ())
        };
        placed.map_err(cache_error(&path))?;
    }
    let sizes = listing.promises.into_iter().map(|promise| (promise.path, promise.bytes)).collect();
    Ok((listing.commit, sizes))
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
        let client = Client::new(endpoint, download.token, attempts, on_event)
            .map_err(|source| HubError::Failed { endpoint: endpoint.to_owned(), source: Box::new(source) })?;
        on_event(Fetching::Hub { endpoint: endpoint.to_owned(), repository: repository.to_owned() });
        let url = |rest: [&str; 2]| client.url(["api", "models"].into_iter().chain(repository.split('/')).chain(rest));
        let (info, _) = client.ask::<Info>(&url(["revision", revision])).map_err(failed)?;
        let commit = info.sha.filter(|commit| is_commit(commit));
        let commit = commit.ok_or_else(|| failed(Answer::malformed("it names no commit")))?;
        let mut tree = url(["tree", &commit]);
        tree.set_query(Some("recursive=true"));
        let promises = promises(client.ask_list(tree).map_err(failed)?).map_err(failed)?;
        if promises.is_empty() {
            return Err(HubError::NoWeights);
        }
        Ok(Self { client, question, commit, promises })
    }

    /// Brings one file into the cache.
    fn fetch(&self, promise: &Promise, download: &Download<'_>) -> Result<(), HubError> {
        let Download { repository, cache, on_event, .. } = *download;
        let segments = repository.split('/').chain(["resolve", &self.commit]).chain(promise.path.split('/'));
        let url = self.client.url(segments);
        let (blob, lock) = (cache.blob(&promise.oid.name()), cache.lock(&promise.oid.name()));
        Fetch { client: &self.client, question: self.question, url, promise, blob, lock, on_event }.run()
    }
}

/// The files that are read, weights last; none if there are no weights among them.
fn promises(entries: Vec<Entry>) -> Result<Vec<Promise>, Answer> {
    let listed: std::collections::BTreeMap<String, Entry> =
        entries.into_iter().filter(|entry| entry.kind == "file").map(|entry| (entry.path.clone(), entry)).collect();
    let bytes = |entry: &Entry| entry.lfs.as_ref().map_or(entry.size, |large| large.size);
    let selection = files::select(&listed.iter().map(|(path, entry)| (path.clone(), bytes(entry))).collect());
    if !files::has_weights(&selection) {
        return Ok(Vec::new());
    }
    let promise = |(path, bytes): (String, u64)| {
        let oid = listed.get(&path).and_then(|entry| match &entry.lfs {
            Some(large) => large.oid.trim_start_matches("sha256:").parse::<Digest>().ok().map(Oid::Sha256),
            None => Oid::git(&entry.oid),
        });
        let oid = oid.ok_or_else(|| Answer::malformed(format!("it gives no digest of {path}")))?;
        Ok(Promise { path, bytes, oid })
    };
    selection.into_iter().map(promise).collect()
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
