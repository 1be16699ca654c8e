//! Attention in plain tensors: every score is computed, nothing is fused. Scores are in f32, for an exponential follows;
//! in lower precision they cost more than all else. The product with the values is in the numbers of the backend.

use candle_core::{DType, Device, Tensor};
use candle_nn::ops;

use super::layout::{HIDDEN, Layout, PlacedBucket, Queries, Table, index};
use crate::nn::NnError;
use crate::nn::attention::{Attention, HeadNorm, Mask, Pairing, PositionBias, Rotary};

/// Most scores that exist at a time: 256 MiB in f32, enough to keep a GPU busy. Longer sequences have their queries
/// computed in several parts, so that memory grows with their length and not with its square.
const MAX_SCORES: usize = 1 << 26;

/// An attention layer whose weights are on the device.
#[derive(Debug)]
pub struct Layer {
    pub(super) description: Attention,
    /// Of queries and of keys, in f32.
    pub(super) head_norm: Option<(Tensor, Tensor)>,
}

impl Layer {
    pub(super) fn new(description: Attention, device: &Device) -> Result<Self, NnError> {
        description.assert_consistent();
        let head_norm = match &description.head_norm {
            None => None,
            Some(HeadNorm { query, key, .. }) => {
                Some((Tensor::new(query.as_slice(), device)?, Tensor::new(key.as_slice(), device)?))
            }
        };
        Ok(Self { description, head_norm })
    }

    /// The context of a bucket: from [sequences · length, input width] to [sequences · length, output width].
    pub(super) fn apply(&self, qkv: &Tensor, place: &PlacedBucket, layout: &Layout) -> Result<Tensor, NnError> {
        let Attention { heads, key_value_heads, head_size, .. } = self.description;
        let (sequences, length) = (place.bucket.sequences.len(), place.bucket.length);
        // [sequences, heads, length, size] of one of the three parts.
        let part = |first: usize, heads: usize| -> Result<Tensor, NnError> {
            let columns = qkv.narrow(1, first * head_size, heads * head_size)?;
            Ok(columns.reshape((sequences, length, heads, head_size))?.transpose(1, 2)?.contiguous()?)
        };
        let [query_norm, key_norm] = self.norms();
        let query = self.placed(&part(0, heads)?, query_norm, layout)?;
        let query = (query * f64::from(self.description.scale))?;
        // Turned in part, they do not lie as products of matrices want them.
        let key = self.placed(&part(heads, key_value_heads)?, key_norm, layout)?.contiguous()?;
        let value = part(heads + key_value_heads, key_value_heads)?;
        let key = key.transpose(2, 3)?;
        let rows = queries_at_once(sequences * heads, length);
        let mut contexts = Vec::new();
        for first in (0..length).step_by(rows) {
            let rows = rows.min(length - first);
            // The queries of the heads that share a key lie one after the other, and so are one product.
            let queries = query.narrow(2, first, rows)?.contiguous()?;
            let together = (sequences, key_value_heads, heads / key_value_heads * rows, head_size);
            let scores = queries.reshape(together)?.matmul(&key)?;
            let scores = scores.reshape((sequences, heads, rows, length))?;
            let scores = self.biased(scores, first, place, layout)?;
            let weights = ops::softmax_last_dim(&scores)?.to_dtype(value.dtype())?;
            let weights = weights.reshape((sequences, key_value_heads, heads / key_value_heads * rows, length))?;
            contexts.push(weights.matmul(&value)?.reshape((sequences, heads, rows, head_size))?);
        }
        let context = if contexts.len() == 1 { contexts.remove(0) } else { Tensor::cat(&contexts, 2)? };
        Ok(context.transpose(1, 2)?.reshape((sequences * length, heads * head_size))?)
    }

    /// In f32, normalised and turned if that is asked for.
    fn placed(&self, heads: &Tensor, norm: Option<&Tensor>, layout: &Layout) -> Result<Tensor, NnError> {
        let heads = self.normed(&heads.to_dtype(DType::F32)?, norm)?;
        match &self.description.rotary {
            None => Ok(heads),
            Some(rotary) => rotated(rotary, &heads, &rotation(rotary, heads.dim(2)?, layout)?),
        }
    }

    /// The weights of the norms of queries and of keys.
    pub(super) fn norms(&self) -> [Option<&Tensor>; 2] {
        match &self.head_norm {
            None => [None, None],
            Some((query, key)) => [Some(query), Some(key)],
        }
    }

    /// [.., size] in f32, normalised if that is asked for.
    pub(super) fn normed(&self, heads: &Tensor, norm: Option<&Tensor>) -> Result<Tensor, NnError> {
        Ok(match (norm, &self.description.head_norm) {
            (Some(weight), Some(HeadNorm { epsilon, .. })) => ops::rms_norm(heads, weight, *epsilon)?,
            _ => heads.clone(),
        })
    }

    /// With what is added by the distance, and without keys that are not seen. The scores are those of the queries from
    /// `first` on.
    fn biased(&self, scores: Tensor, first: usize, place: &PlacedBucket, layout: &Layout) -> Result<Tensor, NnError> {
        let Attention { heads, mask, position_bias, .. } = &self.description;
        let (_, _, rows, length) = scores.dims4()?;
        let mut scores = scores;
        if position_bias.is_some() || *mask != Mask::FULL {
            let queries = Queries { first, rows, length };
            let table = Table::Biases(*mask, position_bias.clone(), queries);
            let biases = layout.table(table, |device| {
                let by_offset = Table::Bias(*mask, position_bias.clone(), length);
                let make = |device: &Device| bias_by_offset(*mask, position_bias.as_ref(), *heads, length, device);
                let by_offset = layout.table(by_offset, make)?;
                let offsets = layout.table(Table::Offsets(queries), |_| offsets(queries, device))?;
                let biases = by_offset.index_select(&offsets.flatten_all()?, 1)?;
                Ok(biases.reshape((by_offset.dim(0)?, rows, length))?)
            })?;
            scores = scores.broadcast_add(&biases)?;
        }
        Ok(match &place.hidden {
            None => scores,
            Some(hidden) => scores.broadcast_add(hidden)?,
        })
    }
}

/// How many queries of each sequence have their scores computed together, for so many heads of all sequences.
fn queries_at_once(heads: usize, length: usize) -> usize {
    (MAX_SCORES / (heads * length).max(1)).clamp(1, length.max(1))
}

/// [2, length, pairs]: cosines and sines of the positions of a sequence of so many tokens.
pub(super) fn rotation(rotary: &Rotary, length: usize, layout: &Layout) -> Result<Tensor, NnError> {
    let pairs = rotary.inverse_frequencies.len();
    layout.table(Table::Rotation(rotary.clone(), length), |device| {
        let (mut table, sines) = rotary.table(length);
        table.extend(sines);
        Ok(Tensor::from_vec(table, (2, length, pairs), device)?)
    })
}

/// [.., length, size] turned by the cosines and sines of each place.
pub(super) fn rotated(rotary: &Rotary, heads: &Tensor, table: &Tensor) -> Result<Tensor, NnError> {
    let (sequences, count, length, size) = heads.dims4()?;
    let pairs = rotary.inverse_frequencies.len();
    let (cosines, sines) = (table.get(0)?, table.get(1)?);
    let (turned, rest) = (heads.narrow(3, 0, 2 * pairs)?, heads.narrow(3, 2 * pairs, size - 2 * pairs)?);
    let (first, second) = match rotary.pairing {
        Pairing::HalfSplit => (turned.narrow(3, 0, pairs)?, turned.narrow(3, pairs, pairs)?),
        Pairing::Interleaved => {
            let pairwise = turned.reshape((sequences, count, length, pairs, 2))?;
            (pairwise.narrow(4, 0, 1)?.squeeze(4)?, pairwise.narrow(4, 1, 1)?.squeeze(4)?)
        }
    };
    let new_first = (first.broadcast_mul(&cosines)? - second.broadcast_mul(&sines)?)?;
    let new_second = (second.broadcast_mul(&cosines)? + first.broadcast_mul(&sines)?)?;
    let turned = match rotary.pairing {
        Pairing::HalfSplit => vec![new_first, new_second],
        Pairing::Interleaved => {
            vec![Tensor::stack(&[new_first, new_second], 4)?.reshape((sequences, count, length, 2 * pairs))?]
        }
    };
    let parts: Vec<Tensor> = turned.into_iter().chain((size > 2 * pairs).then_some(rest)).collect();
    Ok(Tensor::cat(&parts, 3)?)
}

/// [heads, 2 · length - 1], or with one row for all heads: what is added where the key is `column - (length - 1)` tokens
/// after the query.
pub(super) fn bias_by_offset(
    mask: Mask,
    bias: Option<&PositionBias>,
    heads: usize,
    length: usize,
    device: &Device,
) -> Result<Tensor, NnError> {
    let columns = 2 * length - 1;
    let mut values = bias.map_or_else(|| vec![0.0; columns], |bias| bias.by_offset(heads, length).values);
    for row in values.chunks_exact_mut(columns) {
        for (column, value) in row.iter_mut().enumerate() {
            let (before, after) = ((length - 1).saturating_sub(column), (column + 1).saturating_sub(length));
            if before > mask.before || after > mask.after {
                *value = HIDDEN;
            }
        }
    }
    Ok(Tensor::from_vec(values, (if bias.is_some() { heads } else { 1 }, columns), device)?)
}

/// [rows, length]: key - query + length - 1.
fn offsets(queries: Queries, device: &Device) -> Result<Tensor, NnError> {
    let Queries { first, rows, length } = queries;
    let of_queries: Vec<u32> = (first..first + rows).map(|query| index(length - 1 - query)).collect();
    let of_queries = Tensor::from_vec(of_queries, (rows, 1), device)?;
    let of_keys = Tensor::arange(0, index(length), device)?.reshape((1, length))?;
    Ok(of_queries.broadcast_add(&of_keys)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_bounded_and_every_query_is_computed() {
        assert_eq!(queries_at_once(16 * 64, 128), 128);
        assert_eq!(queries_at_once(16 * 64, 512), 128);
        assert_eq!(queries_at_once(16, 8192), 512);
        assert_eq!(queries_at_once(usize::MAX / 8192, 8192), 1);
        assert_eq!(queries_at_once(0, 0), 1);
    }

    #[test]
    fn distances_outside_the_mask_are_hidden() {
        let of =
            |mask| bias_by_offset(mask, None, 3, 3, &Device::Cpu).unwrap().get(0).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(of(Mask::CAUSAL), [0.0, 0.0, 0.0, HIDDEN, HIDDEN]);
        assert_eq!(of(Mask::window(1)), [HIDDEN, 0.0, 0.0, 0.0, HIDDEN]);
        assert_eq!(of(Mask { before: 0, after: 2 }), [HIDDEN, HIDDEN, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn offsets_are_those_of_keys_from_queries() {
        let found = offsets(Queries { first: 1, rows: 2, length: 4 }, &Device::Cpu).unwrap().to_vec2::<u32>().unwrap();
        assert_eq!(found, [[2, 3, 4, 5], [1, 2, 3, 4]]);
    }
}
