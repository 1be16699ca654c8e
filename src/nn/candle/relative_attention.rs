//! Attention with relative positions in plain tensors: every score of every distance is computed, and the ones that are
//! needed are picked out.

use candle_core::{Device, Tensor};
use candle_nn::ops;

use super::super::{Matrix, NnError, RelativeAttention};

/// The context of sequences of one length: from [sequences · length, input width] to [sequences · length, output width].
pub(super) fn apply(
    attention: &RelativeAttention,
    qkv: &Tensor,
    sequences: usize,
    length: usize,
) -> Result<Tensor, NnError> {
    let RelativeAttention { heads, head_size, .. } = *attention;
    let device = qkv.device();
    // [sequences, heads, length, size] of one of the three parts.
    let part = |place: usize| -> Result<Tensor, NnError> {
        let columns = qkv.narrow(1, place * heads * head_size, heads * head_size)?;
        Ok(columns.reshape((sequences, length, heads, head_size))?.transpose(1, 2)?.contiguous()?)
    };
    let (query, key, value) = (part(0)?, part(1)?, part(2)?);
    let by_offset = attention.distances.by_offset(length);
    // [length, length]: the row for a query and a key.
    let rows: Vec<u32> = (0..length)
        .flat_map(|query| &by_offset[length - 1 - query..][..length])
        .map(|&row| u32::try_from(row).unwrap_or(u32::MAX))
        .collect();
    let rows = Tensor::from_vec(rows, (length, length), device)?;
    let all = |rows: &Tensor| rows.broadcast_as((sequences, heads, length, length))?.contiguous();
    let mut scores = query.matmul(&key.transpose(2, 3)?)?;
    if let Some(keys) = &attention.keys {
        let by_distance = query.broadcast_matmul(&for_each_head(keys, heads, head_size, device)?)?;
        scores = (scores + by_distance.gather(&all(&rows)?, 3)?)?;
    }
    if let Some(queries) = &attention.queries {
        let by_distance = key.broadcast_matmul(&for_each_head(queries, heads, head_size, device)?)?;
        let of_keys = by_distance.gather(&all(&rows.t()?)?, 3)?;
        scores = (scores + of_keys.transpose(2, 3)?)?;
    }
    let scores = (scores * f64::from(attention.scale))?;
    let context = ops::softmax_last_dim(&scores)?.matmul(&value)?;
    Ok(context.transpose(1, 2)?.reshape((sequences * length, heads * head_size))?)
}

/// [distances, heads · size] as [1, heads, size, distances].
fn for_each_head(table: &Matrix, heads: usize, head_size: usize, device: &Device) -> Result<Tensor, NnError> {
    let table = Tensor::from_slice(&table.values, (table.rows, heads, head_size), device)?;
    Ok(table.permute((1, 2, 0))?.unsqueeze(0)?.contiguous()?)
}
