//! Makes one output of the shares that several machines wrote: the parts stay where they are, ledger and manifest become
//! those of a single run, byte for byte.
//!
//! First everything is read and checked, and nothing is written if anything is missing or wrong. Then, for one model
//! after the other, the ledger is put together and published, the manifest written, and the files of the shares removed.
//! Each of these steps can be the last one before a crash: merging again goes on from there.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use super::damage::{check_files, check_pending_chunks};
use super::ledger::{self, ChunksManifest};
use super::lock::{LockError, OutputLock};
use super::manifest::{ChunksState, CommittedShard, Manifest, Segment};
use super::open::{OpenError, read_manifest_in};
use super::place::Place;
use super::shares;
use super::storage::{At, Disk, FillError, Storage, StorageError, fill_file};
use super::survey::output_directories;
use super::writer::{CollectionWriter, CommitError};
use crate::domain::{CollectionName, Share};

/// An output that was made of shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// The collection.
    pub collection: CollectionName,
    /// The model.
    pub model: String,
    /// How many shares there were.
    pub shares: u32,
    /// Parts of the output.
    pub parts: usize,
    /// Rows of the output.
    pub rows: u64,
}

/// What is in the way of merging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// `<collection>/<model>`.
    pub output: String,
    /// The share that is to be done, or done again.
    pub share: Share,
    /// What is wrong with it.
    pub fault: ShareFault,
}

/// What is wrong with a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareFault {
    /// Nothing is there.
    Missing,
    /// Parts are missing.
    Unfinished,
    /// A file is not as it was committed, in words.
    Damaged(String),
    /// It does not go with the first share, in words.
    Differs(String),
}

impl fmt::Display for ShareFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Unfinished => f.write_str("not complete"),
            Self::Damaged(what) => write!(f, "damaged: {what}"),
            Self::Differs(what) => write!(f, "of another job: {what}"),
        }
    }
}

/// Shares could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// There are none.
    #[error("{} has no shares that could be merged (they are written with --shard)", directory.display())]
    NoShares {
        /// The output directory.
        directory: PathBuf,
    },
    /// Not all are as they should be.
    #[error("nothing is merged yet: {}", in_words(.0))]
    Obstacles(Vec<Obstacle>),
    /// The directory is not to be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is an output without shares, or of another division.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There are a finished output and shares that it was not made of.
    #[error("{} is not made of the shares beside it (choose another --output-dir for them)", path.display())]
    OtherOutput {
        /// The manifest.
        path: PathBuf,
    },
    /// The ledger is about another input.
    #[error("{} tells of another input than the shares in {} (move them to another directory)", ledger.display(), directory.display())]
    InputDiffers {
        /// The ledger.
        ledger: PathBuf,
        /// The model's directory.
        directory: PathBuf,
    },
    /// The output could not be finished.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Every share once, with all that is wrong with it and what to do.
fn in_words(obstacles: &[Obstacle]) -> String {
    let mut by_share: BTreeMap<Share, BTreeMap<String, Vec<&str>>> = BTreeMap::new();
    for Obstacle { output, share, fault } in obstacles {
        by_share.entry(*share).or_default().entry(fault.to_string()).or_default().push(output);
    }
    let fault = |(fault, outputs): (&String, &Vec<&str>)| format!("{fault} ({})", outputs.join(", "));
    let share = |(share, faults): (&Share, &BTreeMap<String, Vec<&str>>)| {
        format!("share {share} is {}", faults.iter().map(fault).collect::<Vec<_>>().join(" and "))
    };
    let again: Vec<String> = by_share.keys().map(|share| format!("--shard {share}")).collect();
    let shares: Vec<String> = by_share.iter().map(share).collect();
    let differ = obstacles.iter().any(|obstacle| matches!(obstacle.fault, ShareFault::Differs(_)));
    let way_out = if differ {
        "shares of one job have one input, model and settings; do them anew in another --output-dir".to_owned()
    } else {
        format!("run the same command again with {}, and merge then", again.join(" and with "))
    };
    format!("{}; {way_out}", shares.join("; "))
}

impl MergeError {
    /// Whether nothing is wrong but that shares are still to be done.
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::Obstacles(obstacles)
            if obstacles.iter().all(|it| matches!(it.fault, ShareFault::Missing | ShareFault::Unfinished)))
    }
}

/// Merges all shares below an output directory; tells of each output that is done.
///
/// # Errors
/// When shares are missing, not complete, damaged or do not belong together; nothing is changed then. When files cannot
/// be written; merging again goes on.
pub fn merge(output_dir: &Path) -> Result<Vec<Merged>, MergeError> {
    let no_shares = || MergeError::NoShares { directory: output_dir.to_owned() };
    if !output_dir.is_dir() {
        return Err(no_shares());
    }
    let lock = OutputLock::acquire(output_dir)?;
    let directories = output_directories(output_dir).at("list", output_dir)?;
    let merged = merge_in(&(Arc::new(Disk) as Arc<dyn Storage>), output_dir, &directories)?;
    if merged.is_empty() {
        return Err(no_shares());
    }
    lock.release_without_share_locks(output_dir);
    Ok(merged)
}

/// An output whose shares are all there, or are merged but for their files.
struct Candidate {
    collection: CollectionName,
    place: Place,
    shares: Vec<Manifest>,
    /// The manifest of the whole, if an earlier try got so far.
    whole: Option<Manifest>,
}

pub(super) fn merge_in(
    storage: &Arc<dyn Storage>,
    output_dir: &Path,
    directories: &[(CollectionName, String)],
) -> Result<Vec<Merged>, MergeError> {
    let (mut candidates, mut obstacles) = (Vec::new(), Vec::new());
    for (collection, directory) in directories {
        let place = Place::of_directory(output_dir, collection, directory);
        let found = shares::there(&**storage, &place.model)?;
        if !found.is_empty() {
            let (candidate, in_the_way) = Candidate::read(&**storage, collection, place, &found)?;
            candidates.push(candidate);
            obstacles.extend(in_the_way);
        }
    }
    if !obstacles.is_empty() {
        return Err(MergeError::Obstacles(obstacles));
    }
    for candidate in &candidates {
        candidate.check_ledger(&**storage)?;
    }
    // The ledger is that of the first model of an ensemble, as after a single run.
    let order = |candidate: &Candidate| {
        let place = candidate.shares.first().and_then(|share| share.share).map(|record| record.model_place);
        (candidate.collection.clone(), place, candidate.place.model.clone())
    };
    candidates.sort_by_key(order);
    candidates.into_iter().map(|candidate| candidate.merge(storage)).collect()
}

impl Candidate {
    /// Reads and checks all shares of an output.
    fn read(
        storage: &dyn Storage,
        collection: &CollectionName,
        place: Place,
        found: &[Share],
    ) -> Result<(Self, Vec<Obstacle>), MergeError> {
        let whole = read_manifest_in(storage, &place.manifest())?;
        let of = found.iter().map(|share| share.of()).max().unwrap_or(0);
        if let Some(other) = found.iter().find(|share| share.of() != of) {
            let wanted = found.iter().find(|share| share.of() == of).copied().unwrap_or(*other);
            let directory = place.model.clone();
            return Err(OpenError::from(shares::SharesError::OtherNumber { directory, found: *other, wanted }).into());
        }
        let mut candidate = Self { collection: collection.clone(), place, shares: Vec::new(), whole };
        let mut obstacles = Vec::new();
        for share in Share::all(of) {
            let place = candidate.place.of_share(share);
            let manifest = read_manifest_in(storage, &place.manifest())?;
            let fault = match &manifest {
                None if candidate.whole.is_some() => None,
                None => Some(ShareFault::Missing),
                Some(manifest) => candidate.fault_of(storage, &place, manifest)?,
            };
            candidate.shares.extend(manifest);
            obstacles.extend(fault.map(|fault| Obstacle { output: candidate.name(), share, fault }));
        }
        if let Some(whole) = &candidate.whole {
            let is_of_it = |shard: &CommittedShard| {
                let own = whole.shards.get(shard.number as usize);
                own.is_some_and(|own| (own.input_chain, &own.files) == (shard.input_chain, &shard.files))
            };
            if !whole.complete || !candidate.shares.iter().flat_map(|share| &share.shards).all(is_of_it) {
                return Err(MergeError::OtherOutput { path: candidate.place.manifest() });
            }
        }
        Ok((candidate, obstacles))
    }

    /// What is wrong with a share, beside those before it.
    fn fault_of(
        &self,
        storage: &dyn Storage,
        place: &Place,
        manifest: &Manifest,
    ) -> Result<Option<ShareFault>, MergeError> {
        if self.whole.is_some() {
            return Ok(None);
        }
        if let Some(difference) = self.shares.first().and_then(|first| difference(first, manifest)) {
            return Ok(Some(ShareFault::Differs(difference)));
        }
        if !manifest.complete {
            return Ok(Some(ShareFault::Unfinished));
        }
        let in_files =
            manifest.shards.par_iter().find_map_first(|shard| check_files(storage, place, shard).transpose());
        let damage = match in_files.transpose()? {
            Some(damage) => Some(damage),
            None => check_pending_chunks(storage, place, manifest)?,
        };
        Ok(damage.map(|damage| ShareFault::Damaged(format!("{} {}", damage.path.display(), damage.fault))))
    }

    fn name(&self) -> String {
        let directory = self.place.model.file_name().unwrap_or_default().to_string_lossy();
        format!("{}/{directory}", self.collection)
    }

    /// Whether the ledger that is published, if one is, tells of the shares' input; and there is one or can be.
    fn check_ledger(&self, storage: &dyn Storage) -> Result<(), MergeError> {
        if self.whole.is_some() {
            return Ok(());
        }
        let is_pending = |share: &Manifest| share.chunks == ChunksState::Pending;
        match ledger::published(storage, &self.place)? {
            None if self.shares.iter().all(is_pending) => Ok(()),
            None => Err(CommitError::LedgerLost { path: self.place.chunks() }.into()),
            Some(ledger) if self.shares.iter().all(|share| ledger.is_of(share)) => Ok(()),
            Some(_) => {
                Err(MergeError::InputDiffers { ledger: self.place.chunks(), directory: self.place.model.clone() })
            }
        }
    }

    fn merge(self, storage: &Arc<dyn Storage>) -> Result<Merged, MergeError> {
        let of = self.shares.iter().filter_map(|share| share.share).map(|record| record.share.of()).max();
        let storage_of = Arc::clone(storage);
        let published = ledger::published(&**storage, &self.place)?;
        let manifest = match self.whole {
            Some(whole) => {
                CollectionWriter::new(storage_of, self.place, whole.clone(), published).remove_stale()?;
                whole
            }
            None => self.finish(storage, published)?,
        };
        Ok(Merged {
            collection: self.collection,
            model: manifest.model,
            shares: of.unwrap_or(0),
            parts: manifest.shards.len(),
            rows: manifest.totals.rows,
        })
    }

    fn finish(&self, storage: &Arc<dyn Storage>, published: Option<ChunksManifest>) -> Result<Manifest, MergeError> {
        let mut parts: Vec<Part<'_>> = self.shares.iter().flat_map(|share| parts(&self.place, share)).collect();
        parts.sort_unstable_by_key(|part| part.shard.number);
        let Some(first) = self.shares.first() else {
            return Err(MergeError::NoShares { directory: self.place.model.clone() });
        };
        let mut manifest = Manifest { share: None, complete: false, input: None, ..first.clone() };
        manifest.cut(0);
        for part in &parts {
            manifest.push(part.shard.clone());
        }
        if published.is_some() {
            manifest.chunks = ChunksState::Published;
        } else {
            put_together(&**storage, &self.place.pending_chunks(), &parts)?;
        }
        let totals = first.input.unwrap_or_default();
        let writer = CollectionWriter::new(Arc::clone(storage), self.place.clone(), manifest, published);
        Ok(writer.finish(totals)?)
    }
}

/// In what a share differs from the first one.
pub(super) fn difference(first: &Manifest, other: &Manifest) -> Option<String> {
    let settings = [
        ("model", first.model == other.model),
        ("vector_space", first.vector_space == other.vector_space),
        ("emit", first.widths() == other.widths()),
        ("shard_rows", first.shard_rows == other.shard_rows),
        ("formats", first.formats == other.formats),
    ];
    if let Some((key, _)) = settings.iter().find(|(_, same)| !same) {
        return Some(format!("it has another {key} than the first share"));
    }
    let end = |manifest: &Manifest| (manifest.input, manifest.share.and_then(|record| record.input_chain));
    let differs = first.complete && other.complete && end(first) != end(other);
    differs.then(|| "it was made of another input than the first share".to_owned())
}

/// A part of a share, and where its part of the ledger lies.
struct Part<'a> {
    shard: &'a CommittedShard,
    ledger: PathBuf,
    start: u64,
}

fn parts<'a>(whole: &Place, share: &'a Manifest) -> Vec<Part<'a>> {
    let Some(record) = share.share else { return Vec::new() };
    let ledger = whole.of_share(record.share).pending_chunks();
    let part = |start: &mut u64, shard: &'a CommittedShard| {
        let part = Part { shard, ledger: ledger.clone(), start: *start };
        *start += shard.chunks.map_or(0, |segment| segment.bytes);
        Some(part)
    };
    share.shards.iter().scan(0, part).collect()
}

/// Writes the ledger of the whole, still in progress, out of those of the shares.
fn put_together(storage: &dyn Storage, path: &Path, parts: &[Part<'_>]) -> Result<(), StorageError> {
    let file = storage.continue_at(path, 0).at("open", path)?;
    let filled = fill_file(file, path, |out| {
        for Part { shard, ledger, start } in parts {
            let Segment { bytes, .. } = shard.chunks.ok_or_else(|| StorageError::short(ledger))?;
            let mut reader = storage.read_from(ledger, *start).at("open", ledger)?.take(bytes);
            if io::copy(&mut reader, out).at("copy", ledger)? != bytes {
                return Err(StorageError::short(ledger));
            }
        }
        Ok(())
    });
    match filled {
        Ok(_) => Ok(()),
        Err(FillError::Storage(error) | FillError::Content(error)) => Err(error),
    }
}
