//! Whether a shard may be written: it follows the last one, and its numbers are what its statuses promise.

use super::manifest::Manifest;
use crate::domain::{ChunkId, Shard};

/// Why a shard may not be written. Each is a fault of the program, not of the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidShard {
    /// It is not the next one.
    #[error("shard {expected} at row {expected_row} comes next, not shard {found} at row {found_row}")]
    OutOfOrder {
        /// Number of the next shard.
        expected: u32,
        /// Its first row.
        expected_row: u64,
        /// Number of this shard.
        found: u32,
        /// Its first row.
        found_row: u64,
    },
    /// It follows a shard that was shorter than all but the last may be.
    #[error("it follows a shard of fewer than {shard_rows} rows, which only the last one may have")]
    AfterTheLast {
        /// Rows of every shard but the last.
        shard_rows: u32,
    },
    /// It has no row, or too many.
    #[error("it has {rows} rows instead of 1 to {shard_rows}")]
    Rows {
        /// Rows it has.
        rows: usize,
        /// Rows it may have.
        shard_rows: u32,
    },
    /// Its vectors have another length.
    #[error("it has {values} values of dimension {dimension} for {rows} rows of dimension {expected}")]
    Dimension {
        /// Floats it has.
        values: usize,
        /// Dimension it has.
        dimension: usize,
        /// Rows it has.
        rows: usize,
        /// Dimension of the output.
        expected: usize,
    },
    /// A vector is NaN or infinite somewhere.
    #[error("the vector of {id:?} is not finite")]
    NotFinite {
        /// The row.
        id: ChunkId,
    },
    /// A vector is zero everywhere.
    #[error("the vector of {id:?} is zero")]
    Zero {
        /// The row.
        id: ChunkId,
    },
}

/// Checks a shard against what is committed.
pub(super) fn check_shard(shard: &Shard, committed: &Manifest) -> Result<(), InvalidShard> {
    let (rows, dimension, shard_rows) = (shard.records.len(), shard.dimension, committed.shard_rows);
    let expected = (committed.shards.len() as u64, committed.totals.rows);
    if (u64::from(shard.number), shard.first_row.0) != expected {
        return Err(InvalidShard::OutOfOrder {
            expected: u32::try_from(expected.0).unwrap_or(u32::MAX),
            expected_row: expected.1,
            found: shard.number,
            found_row: shard.first_row.0,
        });
    }
    if committed.shards.last().is_some_and(|last| last.totals.rows < u64::from(shard_rows)) {
        return Err(InvalidShard::AfterTheLast { shard_rows });
    }
    if rows == 0 || rows > shard_rows as usize {
        return Err(InvalidShard::Rows { rows, shard_rows });
    }
    let values = shard.vectors.len();
    if dimension == 0 || dimension != committed.dimension || values != rows * dimension {
        return Err(InvalidShard::Dimension { values, dimension, rows, expected: committed.dimension });
    }
    for (_, record, vector) in shard.rows() {
        let Some(vector) = vector else { continue };
        if !vector.iter().all(|value| value.is_finite()) {
            return Err(InvalidShard::NotFinite { id: record.id.clone() });
        }
        if vector.iter().all(|&value| value == 0.0) {
            return Err(InvalidShard::Zero { id: record.id.clone() });
        }
    }
    Ok(())
}
