//! `manifest.json`: what of a model's output is complete.
//!
//! It is replaced atomically after the files it lists, so whatever it says is there. It holds no time, host or run, so
//! that an interrupted and an uninterrupted run end with the same bytes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::format::Format;
use super::input::{InputChain, InputRow, input_digest};
use crate::domain::{Digest, RowStatus, Shard, Widths};

/// Version of the manifest's and the shards' layout; raised when an older reader would misread a newer output.
pub const SCHEMA_VERSION: u32 = 1;

/// Name of the manifest in a model's directory.
pub const MANIFEST_FILE: &str = "manifest.json";

/// What made the vectors, in words for people and for comparison: dtype, revision, pooling, prompt and the like.
/// `vector_space` alone decides whether vectors may be mixed; this explains a difference.
pub type Provenance = serde_json::Map<String, serde_json::Value>;

/// State of one model's output for one collection. Unknown keys are ignored on reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout version.
    pub schema_version: u32,
    /// Name of the collection.
    pub collection: String,
    /// The model as it was asked for.
    pub model: String,
    /// Hexadecimal hash over everything that shapes the vectors.
    pub vector_space: String,
    /// Length of a dense vector; 0 where there are none.
    pub dimension: usize,
    /// Size of the vocabulary of sparse vectors; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparse_dimension: Option<usize>,
    /// Length of each vector of a token; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_dimension: Option<usize>,
    /// The formats that each shard is written in.
    pub formats: Vec<Format>,
    /// Rows of every shard but the last, which may have fewer.
    pub shard_rows: u32,
    /// Whether every row of the collection is here.
    pub complete: bool,
    /// What the shards hold together.
    #[serde(flatten)]
    pub totals: Totals,
    /// What was read; known when complete.
    pub input: Option<CollectionTotals>,
    /// What made the vectors.
    pub provenance: Provenance,
    /// Where the model's rows of the ledger are.
    pub chunks: ChunksState,
    /// The committed shards, in order.
    pub shards: Vec<CommittedShard>,
}

/// Sums over rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Rows of any status.
    pub rows: u64,
    /// Rows by status.
    pub counts: Counts,
    /// Tokens that the model saw.
    pub tokens: u64,
    /// Tokens that were cut off.
    pub tokens_truncated: u64,
}

/// Rows by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Embedded whole.
    pub ok: u64,
    /// Embedded without their end.
    pub truncated: u64,
    /// Without text.
    pub empty: u64,
    /// Not embedded.
    pub failed: u64,
}

/// What was read of a collection, as the caller counted it; checked against what was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionTotals {
    /// Source files.
    pub files: u64,
    /// Chunks; one row each.
    pub rows: u64,
    /// Files and entries that could not be read as they should.
    pub loading_errors: u64,
}

/// Where the rows of `chunks.jsonl` that belong to a model are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChunksState {
    /// In the model's own partial file, to become `chunks.jsonl` unless another model completes it first.
    Pending,
    /// The same, and it takes the place of a `chunks.jsonl` that this model wrote before or that tells of another
    /// input: the output is being overwritten.
    Replacing,
    /// `chunks.jsonl` is complete; the rows are only checked against it.
    Published,
}

/// One shard whose files are complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedShard {
    /// Number from 0.
    pub number: u32,
    /// Row of its first record.
    pub first_row: u64,
    /// What it holds.
    #[serde(flatten)]
    pub totals: Totals,
    /// [`input_digest`] of its rows: ids and texts.
    pub input_sha256: Digest,
    /// State of the [`InputChain`] after its last row: all that the input said of all rows up to there.
    pub input_chain: Digest,
    /// Its part of the ledger in progress; absent once the ledger is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Segment>,
    /// Its files, in the model's directory.
    pub files: Vec<FileRecord>,
}

/// Consecutive bytes of a file that grows shard by shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Length of the part.
    pub bytes: u64,
    /// Digest of the part.
    pub sha256: Digest,
}

/// One complete file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Name in its directory.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// Digest of the content.
    pub sha256: Digest,
}

/// A manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The manifest.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The content is not a manifest.
    #[error("{} is not a manifest (pass --overwrite to start anew, or choose another --output-dir)", path.display())]
    Parse {
        /// The manifest.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
    /// The layout is another version's.
    #[error("{} has schema_version {found}, this program reads {SCHEMA_VERSION} (pass --overwrite to start anew, or choose another --output-dir)", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// Reads a manifest from the file of that name.
///
/// # Errors
/// When the file cannot be read, is not a manifest, or has another layout version.
pub fn read_manifest(path: &Path) -> Result<Manifest, ManifestError> {
    let read = |source| ManifestError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut File::open(path).map_err(read)?, &mut bytes).map_err(read)?;
    parse_manifest(&bytes, path)
}

/// Parses a manifest; its version first, since the rest may differ with it.
pub(super) fn parse_manifest(bytes: &[u8], path: &Path) -> Result<Manifest, ManifestError> {
    #[derive(Deserialize)]
    struct Versioned {
        schema_version: u32,
    }
    let parse = |source| ManifestError::Parse { path: path.to_owned(), source };
    let found = serde_json::from_slice::<Versioned>(bytes).map_err(parse)?.schema_version;
    if found != SCHEMA_VERSION {
        return Err(ManifestError::Version { path: path.to_owned(), found });
    }
    serde_json::from_slice(bytes).map_err(parse)
}

impl Totals {
    /// Sums over the rows of a shard.
    pub fn of(shard: &Shard) -> Self {
        let mut totals = Self::default();
        for record in &shard.records {
            totals.rows += 1;
            totals.tokens += u64::from(record.tokens);
            totals.tokens_truncated += u64::from(record.tokens_truncated);
            let count = match record.status {
                RowStatus::Ok => &mut totals.counts.ok,
                RowStatus::Truncated => &mut totals.counts.truncated,
                RowStatus::Empty => &mut totals.counts.empty,
                RowStatus::Failed => &mut totals.counts.failed,
            };
            *count += 1;
        }
        totals
    }
}

impl std::iter::Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            rows: sum.rows + part.rows,
            counts: Counts {
                ok: sum.counts.ok + part.counts.ok,
                truncated: sum.counts.truncated + part.counts.truncated,
                empty: sum.counts.empty + part.counts.empty,
                failed: sum.counts.failed + part.counts.failed,
            },
            tokens: sum.tokens + part.tokens,
            tokens_truncated: sum.tokens_truncated + part.tokens_truncated,
        })
    }
}

impl Manifest {
    /// The kinds of vectors that there are, and their widths.
    pub fn widths(&self) -> Widths {
        let dense = (self.dimension > 0).then_some(self.dimension);
        Widths { dense, sparse: self.sparse_dimension, multi: self.multi_dimension }
    }

    /// The chain over all committed rows.
    pub fn input_chain(&self) -> InputChain {
        self.shards.last().map_or_else(InputChain::new, |shard| InputChain::resume(shard.input_chain))
    }

    /// Length of the committed part of the ledger in progress.
    pub(super) fn chunks_bytes(&self) -> u64 {
        self.shards.iter().filter_map(|shard| shard.chunks).map(|segment| segment.bytes).sum()
    }

    /// Keeps the first `shards` shards and forgets the others.
    pub(super) fn cut(&mut self, shards: usize) {
        self.shards.truncate(shards);
        self.complete = false;
        self.input = None;
        self.sum_up();
    }

    /// Appends a shard.
    pub(super) fn push(&mut self, shard: CommittedShard) {
        self.shards.push(shard);
        self.sum_up();
    }

    fn sum_up(&mut self) {
        self.totals = self.shards.iter().map(|shard| shard.totals).sum();
    }
}

impl CommittedShard {
    /// The record of a shard, so far without files.
    pub(super) fn of(shard: &Shard, input_chain: Digest) -> Self {
        Self {
            number: shard.number,
            first_row: shard.first_row.0,
            totals: Totals::of(shard),
            input_sha256: input_digest(shard.records.iter().map(InputRow::from)),
            input_chain,
            chunks: None,
            files: Vec::new(),
        }
    }

    /// The row after its last one.
    pub fn end_row(&self) -> u64 {
        self.first_row + self.totals.rows
    }
}
