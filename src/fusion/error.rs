//! Why a collection could not be fused: which member, and from which row on.

use std::path::PathBuf;

use super::plan::ShapeError;
use super::weights::WeightsError;
use crate::domain::{ChunkId, CollectionName};
use crate::output::{CommitError, InputChanged, LedgerReadError, ManifestError, OpenError, ReadError};

/// A collection could not be fused. Members are as they were; of the fused output, what was committed stays.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// Not with these members.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Not with these weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A member's manifest could not be read.
    #[error("cannot fuse {collection}: there is no output of {model} to read (embed it first)")]
    Member {
        /// The collection.
        collection: CollectionName,
        /// The member.
        model: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A member's directory holds something else.
    #[error("{} is about {found_model} and {found_collection}, not {model} (choose another --output-dir)", path.display())]
    AnotherOutput {
        /// The manifest.
        path: PathBuf,
        /// The member.
        model: String,
        /// Model of the manifest.
        found_model: String,
        /// Collection of the manifest.
        found_collection: String,
    },
    /// A member is not finished.
    #[error("cannot fuse {collection}: {model} has only {rows} rows so far (run the same command again to finish it)")]
    Incomplete {
        /// The collection.
        collection: CollectionName,
        /// The member.
        model: String,
        /// Rows that it has.
        rows: u64,
    },
    /// A member has more or fewer rows than the ledger.
    #[error(
        "cannot fuse {collection}: {model} has {found} rows, chunks.jsonl {expected} (pass --overwrite to embed everything again)"
    )]
    Rows {
        /// The collection.
        collection: CollectionName,
        /// The member.
        model: String,
        /// Rows of the member.
        found: u64,
        /// Rows that there should be.
        expected: u64,
    },
    /// A member was embedded from another input than the ledger tells of.
    #[error(
        "cannot fuse {collection}: the input of {model} is not that of chunks.jsonl, which {ledger_model} wrote; they differ before row {row} (pass --overwrite to embed everything again)"
    )]
    InputDiffers {
        /// The collection.
        collection: CollectionName,
        /// The member.
        model: String,
        /// The model that wrote the ledger.
        ledger_model: String,
        /// A row after the difference.
        row: u64,
    },
    /// A member has another chunk in a row.
    #[error(
        "cannot fuse {collection}: row {row} is {:?} in chunks.jsonl, but {:?} in the output of {model} (pass --overwrite to embed everything again)", expected.as_str(), found.as_str()
    )]
    OtherChunk {
        /// The collection.
        collection: CollectionName,
        /// The member.
        model: String,
        /// The row.
        row: u64,
        /// Its id by the ledger.
        expected: ChunkId,
        /// Its id by the member.
        found: ChunkId,
    },
    /// A member has embedded another text in a row.
    #[error(
        "cannot fuse {collection}: row {row} ({:?}) has another text in the output of {model} than in chunks.jsonl (pass --overwrite to embed everything again)", id.as_str()
    )]
    OtherText {
        /// The collection.
        collection: CollectionName,
        /// The member.
        model: String,
        /// The row.
        row: u64,
        /// Its id.
        id: ChunkId,
    },
    /// A member's vectors are not as long as its manifest says.
    #[error(
        "cannot fuse {collection}: not all vectors of {model} from row {row} on have {expected} components (pass --overwrite to embed everything again)"
    )]
    Dimension {
        /// The collection.
        collection: CollectionName,
        /// The member.
        model: String,
        /// First row of the shard.
        row: u64,
        /// Dimension by the manifest.
        expected: usize,
    },
    /// A member's shard could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The ledger could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerReadError),
    /// The fused output could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The rows that are fused already are not those of the ledger.
    #[error("cannot go on with the fused output of {collection}")]
    Input {
        /// The collection.
        collection: CollectionName,
        /// How they differ.
        #[source]
        source: InputChanged,
    },
    /// A shard could not be committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}
