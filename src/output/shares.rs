//! Shares beside each other, and beside outputs that are of no share: who may write where.

use std::io;
use std::path::{Path, PathBuf};

use super::open::{OpenError, read_manifest_in};
use super::place::{Place, share_of_manifest};
use super::plan::Plan;
use super::storage::{At, Storage, StorageError};
use crate::domain::Share;

/// An output is not what a share, or a run without one, may write into.
#[derive(Debug, thiserror::Error)]
pub enum SharesError {
    /// A run without shares came upon some.
    #[error("{} has {} of a job that was divided into {of} shares (do the others and run `embed-collections merge`; or pass --overwrite to throw them away, or choose another --output-dir)", directory.display(), in_words(*found))]
    NotMerged {
        /// The model's directory.
        directory: PathBuf,
        /// How many are there.
        found: usize,
        /// How many there should be.
        of: u32,
    },
    /// A share came upon an output without shares, or one whose shares are merged.
    #[error("{} is of a run without shares, or of shares that were merged; share {wanted} has no place beside it (run the command without --shard, or choose another --output-dir)", path.display())]
    Whole {
        /// The manifest.
        path: PathBuf,
        /// The share.
        wanted: Share,
    },
    /// A share came upon shares of another division.
    #[error("{} has share {found} already, so that share {wanted} has no place beside it: the number of shares of a job cannot change (give --shard N/{}, or choose another --output-dir)", directory.display(), found.of())]
    OtherNumber {
        /// The model's directory.
        directory: PathBuf,
        /// What is there.
        found: Share,
        /// What was to be written.
        wanted: Share,
    },
}

fn in_words(shares: usize) -> String {
    if shares == 1 { "a share".to_owned() } else { format!("{shares} shares") }
}

/// The shares of which there is a manifest, in order.
pub(super) fn there(storage: &dyn Storage, directory: &Path) -> Result<Vec<Share>, StorageError> {
    let names = match storage.files(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names.at("list", directory)?,
    };
    let mut shares: Vec<Share> = names.iter().filter_map(|name| share_of_manifest(name)).collect();
    shares.sort_unstable();
    Ok(shares)
}

/// Refuses an output that has shares.
pub(super) fn refuse_any(storage: &dyn Storage, place: &Place) -> Result<(), OpenError> {
    let shares = there(storage, &place.model)?;
    let Some(first) = shares.first() else { return Ok(()) };
    let (directory, found) = (place.model.clone(), shares.len());
    Err(SharesError::NotMerged { directory, found, of: first.of() }.into())
}

/// Refuses an output that this share cannot be one of. Of several other shares the first stands for all, for each was
/// held against one before it.
pub(super) fn refuse_others(storage: &dyn Storage, whole: &Place, wanted: Share, plan: &Plan) -> Result<(), OpenError> {
    if super::ledger::open_if_there(storage, &whole.manifest())?.is_some() {
        return Err(SharesError::Whole { path: whole.manifest(), wanted }.into());
    }
    let shares = there(storage, &whole.model)?;
    if let Some(found) = shares.iter().find(|share| share.of() != wanted.of()).copied() {
        return Err(SharesError::OtherNumber { directory: whole.model.clone(), found, wanted }.into());
    }
    let Some(other) = shares.into_iter().find(|share| *share != wanted) else { return Ok(()) };
    let path = whole.of_share(other).manifest();
    let differences = read_manifest_in(storage, &path)?.map(|manifest| plan.differences(&manifest)).unwrap_or_default();
    if differences.is_empty() { Ok(()) } else { Err(OpenError::Mismatch { path, differences }) }
}

/// Removes the manifests of all shares; without them their other files are stale.
pub(super) fn remove(storage: &dyn Storage, place: &Place) -> Result<(), StorageError> {
    let shares = there(storage, &place.model)?;
    for share in &shares {
        let path = place.of_share(*share).manifest();
        storage.remove(&path).at("remove", &path)?;
    }
    if shares.is_empty() { Ok(()) } else { storage.sync_directory(&place.model).at("sync", &place.model) }
}
