//! Where a model's directory comes from: this machine, the hub, or a Python package that contains it.
//!
//! What is on this machine and whole is used without asking anybody, so that a run gives the same vectors tomorrow and
//! an air-gapped box needs no flag. What is fetched is checked before it gets its final name, and every failure tells
//! what was tried.

mod copy;
mod error;
mod export;
mod files;
mod hub;
mod hub_cache;
mod package;
mod peek;
mod request;

use std::path::{Path, PathBuf};

pub use self::error::{Attempt, AttemptError, Meant, PackageError, SourceError};
pub use self::export::{Export, ExportError, Exported};
pub use self::hub::{Answer, HubError};
use self::hub_cache::CachedRepository;
pub use self::hub_cache::{CacheMiss, blob_digest};
pub use self::peek::{Peek, peek};
pub use self::request::{HubCache, ModelFiles, Network, PipCommand, Provenance, SourceRequest, default_pip_commands};
use super::registry::{Entry, Registry};
use crate::domain::Fetching;

/// Finds a model's directory: a directory of that name, the hub's cache, an unpacked package, the hub, and if that
/// cannot be reached a package.
///
/// # Errors
/// When the name means nothing, or the model is nowhere; the error tells what was tried.
pub fn resolve(request: &SourceRequest<'_>, on_event: &dyn Fn(Fetching)) -> Result<ModelFiles, SourceError> {
    let entry = match classify(request.name, request.home, request.registry)? {
        Named::Directory(directory) => return Ok(local(request.name, directory, request.registry)),
        Named::Registered(entry) => Some(entry),
        Named::HubId => None,
    };
    let wanted = Wanted::new(request, entry, on_event);
    let (directory, provenance, mut notes) = wanted.find()?;
    notes.extend(entry.and_then(|entry| entry.advice.clone()));
    Ok(ModelFiles { name: entry.map_or(request.name, |entry| &entry.name).to_owned(), directory, provenance, notes })
}

/// What a name means.
#[derive(Debug, PartialEq, Eq)]
enum Named<'run> {
    Directory(PathBuf),
    Registered(&'run Entry),
    HubId,
}

fn classify<'run>(name: &str, home: Option<&Path>, registry: &'run Registry) -> Result<Named<'run>, SourceError> {
    let path = match name.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = home.ok_or_else(|| SourceError::NoHome { name: name.to_owned() })?;
            home.join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(name),
    };
    if path.is_dir() {
        return Ok(Named::Directory(path));
    }
    if name.starts_with(['.', '/', '~']) || path.is_file() {
        return Err(SourceError::NotADirectory { path });
    }
    if let Some(entry) = registry.find(name) {
        return Ok(Named::Registered(entry));
    }
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    match name.split_once('/') {
        Some((owner, rest)) if is_part(owner) && is_part(rest) => Ok(Named::HubId),
        _ => {
            let meant = repository_in(name);
            Err(SourceError::UnknownName { name: name.to_owned(), similar: registry.similar(name), meant })
        }
    }
}

/// What is meant by an address of the hub, or by a revision behind an id.
fn repository_in(name: &str) -> Option<Meant> {
    let path = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://"));
    let path = path.and_then(|address| Some(address.split_once('/')?.1)).or_else(|| name.strip_prefix("hf.co/"));
    let whole = path.unwrap_or(name).split(['?', '#']).next().unwrap_or_default();
    let mut parts = whole.split('/');
    let owner = parts.next().filter(|owner| !owner.is_empty())?;
    let (name, behind) = match parts.next()?.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (whole.split('/').nth(1)?, None),
    };
    let of_address = parts.next().filter(|part| ["tree", "resolve", "blob"].contains(part)).and_then(|_| parts.next());
    let is_id = !name.is_empty() && (path.is_some() || behind.is_some());
    let revision = behind.or(of_address).filter(|revision| !revision.is_empty() && *revision != "main");
    is_id.then(|| Meant { repository: format!("{owner}/{name}"), revision: revision.map(str::to_owned) })
}

fn local(name: &str, directory: PathBuf, registry: &Registry) -> ModelFiles {
    let shadowed = registry.find(name).map(|entry| {
        format!("{name} is a directory here and is taken as such; pass {} for the model on the hub", entry.hub)
    });
    ModelFiles {
        name: name.to_owned(),
        directory,
        provenance: Provenance::Local,
        notes: shadowed.into_iter().collect(),
    }
}

/// One search for one repository.
struct Wanted<'run> {
    request: &'run SourceRequest<'run>,
    entry: Option<&'run Entry>,
    repository: &'run str,
    revision: &'run str,
    on_event: &'run dyn Fn(Fetching),
}

type Found = (PathBuf, Provenance, Vec<String>);

impl<'run> Wanted<'run> {
    fn new(request: &'run SourceRequest<'run>, entry: Option<&'run Entry>, on_event: &'run dyn Fn(Fetching)) -> Self {
        let repository = entry.map_or(request.name, |entry| &entry.hub);
        let revision = request.revision.or(entry.map(|entry| entry.revision.as_str())).unwrap_or("main");
        Self { request, entry, repository, revision, on_event }
    }

    fn cache(&self) -> CachedRepository {
        CachedRepository::new(self.request.hub_cache.directory(), self.request.own_cache, self.repository)
    }

    fn download<'a>(&'a self, cache: &'a CachedRepository) -> hub::Download<'a> {
        let SourceRequest { endpoint, token, own_cache, .. } = *self.request;
        let Self { repository, revision, on_event, .. } = *self;
        hub::Download { repository, revision, endpoint, token, cache, own_cache, on_event }
    }

    fn find(&self) -> Result<Found, SourceError> {
        let cache = self.cache();
        if let Some((directory, commit)) = cache.recorded_snapshot(self.revision) {
            return Ok((directory, self.hub_provenance(commit, true), Vec::new()));
        }
        // A copy of the registry's revision is not an answer to a question for another one.
        let asked_for_other =
            self.request.revision.is_some_and(|revision| self.entry.is_some_and(|entry| entry.revision != revision));
        let package = self.entry.and_then(|entry| entry.package.as_ref()).filter(|_| !asked_for_other);
        if let Some(package) = package
            && let Some(directory) = copy::find(self.request.own_cache, package)
        {
            return Ok((directory, package::provenance(package, true), Vec::new()));
        }

        let mut tried = Vec::new();
        let unreachable = match self.ask_hub(&cache) {
            Ok(found) => return Ok(found),
            Err(AttemptError::Hub(HubError::Unusable { what })) => {
                return Err(SourceError::Unusable { repository: self.repository.to_owned(), what });
            }
            Err(error) => {
                let unreachable = error.is_without_an_answer();
                let place = format!("the hub's repository {} at {}", self.repository, self.revision);
                tried.push(Attempt::new(place, error));
                unreachable
            }
        };
        if unreachable {
            match cache.unrecorded_snapshot(self.revision) {
                Ok((directory, commit, note)) => return Ok((directory, self.hub_provenance(commit, true), vec![note])),
                Err(error) => {
                    tried.push(Attempt::new(format!("the hub's cache {}", cache.directory().display()), error));
                }
            }
        }
        let may_fetch = unreachable && self.request.network == Network::Online;
        if let Some(package) = package.filter(|_| may_fetch) {
            let place = format!("the Python package {} {}", package.name, package.version);
            let reason = tried.first().map(ToString::to_string).unwrap_or_default();
            match package::fetch(self.request, package, &reason, self.on_event) {
                Ok(directory) => {
                    let note = format!("taken from {place}, because of {reason}");
                    return Ok((directory, package::provenance(package, false), vec![note]));
                }
                Err(error) => tried.push(Attempt::new(place, error)),
            }
        }
        Err(SourceError::unavailable(self.request, self.entry, tried))
    }

    fn ask_hub(&self, cache: &CachedRepository) -> Result<Found, AttemptError> {
        if self.request.network == Network::Offline {
            return Err(AttemptError::Offline);
        }
        let (directory, commit, notes) = hub::download(&self.download(cache))?;
        Ok((directory, self.hub_provenance(commit, false), notes))
    }

    fn hub_provenance(&self, commit: String, cached: bool) -> Provenance {
        let (repository, revision) = (self.repository.to_owned(), self.revision.to_owned());
        Provenance::Hub { repository, revision, commit, cached }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("models")).unwrap();
        let found = match classify(name, Some(home.path()), Registry::built_in()) {
            Ok(Named::Directory(path)) => {
                format!("directory {}", path.strip_prefix(home.path()).unwrap_or(&path).display())
            }
            Ok(Named::Registered(entry)) => format!("row {}", entry.name),
            Ok(Named::HubId) => "hub".to_owned(),
            Err(SourceError::NotADirectory { .. }) => "no directory".to_owned(),
            Err(SourceError::UnknownName { .. }) => "unknown".to_owned(),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn a_name_is_a_directory_a_row_or_a_repository_in_this_order() {
        check("src", "directory src");
        check("src/model", "directory src/model");
        check(".", "directory .");
        check("~/models", "directory models");
        check("~", "directory ");
        check("./nowhere", "no directory");
        check("/nowhere/at/all", "no directory");
        check("~/nowhere", "no directory");
        check("~other/x", "no directory");
        check("Cargo.toml", "no directory");
        check("ALL-minilm-l6-V2", "row all-MiniLM-L6-v2");
        check("Sentence-Transformers/all-MiniLM-L6-v2", "row all-MiniLM-L6-v2");
        check("someone/some-model_1.5", "hub");
        for name in ["", "no-such-model", "a/b/c", "a/", "/", "a/..", "a b/c", "a/b?c"] {
            check(name, if name == "/" { "directory /" } else { "unknown" });
        }
    }

    #[test]
    fn an_address_and_a_revision_tell_which_repository_is_meant() {
        for (name, expected) in [
            ("https://huggingface.co/owner/tiny", "pass owner/tiny"),
            ("https://huggingface.co/owner/tiny/tree/main?x=y", "pass owner/tiny"),
            ("hf.co/owner/tiny", "pass owner/tiny"),
            ("http://mirror:80/owner/tiny/tree/v1.0", "owner/tiny; `embed-collections models pull owner/tiny` prints"),
            ("owner/tiny@v1.0", "revision = \"v1.0\""),
            ("owner/tiny@", "pass owner/tiny"),
        ] {
            let message = classify(name, None, Registry::built_in()).unwrap_err().to_string();
            assert!(message.contains(expected), "{name}: {message}");
        }
        for name in ["https://huggingface.co", "a@b", "a/b/c", "a/b?c"] {
            let message = classify(name, None, Registry::built_in()).unwrap_err().to_string();
            assert!(!message.contains("pass ") && !message.contains("revision"), "{name}: {message}");
        }
    }

    #[test]
    fn a_home_that_is_not_known_is_an_error() {
        assert!(matches!(classify("~/x", None, Registry::built_in()), Err(SourceError::NoHome { .. })));
    }
}
