//! What a run leaves behind: shards in the formats asked for, the ledger of chunks, and the manifests.
//!
//! ```text
//! <output>/<collection>/chunks.jsonl            the ledger, once per collection, and
//!                       chunks.manifest.json    what vouches for it
//!                       <model>/part-00000.…    shards in row order, one or two files a format
//!                               manifest.json   what is complete
//! ```
//!
//! A file under its final name is complete, and what the manifest lists is there. Interrupted at any instant and
//! opened again, an output goes on after its last committed shard and ends with the bytes of an uninterrupted run.
//! To add a format, write its file with a sink and a reader, and add its row to the table in `format`.

mod arrow;
mod columns;
mod format;
mod input;
mod input_check;
mod jsonl;
mod ledger;
mod ledger_rows;
mod lock;
mod manifest;
mod npy;
mod open;
mod parquet;
mod place;
mod plan;
mod previous;
mod read;
mod segment;
mod shard_check;
mod storage;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use format::{Format, SinkError, UnknownFormat};
pub use input::{InputChain, InputRow, input_digest};
pub use input_check::{InputChanged, InputCheck};
pub use ledger::{Checkpoint, ChunksManifest, LedgerRowError};
pub use ledger_rows::{Ledger, LedgerReadError};
pub use lock::{LockError, OutputLock};
pub use manifest::{
    ChunksState, CollectionTotals, CommittedShard, Counts, FileRecord, MANIFEST_FILE, Manifest, ManifestError,
    Provenance, SCHEMA_VERSION, Segment, Totals, read_manifest,
};
pub use open::{Committed, Damage, Examined, Fault, OpenError, Opened, examine};
pub use place::{CHUNKS_FILE, CHUNKS_MANIFEST_FILE, directory_name};
pub use plan::{Difference, Existing, Plan};
pub use previous::{forget_previous, previous, set_aside};
pub use read::{ReadContentError, ReadError, RowState, StoredShard, read_shard};
pub use segment::{SegmentError, read_segment, segments, write_segment};
pub use shard_check::InvalidShard;
pub use storage::{StorageError, replace_file};
pub use writer::{CollectionWriter, CommitError};
