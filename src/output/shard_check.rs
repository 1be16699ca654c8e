//! Whether a shard may be written: it follows the last one, and its numbers are what its statuses promise.

use super::manifest::Manifest;
use crate::domain::{ChunkId, MultiVectors, Shard, SparseVector};

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
    /// It does not have the kinds of vectors that the output has, each as often as it has rows.
    #[error("it does not have one {kinds} for each of its {rows} rows")]
    Kinds {
        /// The kinds of the output.
        kinds: String,
        /// Rows it has.
        rows: usize,
    },
    /// A sparse vector is not tokens in their order with weights above 0, or is there without being a result.
    #[error("the sparse vector of {id:?} is not one")]
    Sparse {
        /// The row.
        id: ChunkId,
    },
    /// The vectors of tokens are not of the output's dimension, not finite, or are there without being a result.
    #[error("the vectors of tokens of {id:?} are not all whole and finite")]
    Multi {
        /// The row.
        id: ChunkId,
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
    if dimension != committed.dimension || values != rows * dimension {
        return Err(InvalidShard::Dimension { values, dimension, rows, expected: committed.dimension });
    }
    check_kinds(shard, committed)?;
    for (_, record, vectors) in shard.rows() {
        let Some(vector) = vectors.and_then(|vectors| vectors.dense) else { continue };
        if !vector.iter().all(|value| value.is_finite()) {
            return Err(InvalidShard::NotFinite { id: record.id.clone() });
        }
        if vector.iter().all(|&value| value == 0.0) {
            return Err(InvalidShard::Zero { id: record.id.clone() });
        }
    }
    Ok(())
}

/// Checks vectors of other kinds than dense ones.
fn check_kinds(shard: &Shard, committed: &Manifest) -> Result<(), InvalidShard> {
    let (rows, widths) = (shard.records.len(), committed.widths());
    let lengths = (shard.sparse.as_ref().map(Vec::len), shard.multi.as_ref().map(|multi| multi.texts.len()));
    let dimension = shard.multi.as_ref().map(|multi| multi.dimension);
    let expected = (widths.sparse.map(|_| rows), widths.multi.map(|_| rows));
    if lengths != expected || dimension != widths.multi {
        return Err(InvalidShard::Kinds { kinds: widths.to_string(), rows });
    }
    for (index, record) in shard.records.iter().enumerate() {
        let has_vector = record.status.has_vector();
        if let (Some(sparse), Some(vocabulary)) = (&shard.sparse, widths.sparse)
            && !is_sparse(&sparse[index], vocabulary, has_vector)
        {
            return Err(InvalidShard::Sparse { id: record.id.clone() });
        }
        if let Some(MultiVectors { dimension, texts }) = &shard.multi {
            let values = &texts[index];
            let whole = *dimension > 0 && values.len().is_multiple_of(*dimension);
            let allowed = has_vector || values.is_empty();
            if !(whole && allowed && values.iter().all(|value| value.is_finite())) {
                return Err(InvalidShard::Multi { id: record.id.clone() });
            }
        }
    }
    Ok(())
}

fn is_sparse(sparse: &SparseVector, vocabulary: usize, has_vector: bool) -> bool {
    let SparseVector { indices, values } = sparse;
    let ordered = indices.windows(2).all(|pair| pair[0] < pair[1]);
    let within = indices.last().is_none_or(|last| (*last as usize) < vocabulary);
    let weights = values.iter().all(|value| value.is_finite() && *value > 0.0);
    indices.len() == values.len() && ordered && within && weights && (has_vector || indices.is_empty())
}
