//! What a model is, before its weights are fetched.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Attempt, AttemptError, SourceError};
use super::hub::HubError;
use super::request::{Network, Provenance, SourceRequest};
use super::{Named, Wanted, classify};
use crate::domain::Fetching;

/// A model whose small files are here and whose weights are not. Its directory is gone when this is dropped.
#[derive(Debug)]
pub struct Peek {
    /// What is removed.
    root: PathBuf,
    directory: PathBuf,
    /// The registry's name or the hub id.
    pub name: String,
    /// What it is on the hub.
    pub provenance: Provenance,
    /// What embedding would fetch: paths and sizes in bytes.
    pub sizes: Vec<(String, u64)>,
}

impl Peek {
    /// The model's directory, but the files of the weights hold nothing.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Peek {
    fn drop(&mut self) {
        // It is small, and in a cache.
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Asks the hub what a model is; small files stay in its cache.
///
/// # Errors
/// When the name is not that of a model on the hub, or the hub does not tell.
pub fn peek(request: &SourceRequest<'_>, on_event: &dyn Fn(Fetching)) -> Result<Peek, SourceError> {
    let entry = match classify(request.name, request.home, request.registry)? {
        Named::Directory(path) => return Err(SourceError::NotADirectory { path }),
        Named::Registered(entry) => Some(entry),
        Named::HubId => None,
    };
    let wanted = Wanted::new(request, entry, on_event);
    let place = || format!("the hub's repository {} at {}", wanted.repository, wanted.revision);
    if request.network == Network::Offline {
        let tried = vec![Attempt::new(place(), AttemptError::Offline)];
        return Err(SourceError::unavailable(request, entry, tried));
    }
    let cache = wanted.cache();
    let root = request.own_cache.join(format!("peek-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    // As in the hub's cache: what a model is may be in its name.
    let folder = cache.directory().file_name().unwrap_or_default();
    let mut peek = Peek {
        directory: root.join(folder).join("snapshots").join(wanted.revision.replace('/', "-")),
        root,
        name: entry.map_or(request.name, |entry| &entry.name).to_owned(),
        provenance: Provenance::Local,
        sizes: Vec::new(),
    };
    let failed = |error: HubError| SourceError::unavailable(request, entry, vec![Attempt::new(place(), error)]);
    let (commit, sizes) = super::hub::peek(&wanted.download(&cache), &peek.directory).map_err(failed)?;
    (peek.provenance, peek.sizes) = (wanted.hub_provenance(commit, false), sizes);
    Ok(peek)
}
