//! Whether committed files are what was committed, read from the first to the last byte.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;

use super::ledger;
use super::manifest::{ChunksState, CommittedShard, FileRecord, Manifest, Segment};
use super::place::Place;
use super::storage::{At, Storage, StorageError};
use crate::domain::DigestReader;

/// A committed file that is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
    /// The shard it belongs to; it and the later ones are to be redone.
    pub shard: u32,
    /// How many shards that are.
    pub redone: u32,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, fault, shard, redone } = self;
        write!(f, "{} {fault}; {redone} shards from number {shard} on are redone", path.display())
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not there.
    Missing,
    /// It has another length.
    Length {
        /// Bytes there.
        found: u64,
        /// Bytes committed.
        committed: u64,
    },
    /// It has the right length and other bytes.
    Content,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Length { found, committed } => write!(f, "has {found} bytes instead of {committed}"),
            Self::Content => f.write_str("has other content than was committed"),
        }
    }
}

/// What is wrong with a shard's files, read from the first to the last byte.
pub(super) fn check_files(
    storage: &dyn Storage,
    place: &Place,
    shard: &CommittedShard,
) -> Result<Option<Damage>, StorageError> {
    for FileRecord { name, bytes, sha256 } in &shard.files {
        let path = place.model.join(name);
        let reader = ledger::open_if_there(storage, &path)?;
        if let Some(fault) =
            compare(reader, Segment { bytes: *bytes, sha256: *sha256 }, Extent::All).at("read", &path)?
        {
            return Ok(Some(Damage { path, fault, shard: shard.number, redone: 0 }));
        }
    }
    Ok(None)
}

/// What is wrong with the committed part of a ledger in progress.
pub(super) fn check_pending_chunks(
    storage: &dyn Storage,
    place: &Place,
    manifest: &Manifest,
) -> Result<Option<Damage>, StorageError> {
    if manifest.chunks == ChunksState::Published {
        return Ok(None);
    }
    let path = place.pending_chunks();
    let mut reader = ledger::open_if_there(storage, &path)?;
    for shard in &manifest.shards {
        let segment = shard.chunks.map(|segment| compare(reader.as_mut(), segment, Extent::Prefix));
        if let Some(fault) = segment.unwrap_or(Ok(Some(Fault::Missing))).at("read", &path)? {
            return Ok(Some(Damage { path, fault, shard: shard.number, redone: 0 }));
        }
    }
    Ok(None)
}

/// How much of a file is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    All,
    Prefix,
}

fn compare(reader: Option<impl Read>, committed: Segment, extent: Extent) -> io::Result<Option<Fault>> {
    let Some(mut reader) = reader else { return Ok(Some(Fault::Missing)) };
    let (sha256, mut found) = DigestReader::drain((&mut reader).take(committed.bytes))?;
    if extent == Extent::All {
        found += io::copy(&mut reader, &mut io::sink())?;
    }
    Ok(match () {
        () if found != committed.bytes => Some(Fault::Length { found, committed: committed.bytes }),
        () if sha256 != committed.sha256 => Some(Fault::Content),
        () => None,
    })
}
