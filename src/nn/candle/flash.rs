//! Attention over a packed batch by the kernels of `FlashAttention` 2, which candle-flash-attn compiles.
//!
//! Dao 2023, <https://arxiv.org/abs/2307.08691>. Queries and keys are normalised and turned in f32 before, as in plain
//! tensors, and are rounded to the backend's numbers after that; scores and softmax are in f32 inside of the kernels.

use candle_core::{DType, IndexOp, Tensor};

use super::attention::{Layer, rotated, rotation};
use super::layout::{Layout, Table, index, vector};
use crate::domain::PackedBatch;
use crate::nn::NnError;
use crate::nn::attention::{Attention, PositionBias};

/// Largest head that the kernels take on every device: larger ones need more shared memory than some have.
const MAX_HEAD: usize = 256;

/// Whether the kernels take a layer over a batch: in half precision, heads of whole eights of numbers, no bias but one by
/// slopes, and no token that only sees.
pub(super) fn takes(attention: &Attention, batch: &PackedBatch, dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
        && attention.head_size.is_multiple_of(8)
        && attention.head_size <= MAX_HEAD
        && matches!(attention.position_bias, None | Some(PositionBias::Slopes(_)))
        && batch.tokens() > 0
        && !batch.has_unseen()
}

/// What the kernels compute: for each sequence softmax(scale · q kᵀ - slope · distance) v over the keys in the window.
struct Call<'a> {
    /// [tokens, heads, size]; in a head its numbers lie side by side.
    query: Tensor,
    /// [tokens, `key_value_heads`, size], likewise.
    key: Tensor,
    /// As the keys.
    value: Tensor,
    /// `[heads]` in f32.
    slopes: Option<Tensor>,
    /// [sequences + 1]: where sequences begin and the last one ends.
    bounds: &'a Tensor,
    longest: usize,
    scale: f32,
    /// How many keys before the query it sees; all if there is no number.
    before: Option<usize>,
    /// The same for those after it.
    after: Option<usize>,
}

/// The context of a batch: from [tokens, input width] to [tokens, output width].
#[cfg(feature = "flash-attn")]
pub(super) fn attend(layer: &Layer, qkv: &Tensor, layout: &Layout) -> Result<Tensor, NnError> {
    use candle_flash_attn::{flash_attn_varlen_alibi_windowed, flash_attn_varlen_windowed};

    attend_by(layer, qkv, layout, |call| {
        let Call { query, key, value, slopes, bounds, longest, scale, before, after } = call;
        Ok(match slopes {
            Some(slopes) => flash_attn_varlen_alibi_windowed(
                &query, &key, &value, &slopes, bounds, bounds, longest, longest, scale, before, after,
            )?,
            None => flash_attn_varlen_windowed(
                &query, &key, &value, bounds, bounds, longest, longest, scale, before, after,
            )?,
        })
    })
}

fn attend_by(
    layer: &Layer,
    qkv: &Tensor,
    layout: &Layout,
    kernel: impl FnOnce(Call<'_>) -> Result<Tensor, NnError>,
) -> Result<Tensor, NnError> {
    let Attention { heads, key_value_heads, head_size, scale, mask, position_bias, .. } = &layer.description;
    let tokens = qkv.dim(0)?;
    let parts = qkv.contiguous()?.reshape((tokens, heads + 2 * key_value_heads, *head_size))?;
    let [query_norm, key_norm] = layer.norms();
    let slopes = match position_bias {
        Some(PositionBias::Slopes(slopes)) => {
            let make = |device: &_| vector(slopes.clone(), device);
            Some(layout.table(Table::Slopes(slopes.clone()), make)?)
        }
        _ => None,
    };
    let bounds = layout
        .table(Table::Bounds, |device| vector(layout.cu_seqlens().iter().copied().map(index).collect(), device))?;
    let longest = layout.longest();
    // What reaches as far as the longest sequence reaches everything.
    let [before, after] = [mask.before, mask.after].map(|distance| (distance < longest).then_some(distance));
    let context = kernel(Call {
        query: placed(layer, &parts.narrow(1, 0, *heads)?, query_norm, layout)?,
        key: placed(layer, &parts.narrow(1, *heads, *key_value_heads)?, key_norm, layout)?,
        value: parts.narrow(1, heads + key_value_heads, *key_value_heads)?,
        slopes,
        bounds: &bounds,
        longest,
        scale: *scale,
        before,
        after,
    })?;
    Ok(context.reshape((tokens, heads * head_size))?)
}

/// [tokens, heads, size] of queries or keys, normalised and turned if that is asked for.
fn placed(layer: &Layer, heads: &Tensor, norm: Option<&Tensor>, layout: &Layout) -> Result<Tensor, NnError> {
    let rotary = layer.description.rotary.as_ref();
    if norm.is_none() && rotary.is_none() {
        return Ok(heads.clone());
    }
    let mut placed = layer.normed(&heads.contiguous()?.to_dtype(DType::F32)?, norm)?;
    if let Some(rotary) = rotary {
        let turns = layout.table(Table::Turns(rotary.clone()), |device| {
            let places = layout.cu_seqlens().windows(2).flat_map(|bounds| (0..bounds[1] - bounds[0]).map(index));
            let places = vector(places.collect(), device)?;
            Ok(rotation(rotary, layout.longest(), layout)?.index_select(&places, 1)?)
        })?;
        // All tokens as one sequence whose places are those of each in its own.
        placed = rotated(rotary, &placed.transpose(0, 1)?.unsqueeze(0)?, &turns)?.i(0)?.transpose(0, 1)?;
    }
    // The kernels take numbers of a head only where they lie side by side.
    Ok(placed.to_dtype(heads.dtype())?.contiguous()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::domain::TokenSeq;
    use crate::nn::candle::{Candle, Grouping};
    use crate::nn::{Backend, HeadNorm, Mask, Matrix, Pairing, Rotary};

    fn batch(lengths: &[usize], unseen: u32) -> PackedBatch {
        let sequence = |&length: &usize| TokenSeq { ids: vec![0; length], truncated: 0, unseen };
        PackedBatch::of(&lengths.iter().map(sequence).collect::<Vec<_>>())
    }

    #[test]
    fn layers_in_half_precision_are_taken_whatever_they_see() {
        let slopes = Some(PositionBias::Slopes(vec![0.5, 0.25]));
        for mask in [Mask::FULL, Mask::CAUSAL, Mask::window(3), Mask::causal_window(4)] {
            for position_bias in [None, slopes.clone()] {
                let attention = Attention { mask, position_bias, ..Attention::new(2, 64) };
                for dtype in [DType::F16, DType::BF16] {
                    assert!(takes(&attention, &batch(&[3, 0, 5], 0), dtype), "{attention:?}");
                }
            }
        }
        assert!(takes(&Attention::new(2, 256), &batch(&[3], 0), DType::F16));
    }

    #[test]
    fn what_the_kernels_cannot_do_is_left_to_plain_tensors() {
        let (plain, some) = (Attention::new(2, 64), batch(&[3, 5], 0));
        assert!(!takes(&plain, &some, DType::F32), "numbers");
        assert!(!takes(&Attention::new(2, 20), &some, DType::F16), "heads of no whole eights");
        assert!(!takes(&Attention::new(2, 264), &some, DType::F16), "large heads");
        let table = Matrix { rows: 4, columns: 2, values: vec![0.0; 8] };
        let buckets = Some(PositionBias::Buckets { table, max_distance: 8 });
        assert!(!takes(&Attention { position_bias: buckets, ..plain.clone() }, &some, DType::F16), "a learned bias");
        assert!(!takes(&plain, &batch(&[3, 5], 1), DType::F16), "tokens that are not seen");
        assert!(!takes(&plain, &batch(&[0], 0), DType::F16), "nothing to compute");
    }

    /// What the kernels are documented to compute, score by score; it refuses what they refuse.
    #[expect(clippy::needless_pass_by_value, reason = "in the place of the kernels")]
    fn by_definition(call: Call<'_>) -> Result<Tensor, NnError> {
        for tensor in [&call.query, &call.key, &call.value] {
            assert_eq!((tensor.rank(), tensor.stride().last()), (3, Some(&1)), "numbers of a head side by side");
        }
        let numbers = |tensor: &Tensor| tensor.to_vec3::<f32>().unwrap();
        let (query, key, value) = (numbers(&call.query), numbers(&call.key), numbers(&call.value));
        let slopes = call.slopes.as_ref().map(|slopes| slopes.to_vec1::<f32>().unwrap());
        let bounds = call.bounds.to_vec1::<u32>().unwrap();
        let (tokens, heads, size) = call.query.dims3()?;
        let mut out = vec![0.0; tokens * heads * size];
        for bounds in bounds.windows(2) {
            let sequence = bounds[0] as usize..bounds[1] as usize;
            assert!(sequence.len() <= call.longest);
            for token in sequence.clone() {
                let first =
                    call.before.map_or(sequence.start, |before| sequence.start.max(token.saturating_sub(before)));
                let end = call.after.map_or(sequence.end, |after| sequence.end.min(token + after + 1));
                for head in 0..heads {
                    let group = head / (heads / key[0].len());
                    let weight = |other: usize| {
                        let products = query[token][head].iter().zip(&key[other][group]).map(|(q, k)| q * k);
                        let slope = slopes.as_ref().map_or(0.0, |slopes| slopes[head]);
                        (products.sum::<f32>() * call.scale - slope * token.abs_diff(other) as f32).exp()
                    };
                    let sum: f32 = (first..end).map(weight).sum();
                    let out = &mut out[(token * heads + head) * size..][..size];
                    for other in first..end {
                        let part = weight(other) / sum;
                        out.iter_mut().zip(&value[other][group]).for_each(|(out, value)| *out += part * value);
                    }
                }
            }
        }
        Ok(Tensor::from_vec(out, (tokens, heads, size), call.query.device())?)
    }

    /// What the kernels are asked for is what plain tensors compute.
    #[track_caller]
    fn check(attention: &Attention) {
        let lengths = [3, 0, 7, 1, 5];
        let batch = batch(&lengths, 0);
        let width = attention.input_width();
        let numbers = (0..batch.tokens() * width).map(|place| ((place * 37 % 101) as f32 - 50.0) / 40.0).collect();
        let qkv = Tensor::from_vec(numbers, (batch.tokens(), width), &Device::Cpu).unwrap();
        let layer = Layer::new(attention.clone(), &Device::Cpu).unwrap();
        let layout = Layout::new(&batch, Grouping::Padded, &Device::Cpu);
        let found = attend_by(&layer, &qkv, &layout, by_definition).unwrap();
        let expected = Candle::cpu().apply_attention(&layer, &qkv, &batch).unwrap();
        assert_eq!(found.dims(), expected.dims());
        let difference = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        let difference = difference.to_scalar::<f32>().unwrap();
        assert!(difference < 2e-6, "{attention:?} differs by {difference:e}");
    }

    #[test]
    fn the_kernels_are_asked_for_what_the_layer_is() {
        let plain = Attention { key_value_heads: 2, ..Attention::new(4, 8) };
        for mask in [Mask::FULL, Mask::CAUSAL, Mask::window(2), Mask::causal_window(3), Mask { before: 0, after: 2 }] {
            check(&Attention { mask, ..plain.clone() });
            let slopes = Some(PositionBias::Slopes(vec![1.0, 0.5, 0.25, 0.125]));
            check(&Attention { mask, position_bias: slopes, ..plain.clone() });
        }
        check(&Attention { scale: 0.7, ..plain.clone() });
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            let rotary = Some(Rotary::new(100.0, 6, pairing));
            let norm = HeadNorm { query: vec![0.5; 8], key: vec![1.5; 8], epsilon: 1e-6 };
            check(&Attention { rotary: rotary.clone(), ..plain.clone() });
            check(&Attention { rotary, head_norm: Some(norm), ..plain.clone() });
        }
    }
}
