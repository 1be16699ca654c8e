//! The nouns that every other module speaks in.
//!
//! They carry no logic beyond their own invariants, do no IO and depend on nothing else in the crate, so that any
//! two modules can exchange them without knowing each other.

mod bytes;
mod chunk;
mod digest;
mod failure;
mod fetching;
mod leasing;
mod shard;
mod share;
mod tokens;
mod vectors;

pub use bytes::Bytes;
pub use chunk::{Chunk, ChunkId, ChunkText, CollectionName, LoadingError, RawJson, Row, Source};
pub use digest::{Digest, DigestError, DigestReader, DigestWriter, FieldDigest};
pub use failure::FailureKind;
pub use fetching::Fetching;
pub use leasing::{Foreign, LeasePolicy};
pub use shard::{RowRecord, RowStatus, RowVectors, Shard};
pub use share::{Portion, Share, ShareError};
pub use tokens::{Embeddings, PackedBatch, TokenSeq};
pub use vectors::{MultiVectors, SparseVector, VectorKind, Widths};
