//! A shard: the unit in which results are committed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ChunkId, Digest, MultiVectors, RawJson, Row, Source, SparseVector};

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowStatus {
    /// Embedded whole.
    Ok,
    /// Embedded, but the text was longer than the model's limit; the end is not in the vector.
    Truncated,
    /// The text is empty or only white space; null vector.
    Empty,
    /// Could not be read or embedded; null vector, and a reason in the ledger.
    Failed,
}

impl RowStatus {
    /// The name used in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Truncated => "truncated",
            Self::Empty => "empty",
            Self::Failed => "failed",
        }
    }

    /// Whether a row of this status has a vector.
    pub fn has_vector(self) -> bool {
        matches!(self, Self::Ok | Self::Truncated)
    }
}

impl fmt::Display for RowStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything that is known of one row, except its vector.
#[derive(Debug, Clone, PartialEq)]
pub struct RowRecord {
    /// The chunk's id.
    pub id: ChunkId,
    /// Where the chunk was read.
    pub source: Source,
    /// What became of it.
    pub status: RowStatus,
    /// Tokens that the model saw, special tokens and prompt included; 0 without a vector.
    pub tokens: u32,
    /// Tokens that were cut off.
    pub tokens_truncated: u32,
    /// Digest of the text's UTF-8 bytes; `None` when there is no text.
    pub text_sha256: Option<Digest>,
    /// Why the status is `failed`.
    pub error: Option<String>,
    /// The chunk's metadata.
    pub metadata: Option<RawJson>,
    /// What stood beside text and metadata in the chunk.
    pub extra: Option<RawJson>,
}

/// Consecutive rows of one collection with their vectors, complete and in row order.
#[derive(Debug, Clone)]
pub struct Shard {
    /// Number of the shard in its collection and model, from 0.
    pub number: u32,
    /// Row of the first record.
    pub first_row: Row,
    /// Length of a dense vector; 0 without them.
    pub dimension: usize,
    /// One record a row.
    pub records: Vec<RowRecord>,
    /// [rows, dimension] in row order, f32; rows without a vector are all NaN.
    pub vectors: Vec<f32>,
    /// One a row, empty where the status has no vector; absent where they are not asked for.
    pub sparse: Option<Vec<SparseVector>>,
    /// One list a row, likewise.
    pub multi: Option<MultiVectors>,
}

/// The vectors of one row, of the kinds that were asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowVectors<'a> {
    /// `[dimension]`.
    pub dense: Option<&'a [f32]>,
    /// Weights of tokens.
    pub sparse: Option<&'a SparseVector>,
    /// [vectors, dimension of the multi vectors].
    pub multi: Option<&'a [f32]>,
}

impl Shard {
    /// The records with their rows and vectors; `None` where the status has no vector.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (Row, &RowRecord, Option<RowVectors<'_>>)> {
        self.records.iter().enumerate().map(|(index, record)| {
            let vectors = || RowVectors {
                dense: (self.dimension > 0)
                    .then(|| &self.vectors[index * self.dimension..(index + 1) * self.dimension]),
                sparse: self.sparse.as_ref().map(|rows| &rows[index]),
                multi: self.multi.as_ref().map(|multi| multi.texts[index].as_slice()),
            };
            (Row(self.first_row.0 + index as u64), record, record.status.has_vector().then(vectors))
        })
    }
}
