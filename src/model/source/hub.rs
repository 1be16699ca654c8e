//! The hub: asks what a revision is and holds, fetches the files that are read, and checks each.
//!
//! The library does the talking and keeps the cache. Three things it leaves open are done here: a limit on the time
//! to connect and on silence, so that nobody waits a minute to learn that there is no network; the size and digest of
//! what arrived, since it stores an error page under the name of the file that was asked for; and a choice of files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use hf_hub::progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoTypeModel};

use super::SourceEvent;
use super::files;
use super::hub_cache::{CachedRepository, is_commit};
use crate::domain::{Digest, DigestReader};

/// A reachable hub answers in a fraction of this; three attempts stay well below a minute.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// Between two pieces of an answer; three attempts stay below a minute.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
/// Between two signs of life of a download, above the limit for one answer. Covers requests that the library makes
/// with a client of its own, which has no limits.
const STALL_LIMIT: Duration = Duration::from_mins(1);
/// Attempts after the first.
const RETRIES: usize = 2;
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Why the hub did not give the model.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// There was no answer, or none that a working hub gives.
    #[error("{endpoint} could not be reached")]
    Unreachable {
        /// The hub's address.
        endpoint: String,
        /// What went wrong.
        #[source]
        source: HFError,
    },
    /// The hub fell silent in the middle of a file.
    #[error("{endpoint} sent nothing of {file} for {} s", STALL_LIMIT.as_secs())]
    Stalled {
        /// The hub's address.
        endpoint: String,
        /// The file.
        file: String,
    },
    /// The hub wants to know who asks, or knows and refuses.
    #[error("{endpoint} refuses it; the model is private, or its terms are to be accepted, or it does not exist")]
    Refused {
        /// The hub's address.
        endpoint: String,
        /// Its answer.
        #[source]
        source: HFError,
    },
    /// The hub has no such repository or revision.
    #[error("{endpoint} has no such repository or revision")]
    Absent {
        /// The hub's address.
        endpoint: String,
        /// Its answer.
        #[source]
        source: HFError,
    },
    /// The repository has no weights that can be read.
    #[error("the repository has no model.safetensors; other kinds of weights are not supported")]
    NoWeights,
    /// What arrived is not what the hub promised.
    #[error("{file} arrived broken: {found} instead of {expected}; it was deleted, try again")]
    Corrupt {
        /// The file.
        file: String,
        /// Size or digest that arrived.
        found: String,
        /// Size or digest that was promised.
        expected: String,
    },
    /// The cache cannot be written.
    #[error("cannot write the cache {}", path.display())]
    Cache {
        /// The directory or file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Anything else.
    #[error("asking {endpoint} failed")]
    Failed {
        /// The hub's address.
        endpoint: String,
        /// What went wrong.
        #[source]
        source: HFError,
    },
}

impl HubError {
    /// Whether the hub may have the model, only that it cannot be asked.
    pub(super) fn was_not_reached(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stalled { .. })
    }

    fn of(endpoint: &str, source: HFError) -> Self {
        let endpoint = endpoint.to_owned();
        match &source {
            // Also an answer that cannot be read: the page of a network that wants its own login first.
            HFError::Request { .. }
            | HFError::Xet { .. }
            | HFError::MalformedResponse { .. }
            | HFError::RateLimited { .. } => Self::Unreachable { endpoint, source },
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => Self::Refused { endpoint, source },
            HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
                Self::Absent { endpoint, source }
            }
            HFError::Http { context } => match context.status.as_u16() {
                404 | 410 => Self::Absent { endpoint, source },
                // 407 is a proxy's.
                407 | 408 | 429 | 500.. => Self::Unreachable { endpoint, source },
                _ => Self::Failed { endpoint, source },
            },
            _ => Self::Failed { endpoint, source },
        }
    }
}

/// What to fetch.
pub(super) struct Download<'run> {
    pub(super) repository: &'run str,
    pub(super) revision: &'run str,
    pub(super) endpoint: Option<&'run str>,
    pub(super) token: Option<&'run str>,
    pub(super) cache: &'run CachedRepository,
    pub(super) on_event: &'run dyn Fn(SourceEvent),
}

/// Fetches what is not in the cache yet; returns the snapshot and its commit.
pub(super) fn download(download: &Download<'_>) -> Result<(PathBuf, String), HubError> {
    let client = client(download)?;
    let endpoint = client.endpoint().to_owned();
    let failed = |source| HubError::of(&endpoint, source);
    let (owner, name) = hf_hub::split_id(download.repository);
    let repository = HFClientSync::from_inner(client).map_err(failed)?.model(owner, name);
    (download.on_event)(SourceEvent::AskingHub {
        endpoint: endpoint.clone(),
        repository: download.repository.to_owned(),
    });

    let info = repository.info().revision(download.revision).send().map_err(failed)?;
    let commit = info
        .sha
        .filter(|commit| is_commit(commit))
        .ok_or_else(|| failed(HFError::malformed_response("the answer names no commit")))?;
    let tree = repository.list_tree().revision(commit.as_str()).recursive(true).send().map_err(failed)?;
    let sizes: BTreeMap<String, u64> = tree
        .into_iter()
        .filter_map(|entry| match entry {
            RepoTreeEntry::File { path, size, .. } => Some((path, size)),
            RepoTreeEntry::Directory { .. } => None,
        })
        .collect();
    let selection = files::select(&sizes);
    if !files::has_weights(&selection) {
        return Err(HubError::NoWeights);
    }
    for (file, bytes) in &selection {
        let fetch = Fetch { repository: &repository, endpoint: &endpoint, commit: &commit, file, bytes: *bytes };
        let path = fetch.run(download.on_event)?;
        check(&path, file, *bytes)?;
    }
    let cache_error = |source| HubError::Cache { path: download.cache.directory().to_owned(), source };
    download.cache.record(download.revision, &commit, &selection).map_err(cache_error)?;
    Ok((download.cache.snapshot(&commit), commit))
}

fn client(download: &Download<'_>) -> Result<HFClient, HubError> {
    let endpoint = download.endpoint.unwrap_or("the hub");
    let failed = |source| HubError::Failed { endpoint: endpoint.to_owned(), source };
    let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    let http = reqwest::Client::builder()
        .user_agent(agent)
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(SILENCE_LIMIT)
        .build()
        .map_err(|source| failed(source.into()))?;
    let mut builder = hf_hub::HFClientBuilder::new()
        .client(http)
        .user_agent(agent)
        .cache_dir(download.cache.root())
        .retry_max_attempts(RETRIES)
        .retry_base_delay(RETRY_DELAY);
    if let Some(endpoint) = download.endpoint {
        builder = builder.endpoint(endpoint);
    }
    if let Some(token) = download.token {
        builder = builder.token(token);
    }
    builder.build().map_err(failed)
}

/// One file on its way.
struct Fetch<'run> {
    repository: &'run HFRepositorySync<RepoTypeModel>,
    endpoint: &'run str,
    commit: &'run str,
    file: &'run str,
    bytes: u64,
}

impl Fetch<'_> {
    /// Downloads on another thread, so that silence can be noticed here, where the events are told. A thread that has
    /// fallen silent is left behind: there is no way to stop it, and the run is about to end with an error.
    fn run(&self, on_event: &dyn Fn(SourceEvent)) -> Result<PathBuf, HubError> {
        let (progress, signs_of_life) = mpsc::channel();
        let (done, result) = mpsc::channel();
        let (repository, file, commit) = (self.repository.clone(), self.file.to_owned(), self.commit.to_owned());
        std::thread::spawn(move || {
            let progress = Progress::new(Forward(progress));
            let path = repository.download_file().filename(file).revision(commit).progress(progress).send();
            // Nobody listens any more once the download counts as stalled.
            let _ = done.send(path);
        });
        let mut last_sign = Instant::now();
        loop {
            match signs_of_life.recv_timeout(Duration::from_millis(100)) {
                Ok(bytes) => {
                    last_sign = Instant::now();
                    on_event(SourceEvent::Downloading { file: self.file.to_owned(), bytes, total_bytes: self.bytes });
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    match result.recv_timeout(Duration::from_millis(1)) {
                        Ok(path) => return path.map_err(|source| HubError::of(self.endpoint, source)),
                        Err(_) if last_sign.elapsed() > STALL_LIMIT => {
                            let (endpoint, file) = (self.endpoint.to_owned(), self.file.to_owned());
                            return Err(HubError::Stalled { endpoint, file });
                        }
                        Err(_) => {}
                    }
                }
            }
        }
    }
}

/// Passes the number of bytes on.
struct Forward(Sender<u64>);

impl ProgressHandler for Forward {
    fn on_progress(&self, event: &ProgressEvent) {
        let bytes = match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => files.last().map(|file| file.bytes_completed),
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, .. }) => Some(*bytes_completed),
            _ => None,
        };
        if let Some(bytes) = bytes {
            // Nobody listens any more once the download counts as stalled.
            let _ = self.0.send(bytes);
        }
    }
}

/// Compares a file with its size and, where the cache knows it, its digest; deletes it when it is another.
fn check(path: &Path, file: &str, bytes: u64) -> Result<(), HubError> {
    let cache_error = |source| HubError::Cache { path: path.to_owned(), source };
    let blob = std::fs::canonicalize(path).map_err(cache_error)?;
    let found_bytes = std::fs::metadata(&blob).map_err(cache_error)?.len();
    let difference = if found_bytes == bytes {
        // Large files are stored under their SHA-256; small ones under another kind of name.
        let promised: Option<Digest> = blob.file_name().and_then(|name| name.to_str()?.parse().ok());
        let (found, _) = File::open(&blob).and_then(DigestReader::drain).map_err(cache_error)?;
        promised.filter(|promised| *promised != found).map(|promised| (found.to_string(), promised.to_string()))
    } else {
        Some((format!("{found_bytes} bytes"), format!("{bytes} bytes")))
    };
    let Some((found, expected)) = difference else { return Ok(()) };
    for path in [path, &blob] {
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(cache_error(source)),
            _ => {}
        }
    }
    Err(HubError::Corrupt { file: file.to_owned(), found, expected })
}
