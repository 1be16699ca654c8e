//! Attention with relative positions in plain tensors: every score of every distance is computed, and the ones that are
//! needed are picked out.

use candle_core::{DType, Device, Tensor};
use candle_nn::ops;

use super::layout::{Layout, PlacedBucket, Table, index};
use crate::nn::{Matrix, NnError, RelativeAttention};

/// Most scores that exist at a time; several tensors of this size are alive together.
const MAX_SCORES: usize = 1 << 25;

/// A layer whose weights are on the device.
#[derive(Debug)]
pub struct Layer {
    pub(super) description: RelativeAttention,
    /// [1, heads, size, distances]: what queries are multiplied with.
    keys: Option<Tensor>,
    /// The same for keys, times the scale.
    queries: Option<Tensor>,
}

impl Layer {
    pub(super) fn new(description: RelativeAttention, device: &Device) -> Result<Self, NnError> {
        description.assert_consistent();
        let RelativeAttention { heads, head_size, scale, .. } = description;
        let table = |table: &Option<Matrix>, factor: f32| -> Result<Option<Tensor>, NnError> {
            let Some(Matrix { rows, values, .. }) = table else { return Ok(None) };
            let table = Tensor::from_slice(values, (*rows, heads, head_size), &Device::Cpu)?;
            let table = (table.permute((1, 2, 0))?.unsqueeze(0)?.contiguous()? * f64::from(factor))?;
            Ok(Some(table.to_device(device)?))
        };
        let (keys, queries) = (table(&description.keys, 1.0)?, table(&description.queries, scale)?);
        Ok(Self { description, keys, queries })
    }

    /// The context of a bucket: from [sequences · length, input width] to [sequences · length, output width].
    pub(super) fn apply(&self, qkv: &Tensor, place: &PlacedBucket, layout: &Layout) -> Result<Tensor, NnError> {
        let RelativeAttention { heads, distances, .. } = self.description;
        let (sequences, length) = (place.bucket.sequences.len(), place.bucket.length);
        // [length, length]: the row for a query and a key.
        let rows = layout.table(Table::Rows(distances, length), |device| {
            let by_offset = distances.by_offset(length);
            let of_query = |query| by_offset[length - 1 - query..][..length].iter().map(|&row| index(row));
            let rows: Vec<u32> = (0..length).flat_map(of_query).collect();
            Ok(Tensor::from_vec(rows, (length, length), device)?)
        })?;
        let at_once = (MAX_SCORES / (heads * length * length).max(1)).clamp(1, sequences);
        let mut contexts = Vec::new();
        for first in (0..sequences).step_by(at_once) {
            let count = at_once.min(sequences - first);
            let some = qkv.narrow(0, first * length, count * length)?;
            let hidden = place.hidden.as_ref().map(|hidden| hidden.narrow(0, first, count)).transpose()?;
            contexts.push(self.apply_to_some(&some, hidden.as_ref(), &rows, (count, length))?);
        }
        Ok(if contexts.len() == 1 { contexts.remove(0) } else { Tensor::cat(&contexts, 0)? })
    }

    fn apply_to_some(
        &self,
        qkv: &Tensor,
        hidden: Option<&Tensor>,
        rows: &Tensor,
        (sequences, length): (usize, usize),
    ) -> Result<Tensor, NnError> {
        let RelativeAttention { heads, head_size, scale, .. } = self.description;
        // [sequences, heads, length, size] of one of the three parts.
        let part = |place: usize| -> Result<Tensor, NnError> {
            let columns = qkv.narrow(1, place * heads * head_size, heads * head_size)?;
            Ok(columns.reshape((sequences, length, heads, head_size))?.transpose(1, 2)?.contiguous()?)
        };
        // Scores are in f32, as in the other attention.
        let (query, key, value) = (part(0)?.to_dtype(DType::F32)?, part(1)?.to_dtype(DType::F32)?, part(2)?);
        let query = (query * f64::from(scale))?;
        let all = |rows: &Tensor| rows.broadcast_as((sequences, heads, length, length))?.contiguous();
        let mut scores = query.matmul(&key.transpose(2, 3)?)?;
        if let Some(keys) = &self.keys {
            let by_distance = query.broadcast_matmul(keys)?;
            scores = (scores + by_distance.gather(&all(rows)?, 3)?)?;
        }
        if let Some(queries) = &self.queries {
            let by_distance = key.broadcast_matmul(queries)?;
            let of_keys = by_distance.gather(&all(&rows.t()?)?, 3)?;
            scores = (scores + of_keys.transpose(2, 3)?)?;
        }
        if let Some(hidden) = hidden {
            scores = scores.broadcast_add(hidden)?;
        }
        let weights = ops::softmax_last_dim(&scores)?.to_dtype(value.dtype())?;
        let context = weights.matmul(&value)?;
        Ok(context.transpose(1, 2)?.reshape((sequences * length, heads * head_size))?)
    }
}
