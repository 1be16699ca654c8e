//! Attention over a packed batch: sequences are neither gathered nor padded, and no score is in memory.
//!
//! First, where there is something to do, queries and keys are normalised and turned (`kernels/place.cu`); then each block
//! has some queries of one head and goes over their keys (`kernels/attention.cuh`).

use candle_core::{DType, Device, Tensor};

use super::pointwise::suffix;
use crate::domain::PackedBatch;
use crate::nn::NnError;
use crate::nn::attention::{Attention, Mask, Pairing};
use crate::nn::candle::attention::{Layer, bias_by_offset, rotation};
use crate::nn::candle::kernels::{self, Argument, Module, Shape};
use crate::nn::candle::layout::{Layout, Sequence, Table, index, vector};

/// Threads of a block of every kernel here.
const THREADS: usize = 128;

/// A kernel for heads up to a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kernel {
    /// Which size.
    size: usize,
    /// Queries of a block.
    queries: usize,
    /// Keys of a tile.
    keys: usize,
    /// Tiles of keys and values that are there at the same time: both, or one after the other.
    tiles: usize,
}

/// Those of `kernels/attention_half.cuh`.
const HALF: [Kernel; 5] = [
    Kernel { size: 32, queries: 64, keys: 64, tiles: 2 },
    Kernel { size: 64, queries: 64, keys: 64, tiles: 2 },
    Kernel { size: 96, queries: 64, keys: 32, tiles: 2 },
    Kernel { size: 128, queries: 64, keys: 32, tiles: 2 },
    Kernel { size: 256, queries: 32, keys: 32, tiles: 1 },
];

/// Those of `kernels/attention_f32.cu`.
const SINGLE: [Kernel; 4] = [
    Kernel { size: 32, queries: 64, keys: 32, tiles: 2 },
    Kernel { size: 64, queries: 64, keys: 32, tiles: 2 },
    Kernel { size: 128, queries: 32, keys: 16, tiles: 2 },
    Kernel { size: 256, queries: 16, keys: 8, tiles: 2 },
];

/// Farthest that a kernel counts: more than any text has tokens, and sums of two do not overflow.
const FARTHEST: usize = 1 << 29;

impl Kernel {
    /// The smallest that takes heads of this size.
    fn of(head_size: usize, dtype: DType) -> Option<Self> {
        let kernels = if dtype == DType::F32 { SINGLE.as_slice() } else { &HALF };
        kernels.iter().copied().find(|kernel| head_size <= kernel.size)
    }

    /// Shared memory of a block, as the sources divide it.
    fn shared_bytes(self, dtype: DType) -> usize {
        let Self { size, queries, keys, tiles } = self;
        if dtype == DType::F32 {
            ((queries + tiles * keys) * (size + 4) + queries * (keys + 4)) * 4
        } else {
            (queries + tiles * keys) * (size + 8) * 2 + queries * (keys + 8) * 4 + queries * 4
        }
    }
}

/// Whether the kernels take a layer over a batch. They do not where heads are larger than 256 numbers, and not where a
/// token sees no key at all, which has no result by the formula and which plain tensors make something of.
pub(in crate::nn::candle) fn takes(attention: &Attention, batch: &PackedBatch, dtype: DType) -> bool {
    Kernel::of(attention.head_size, dtype).is_some()
        && batch.tokens() > 0
        && batch.tokens() < FARTHEST
        && (!batch.has_unseen() || every_token_sees_a_key(attention.mask, batch))
}

/// The last token of a sequence sees least of the keys at its beginning, which are the ones that are seen.
fn every_token_sees_a_key(mask: Mask, batch: &PackedBatch) -> bool {
    let lengths = batch.cu_seqlens().windows(2).map(|bounds| bounds[1] - bounds[0]);
    lengths.enumerate().filter(|(_, length)| *length > 0).all(|(sequence, length)| {
        let seen = batch.seen(sequence);
        seen > 0 && mask.keys(length - 1, length).start < seen
    })
}

/// The context of a batch: from [tokens, input width] to [tokens, output width].
pub(in crate::nn::candle) fn attend(layer: &Layer, qkv: &Tensor, layout: &Layout) -> Result<Tensor, NnError> {
    let attention = &layer.description;
    let Attention { heads, key_value_heads, head_size, scale, mask, .. } = *attention;
    let qkv = qkv.contiguous()?;
    let (tokens, width) = qkv.dims2()?;
    assert_eq!((tokens, width), (layout.tokens(), attention.input_width()), "queries, keys and values of the batch");
    // SAFETY: each token is in a tile of each head, whose block writes all of its numbers.
    let out = unsafe { kernels::unwritten(tokens, attention.output_width(), &qkv)? };
    let Some(kernel) = Kernel::of(head_size, qkv.dtype()) else {
        return Err(NnError::other(format!("no kernel for heads of {head_size} numbers")));
    };
    let tiles = layout.table(Table::Tiles(kernel.queries), |device| {
        let tiles = tiles(layout.sequences(), kernel.queries);
        Ok(Tensor::from_vec(tiles.concat(), (tiles.len(), 4), device)?)
    })?;
    let longest = layout.longest();
    let bias = match &attention.position_bias {
        None => None,
        Some(bias) => Some(layout.table(Table::Bias(Mask::FULL, Some(bias.clone()), longest), |device| {
            bias_by_offset(Mask::FULL, Some(bias), heads, longest, device)
        })?),
    };
    let placed = if attention.head_norm.is_some() || attention.rotary.is_some() {
        Some(place(layer, &qkv, layout)?)
    } else {
        None
    };
    let (query, query_key_width) = match &placed {
        Some(placed) => (placed, (heads + key_value_heads) * head_size),
        None => (&qkv, width),
    };
    let tile_count = tiles.dim(0)?;
    let arguments = [
        Argument::Tensor(query),
        Argument::Behind(query, heads * head_size),
        Argument::Behind(&qkv, (heads + key_value_heads) * head_size),
        Argument::Tensor(&out),
        Argument::Tensor(&tiles),
        Argument::Maybe(bias.as_ref()),
        Argument::Long(query_key_width as u64),
        Argument::Long(width as u64),
        kernels::int(tile_count),
        kernels::int(heads),
        kernels::int(heads / key_value_heads),
        kernels::int(head_size),
        kernels::int(mask.before.min(FARTHEST)),
        kernels::int(mask.after.min(FARTHEST)),
        kernels::int(if bias.is_some() { 2 * longest - 1 } else { 0 }),
        Argument::Int(kernels::is_aligned(head_size, &[query, &qkv, &out]).into()),
        Argument::Float(scale),
    ];
    let name = format!("attention_{}_{}", suffix(&qkv)?, kernel.size);
    let shape = Shape { blocks: tile_count * heads, threads: THREADS, shared_bytes: kernel.shared_bytes(qkv.dtype()) };
    // SAFETY: these are the parameters of `attention_*`; tiles name tokens of the batch alone, of which there are as many
    // as `qkv`, `placed` and `out` have rows; heads and strides are those of their columns, the bias reaches as far as the
    // longest sequence, and nobody else has `out`.
    unsafe { kernels::launch(qkv.device(), Module::Attention, &name, shape, &arguments)? };
    Ok(out)
}

/// Queries and keys with their norms and at their positions: [tokens, (heads + `key_value_heads`) · `head_size`].
fn place(layer: &Layer, qkv: &Tensor, layout: &Layout) -> Result<Tensor, NnError> {
    let Attention { heads, key_value_heads, head_size, ref rotary, ref head_norm, .. } = layer.description;
    let (tokens, width) = qkv.dims2()?;
    let all_heads = heads + key_value_heads;
    // SAFETY: the kernel writes every number of every head.
    let placed = unsafe { kernels::unwritten(tokens, all_heads * head_size, qkv)? };
    let positions = layout.table(Table::Positions, |device| positions(layout.sequences(), device))?;
    let longest = layout.longest();
    let rotary = rotary.as_ref().filter(|rotary| !rotary.inverse_frequencies.is_empty());
    let rotation = rotary.map(|rotary| rotation(rotary, longest, layout)).transpose()?;
    let pairs = rotary.map_or(0, |rotary| rotary.inverse_frequencies.len());
    let interleaved = rotary.is_some_and(|rotary| rotary.pairing == Pairing::Interleaved);
    let norms = layer.head_norm.as_ref();
    let units = tokens * all_heads;
    let arguments = [
        Argument::Tensor(&placed),
        Argument::Tensor(qkv),
        Argument::Tensor(&positions),
        Argument::Maybe(rotation.as_ref()),
        Argument::Maybe(norms.map(|norms| &norms.0)),
        Argument::Maybe(norms.map(|norms| &norms.1)),
        Argument::Long(units as u64),
        Argument::Long(width as u64),
        Argument::Long((longest * pairs) as u64),
        kernels::int(heads),
        kernels::int(all_heads),
        kernels::int(head_size),
        kernels::int(pairs),
        Argument::Int(interleaved.into()),
        Argument::Float(head_norm.as_ref().map_or(0.0, |norm| norm.epsilon)),
    ];
    let kernel = format!("place_{}", suffix(qkv)?);
    let shape = Shape { blocks: units.div_ceil(THREADS / 32), threads: THREADS, shared_bytes: 0 };
    // SAFETY: these are the parameters of `place_*`; a warp has one of the units, which are heads of tokens of `qkv` and of
    // `placed`, positions are those of its tokens and shorter than the table, the weights are as wide as a head, and nobody
    // else has `placed`.
    unsafe { kernels::launch(qkv.device(), Module::Place, &kernel, shape, &arguments)? };
    Ok(placed)
}

/// Queries of each block: first token of the sequence, its length, how many of its tokens are seen, first query. Blocks
/// with most work come first; under a causal mask those are the last queries of a sequence.
fn tiles(sequences: impl Iterator<Item = Sequence>, queries: usize) -> Vec<[u32; 4]> {
    let mut sequences: Vec<Sequence> = sequences.collect();
    sequences.sort_by_key(|sequence| std::cmp::Reverse(sequence.length));
    let of = |&Sequence { start, length, seen }: &Sequence| {
        let firsts = (0..length).step_by(queries).rev();
        firsts.map(move |first| [start, length, seen, first].map(index))
    };
    sequences.iter().flat_map(of).collect()
}

/// `[tokens]`: the place of each in its sequence.
fn positions(sequences: impl Iterator<Item = Sequence>, device: &Device) -> Result<Tensor, NnError> {
    vector(sequences.flat_map(|sequence| (0..sequence.length).map(index)).collect(), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TokenSeq;
    use crate::nn::LARGEST_FUSED_HEAD;
    use crate::nn::candle::kernels::MAX_SHARED;

    #[test]
    fn every_size_of_heads_up_to_256_has_a_kernel_that_fits_into_a_block() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for size in 1..=LARGEST_FUSED_HEAD {
                let kernel = Kernel::of(size, dtype).unwrap();
                assert!(kernel.size >= size && kernel.shared_bytes(dtype) <= MAX_SHARED, "{size} in {dtype:?}");
            }
            assert_eq!(Kernel::of(LARGEST_FUSED_HEAD + 1, dtype), None);
        }
    }

    #[test]
    fn tiles_cover_every_token_once_and_long_sequences_come_first() {
        let sequences = [(0, 3), (3, 130), (133, 64)].map(|(start, length)| Sequence { start, length, seen: length });
        let found = tiles(sequences.into_iter(), 64);
        assert_eq!(found[..3], [[3, 130, 130, 128], [3, 130, 130, 64], [3, 130, 130, 0]]);
        assert_eq!(found[3..], [[133, 64, 64, 0], [0, 3, 3, 0]]);
        assert!(tiles(std::iter::empty(), 64).is_empty());
    }

    #[test]
    fn batches_in_which_a_token_sees_no_key_are_left_to_plain_tensors() {
        let batch = |lengths: &[(usize, u32)]| {
            let sequence = |&(length, unseen)| TokenSeq { ids: vec![0; length], truncated: 0, unseen };
            PackedBatch::of(&lengths.iter().map(sequence).collect::<Vec<_>>())
        };
        let takes = |mask, lengths: &[(usize, u32)]| {
            takes(&Attention { mask, ..Attention::new(1, 16) }, &batch(lengths), DType::F32)
        };
        assert!(takes(Mask::FULL, &[(5, 4), (0, 0), (3, 0)]));
        assert!(!takes(Mask::FULL, &[(5, 0), (5, 5)]));
        // The last of five tokens sees the third and the fourth.
        assert!(takes(Mask::window(2), &[(5, 2)]));
        assert!(!takes(Mask::window(2), &[(5, 3)]));
        assert!(takes(Mask::CAUSAL, &[(5, 4)]));
        assert!(!super::takes(&Attention::new(1, 257), &batch(&[(5, 0)]), DType::F32));
    }
}
