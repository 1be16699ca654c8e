//! Attention in plain tensors: every score is computed and kept, nothing is fused.

use candle_core::{D, Device, Tensor};
use candle_nn::ops;

use super::super::attention::{Attention, HeadNorm, Mask, Pairing, Rotary};
use super::super::{NnError, PositionBias};
use super::Group;

/// The context of sequences of one length: from [sequences · length, input width] to [sequences · length, output width].
pub(super) fn apply(attention: &Attention, qkv: &Tensor, group: &Group) -> Result<Tensor, NnError> {
    let &Group { sequences, length, seen, .. } = group;
    let Attention { heads, key_value_heads, head_size, .. } = *attention;
    let device = qkv.device();
    // [sequences, heads, length, size] of one of the three parts.
    let part = |first: usize, heads: usize| -> Result<Tensor, NnError> {
        let columns = qkv.narrow(1, first * head_size, heads * head_size)?;
        Ok(columns.reshape((sequences, length, heads, head_size))?.transpose(1, 2)?.contiguous()?)
    };
    let mut query = part(0, heads)?;
    let mut key = part(heads, key_value_heads)?;
    let mut value = part(heads + key_value_heads, key_value_heads)?;
    if let Some(HeadNorm { query: query_weight, key: key_weight, epsilon }) = &attention.head_norm {
        query = ops::rms_norm(&query, &Tensor::new(query_weight.as_slice(), device)?, *epsilon)?;
        key = ops::rms_norm(&key, &Tensor::new(key_weight.as_slice(), device)?, *epsilon)?;
    }
    if let Some(rotary) = &attention.rotary {
        query = rotate(rotary, &query)?;
        key = rotate(rotary, &key)?;
    }
    if key_value_heads < heads {
        key = repeat_heads(&key, heads / key_value_heads)?;
        value = repeat_heads(&value, heads / key_value_heads)?;
    }
    let mut scores = (query.matmul(&key.transpose(2, 3)?)? * f64::from(attention.scale))?;
    if let Some(bias) = &attention.position_bias {
        scores = scores.broadcast_add(&position_bias(bias, heads, length, device)?)?;
    }
    if attention.mask != Mask::FULL || seen < length {
        scores = scores.broadcast_add(&hidden_keys(attention.mask, (length, seen), device)?)?;
    }
    let context = ops::softmax_last_dim(&scores)?.matmul(&value)?;
    Ok(context.transpose(1, 2)?.reshape((sequences * length, heads * head_size))?)
}

/// Each head as often as `times`, one after the other: the heads of a group share it.
fn repeat_heads(heads: &Tensor, times: usize) -> Result<Tensor, NnError> {
    let (sequences, count, length, size) = heads.dims4()?;
    let repeated = heads.unsqueeze(2)?.broadcast_as((sequences, count, times, length, size))?;
    Ok(repeated.reshape((sequences, count * times, length, size))?)
}

/// [.., length, size] turned by position.
fn rotate(rotary: &Rotary, heads: &Tensor) -> Result<Tensor, NnError> {
    let (sequences, count, length, size) = heads.dims4()?;
    let pairs = rotary.inverse_frequencies.len();
    let (cosines, sines) = rotary.table(length);
    let cosines = Tensor::from_vec(cosines, (length, pairs), heads.device())?;
    let sines = Tensor::from_vec(sines, (length, pairs), heads.device())?;
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
        Pairing::HalfSplit => Tensor::cat(&[new_first, new_second], D::Minus1)?,
        Pairing::Interleaved => {
            Tensor::stack(&[new_first, new_second], 4)?.reshape((sequences, count, length, 2 * pairs))?
        }
    };
    Ok(Tensor::cat(&[turned, rest], D::Minus1)?.contiguous()?)
}

/// [heads, length, length].
fn position_bias(bias: &PositionBias, heads: usize, length: usize, device: &Device) -> Result<Tensor, NnError> {
    let by_offset = bias.by_offset(heads, length);
    let mut values = Vec::with_capacity(heads * length * length);
    for offsets in by_offset.values.chunks_exact(by_offset.columns) {
        for query in 0..length {
            values.extend_from_slice(&offsets[length - 1 - query..][..length]);
        }
    }
    Ok(Tensor::from_vec(values, (heads, length, length), device)?)
}

/// [length, length]: 0 where the query sees the key, else minus infinity. Scores are f32 here and every query sees
/// itself or all that is seen, so that neither overflow nor an empty row can come of it.
fn hidden_keys(mask: Mask, (length, seen): (usize, usize), device: &Device) -> Result<Tensor, NnError> {
    let mut values = vec![f32::NEG_INFINITY; length * length];
    for query in 0..length {
        values[query * length..][mask.keys(query, seen)].fill(0.0);
    }
    Ok(Tensor::from_vec(values, (length, length), device)?)
}
