//! `chunks.jsonl`: what was read, once per collection, whatever the number of models.
//!
//! Each model collects its rows in a pending file of its own, so that models may work at the same time and none waits
//! for another. The first to finish publishes its file; the others see that the input is the same and drop theirs.
//! `chunks.manifest.json` is replaced just before `chunks.jsonl` and holds its digest: a pair that does not agree is
//! the trace of a crash between the two, and counts as no ledger at all.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::input::InputChain;
use super::manifest::{ChunksState, FileRecord, Manifest, SCHEMA_VERSION};
use super::place::{CHUNKS_FILE, Place};
use super::storage::{At, FillError, Storage, StorageError, write_complete};
use crate::domain::{ChunkId, Digest, DigestReader, RawJson, RowRecord, RowStatus, Shard};

/// What `chunks.jsonl` holds, and whose tokens and statuses it tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunksManifest {
    /// Layout version.
    pub schema_version: u32,
    /// The model whose tokens and statuses are in the ledger.
    pub model: String,
    /// Its vector space.
    pub vector_space: String,
    /// Rows of the ledger.
    pub rows: u64,
    /// The ledger's name, length and digest.
    pub file: FileRecord,
    /// States of the input chain at the ends of the writer's shards, in order.
    pub checkpoints: Vec<Checkpoint>,
}

/// State of the input chain after so many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Rows taken in.
    pub rows: u64,
    /// State of the chain.
    pub input_chain: Digest,
}

impl ChunksManifest {
    /// Whether the state of a chain after so many rows contradicts this ledger. Between two checkpoints nothing is
    /// known, and nothing contradicts.
    pub fn contradicts(&self, found: Checkpoint) -> bool {
        let known = self.checkpoints.binary_search_by_key(&found.rows, |checkpoint| checkpoint.rows);
        found.rows > self.rows || known.is_ok_and(|known| self.checkpoints[known] != found)
    }

    /// Whether the ledger is about exactly the input of a model whose rows are all committed.
    pub fn is_of(&self, manifest: &Manifest) -> bool {
        let last = self.checkpoints.last().map(|last| last.input_chain);
        match manifest.share {
            None => self.rows == manifest.totals.rows && last == manifest.shards.last().map(|last| last.input_chain),
            // A share knows where the whole input ended, though the last row may be another's.
            Some(share) => {
                manifest.input.is_some_and(|input| input.rows == self.rows)
                    && share.input_chain == Some(last.unwrap_or(InputChain::new().state()))
            }
        }
    }

    fn of(manifest: &Manifest, bytes: u64, sha256: Digest) -> Self {
        let checkpoint =
            |shard: &super::CommittedShard| Checkpoint { rows: shard.end_row(), input_chain: shard.input_chain };
        Self {
            schema_version: SCHEMA_VERSION,
            model: manifest.model.clone(),
            vector_space: manifest.vector_space.clone(),
            rows: manifest.totals.rows,
            file: FileRecord { name: CHUNKS_FILE.to_owned(), bytes, sha256 },
            checkpoints: manifest.shards.iter().map(checkpoint).collect(),
        }
    }
}

/// A row could not be put into the ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerRowError {
    /// The ledger could not be written.
    #[error("cannot write the ledger")]
    Write(#[from] io::Error),
    /// The row could not be put into JSON.
    #[error("cannot write row {id:?} as json")]
    Json {
        /// The row.
        id: ChunkId,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Writes the ledger's rows of a shard. Metadata is put in as it is, digit for digit.
pub(super) fn write_rows(shard: &Shard, out: &mut dyn Write) -> Result<(), LedgerRowError> {
    for (row, record, _) in shard.rows() {
        write_row(row.0, record, out).map_err(|source| LedgerRowError::Json { id: record.id.clone(), source })?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn write_row(row: u64, record: &RowRecord, out: &mut dyn Write) -> serde_json::Result<()> {
    #[derive(Serialize)]
    struct LedgerRow<'a> {
        id: &'a str,
        row: u64,
        source: LedgerSource<'a>,
        text_sha256: Option<Digest>,
        tokens: u32,
        tokens_truncated: u32,
        status: RowStatus,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
        metadata: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        extra: Option<&'a RawValue>,
    }
    #[derive(Serialize)]
    struct LedgerSource<'a> {
        file: &'a str,
        index: u64,
    }

    let raw = |json: &'_ Option<RawJson>| -> serde_json::Result<_> {
        json.as_ref().map(|json| serde_json::from_str::<Box<RawValue>>(json.as_str())).transpose()
    };
    let (metadata, extra) = (raw(&record.metadata)?, raw(&record.extra)?);
    let ledger_row = LedgerRow {
        id: record.id.as_str(),
        row,
        source: LedgerSource { file: &record.source.file, index: record.source.index },
        text_sha256: record.text_sha256,
        tokens: record.tokens,
        tokens_truncated: record.tokens_truncated,
        status: record.status,
        error: record.error.as_deref(),
        metadata: metadata.as_deref(),
        extra: extra.as_deref(),
    };
    serde_json::to_writer(out, &ledger_row)
}

/// What becomes of a model's pending ledger when its rows are complete.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// It becomes the ledger.
    Publish,
    /// The published ledger says the same of the input.
    Keep,
    /// The published ledger, written by this model, is about another input.
    Refuse { model: String },
    /// The model has no pending ledger, and the published one is gone.
    Lost,
}

/// Decides what becomes of the ledger of a model whose rows are all committed.
pub(super) fn settle(manifest: &Manifest, published: Option<&ChunksManifest>) -> Settlement {
    let pending = manifest.chunks != ChunksState::Published;
    match published {
        None if pending => Settlement::Publish,
        None => Settlement::Lost,
        // Overwriting, but the ledger is a model's that was overwritten just before, or that was left as it is.
        Some(ledger) if ledger.is_of(manifest) && ledger.model != manifest.model => Settlement::Keep,
        Some(_) if manifest.chunks == ChunksState::Replacing => Settlement::Publish,
        Some(ledger) if ledger.is_of(manifest) => Settlement::Keep,
        Some(ledger) => Settlement::Refuse { model: ledger.model.clone() },
    }
}

/// Held while a ledger is read or replaced: two models of one run must not meet between its two files.
static LEDGER: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The complete ledger of a collection, if there is one and it is intact.
pub(super) fn published(storage: &dyn Storage, place: &Place) -> Result<Option<ChunksManifest>, StorageError> {
    let _alone = alone();
    read_published(storage, place)
}

/// Settles the ledger of a model whose rows are all committed.
pub(super) fn publish(storage: &dyn Storage, place: &Place, manifest: &Manifest) -> Result<Settlement, StorageError> {
    let _alone = alone();
    let settlement = settle(manifest, read_published(storage, place)?.as_ref());
    if settlement != Settlement::Publish {
        return Ok(settlement);
    }
    let (pending, complete) = (place.pending_chunks(), place.chunks());
    // Whatever was not committed goes; a collection without rows gets its empty file here.
    let mut file = storage.continue_at(&pending, manifest.chunks_bytes()).at("open", &pending)?;
    file.sync().at("sync", &pending)?;
    let (sha256, bytes) = DigestReader::drain(storage.read(&pending).at("open", &pending)?).at("read", &pending)?;
    let manifest = ChunksManifest::of(manifest, bytes, sha256);
    write_json(storage, &place.pending_chunks_manifest(), &place.chunks_manifest(), &manifest)?;
    // Durable before the ledger is: the other way round a loss of power could leave a ledger that nothing vouches for.
    storage.sync_directory(&place.collection).at("sync", &place.collection)?;
    storage.rename(&pending, &complete).at("rename to its final name", &complete)?;
    storage.sync_directory(&place.collection).at("sync", &place.collection)?;
    Ok(Settlement::Publish)
}

fn read_published(storage: &dyn Storage, place: &Place) -> Result<Option<ChunksManifest>, StorageError> {
    let Some(mut reader) = open_if_there(storage, &place.chunks_manifest())? else { return Ok(None) };
    let mut json = Vec::new();
    reader.read_to_end(&mut json).at("read", &place.chunks_manifest())?;
    let Ok(manifest) = serde_json::from_slice::<ChunksManifest>(&json) else { return Ok(None) };
    let Some(ledger) = open_if_there(storage, &place.chunks())? else { return Ok(None) };
    let (sha256, bytes) = DigestReader::drain(ledger).at("read", &place.chunks())?;
    let intact =
        manifest.schema_version == SCHEMA_VERSION && (manifest.file.sha256, manifest.file.bytes) == (sha256, bytes);
    Ok(intact.then_some(manifest))
}

/// Opens a file for reading, if it is there.
pub(super) fn open_if_there(
    storage: &dyn Storage,
    path: &Path,
) -> Result<Option<Box<dyn io::Read + Send>>, StorageError> {
    match storage.read(path) {
        Ok(reader) => Ok(Some(reader)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("open", path),
    }
}

/// Writes a file of JSON for people; it is complete once it has its name.
pub(super) fn write_json(
    storage: &dyn Storage,
    partial: &Path,
    path: &Path,
    value: &impl Serialize,
) -> Result<(), StorageError> {
    let written = write_complete(storage, partial, path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    });
    match written {
        Ok(_) => Ok(()),
        Err(FillError::Storage(error)) => Err(error),
        Err(FillError::Content(error)) => Err(error).at("write", path),
    }
}
