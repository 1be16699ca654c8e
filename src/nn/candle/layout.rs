//! What follows from the lengths of a batch alone and lies on the device: made once for a batch and used by every layer.

use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{Device, Tensor};

use super::buckets::{Bucket, Cost, Grouping, buckets};
use crate::domain::PackedBatch;
use crate::nn::attention::{Mask, PositionBias, Rotary};
use crate::nn::{Distances, NnError};

/// What is added to the score of a key that is not seen. Finite, so that no row can be without a number; far below any
/// score, so that its exponential is zero; and far above the least f32, so that two of them still are one.
pub(super) const HIDDEN: f32 = -1e9;

/// Largest table that is kept from one layer to the next, in numbers: 16 MB in f32.
const MAX_KEPT: usize = 1 << 22;

/// A batch on a device.
#[derive(Debug)]
pub(super) struct Layout {
    cu_seqlens: Vec<usize>,
    seen: Vec<usize>,
    buckets: Vec<Bucket>,
    /// The same on the device, once somebody has asked for them.
    placed: OnceLock<Vec<PlacedBucket>>,
    device: Device,
    kept: Mutex<Vec<(Table, Tensor)>>,
}

/// A bucket and where its tokens are.
#[derive(Debug)]
pub(super) struct PlacedBucket {
    pub(super) bucket: Bucket,
    /// None if all sequences have one length, so that nothing is to be padded.
    padding: Option<Padding>,
    /// [sequences, 1, 1, length]: 0 for keys, [`HIDDEN`] for padding and for tokens that are not seen. None if there are
    /// only keys.
    pub(super) hidden: Option<Tensor>,
}

/// How tokens get into and out of a bucket with sequences of several lengths.
#[derive(Debug)]
struct Padding {
    /// [sequences · length]: the token of the batch for each place. Padding repeats the first token of its own sequence,
    /// so that nothing foreign can get into it.
    into: Tensor,
    /// [own tokens]: the place of each token.
    out: Tensor,
}

/// What a table is of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Table {
    /// [2, length, pairs]: cosines and sines.
    Rotation(Rotary, usize),
    /// [heads, 2 · length - 1], or with one row for all heads: what is added to a score by the distance.
    Bias(Mask, Option<PositionBias>, usize),
    /// [heads, rows, length]: the same for some queries and every key.
    Biases(Mask, Option<PositionBias>, Queries),
    /// [rows, length]: where a table by distance has the number for a query and a key.
    Offsets(Queries),
    /// [length, length]: the row for a query and a key.
    Rows(Distances, usize),
    /// `[tokens]`: the place of each token in its sequence.
    Positions,
    /// [tiles, 4]: blocks of so many queries, as `fused::attention` has them.
    Tiles(usize),
    /// [sequences + 1]: where sequences begin and the last one ends.
    #[cfg(any(feature = "flash-attn", test))]
    Bounds,
    /// `[heads]`: how fast far keys lose weight.
    #[cfg(any(feature = "flash-attn", test))]
    Slopes(Vec<f32>),
    /// [2, tokens, pairs]: cosines and sines of each token's place in its sequence.
    #[cfg(any(feature = "flash-attn", test))]
    Turns(Rotary),
}

/// A sequence of a batch that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequence {
    /// Its first token in the batch.
    pub(super) start: usize,
    pub(super) length: usize,
    /// How many of its leading tokens are seen.
    pub(super) seen: usize,
}

/// Some queries of sequences of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queries {
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) length: usize,
}

impl Layout {
    pub(super) fn new(batch: &PackedBatch, grouping: Grouping, device: &Device) -> Self {
        let (cu_seqlens, seen) = (batch.cu_seqlens().to_vec(), seen(batch).collect());
        Self {
            cu_seqlens,
            seen,
            buckets: buckets(batch, grouping, Cost::Pairs),
            placed: OnceLock::new(),
            device: device.clone(),
            kept: Mutex::default(),
        }
    }

    /// Which sequences are computed together.
    pub(super) fn buckets(&self) -> Result<&[PlacedBucket], NnError> {
        if self.placed.get().is_none() {
            let place = |bucket: &Bucket| PlacedBucket::new(bucket.clone(), &self.device);
            let placed = self.buckets.iter().map(place).collect::<Result<_, _>>()?;
            // Somebody else's are the same.
            let _ = self.placed.set(placed);
        }
        Ok(self.placed.get().map_or(&[], Vec::as_slice))
    }

    /// Those of the batch that are not empty.
    pub(super) fn sequences(&self) -> impl Iterator<Item = Sequence> {
        let bounds = self.cu_seqlens.windows(2).zip(&self.seen);
        let sequences =
            bounds.map(|(bounds, &seen)| Sequence { start: bounds[0], length: bounds[1] - bounds[0], seen });
        sequences.filter(|sequence| sequence.length > 0)
    }

    /// Length of the longest sequence.
    pub(super) fn longest(&self) -> usize {
        self.sequences().map(|sequence| sequence.length).max().unwrap_or(0)
    }

    /// Of all sequences.
    pub(super) fn tokens(&self) -> usize {
        self.cu_seqlens.last().copied().unwrap_or(0)
    }

    /// Where sequences begin and the last one ends.
    #[cfg(any(feature = "flash-attn", test))]
    pub(super) fn cu_seqlens(&self) -> &[usize] {
        &self.cu_seqlens
    }

    /// Whether it is that of a batch.
    pub(super) fn is_of(&self, batch: &PackedBatch) -> bool {
        self.cu_seqlens == batch.cu_seqlens() && self.seen.iter().copied().eq(seen(batch))
    }

    /// A table that is made unless it is there; a large one is made whenever it is asked for.
    pub(super) fn table(
        &self,
        table: Table,
        make: impl FnOnce(&Device) -> Result<Tensor, NnError>,
    ) -> Result<Tensor, NnError> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tensor)) = lock().iter().find(|(kept, _)| *kept == table) {
            return Ok(tensor.clone());
        }
        let tensor = make(&self.device)?;
        if tensor.elem_count() <= MAX_KEPT {
            lock().push((table, tensor.clone()));
        }
        Ok(tensor)
    }
}

fn seen(batch: &PackedBatch) -> impl Iterator<Item = usize> {
    (0..batch.sequences()).map(|sequence| batch.seen(sequence))
}

impl PlacedBucket {
    fn new(bucket: Bucket, device: &Device) -> Result<Self, NnError> {
        let padding = if bucket.is_even() { None } else { Some(Padding::new(&bucket, device)?) };
        let hidden = if bucket.seen.iter().any(|seen| *seen < bucket.length) {
            let length = bucket.length;
            let of_sequence = |seen: usize| (0..length).map(move |key| if key < seen { 0.0 } else { HIDDEN });
            let hidden: Vec<f32> = bucket.seen.iter().copied().flat_map(of_sequence).collect();
            Some(Tensor::from_vec(hidden, (bucket.sequences.len(), 1, 1, bucket.length), device)?)
        } else {
            None
        };
        Ok(Self { bucket, padding, hidden })
    }

    /// [sequences · length, width] of the [tokens, width] of a batch.
    pub(super) fn gathered(&self, activations: &Tensor) -> Result<Tensor, NnError> {
        let tokens = self.bucket.tokens();
        Ok(match &self.padding {
            None => activations.narrow(0, tokens.start, tokens.len())?,
            Some(padding) => activations.index_select(&padding.into, 0)?,
        })
    }

    /// Back again, to the tokens of the bucket.
    pub(super) fn scattered(&self, padded: Tensor) -> Result<Tensor, NnError> {
        Ok(match &self.padding {
            None => padded,
            Some(padding) => padded.index_select(&padding.out, 0)?,
        })
    }
}

impl Padding {
    fn new(bucket: &Bucket, device: &Device) -> Result<Self, NnError> {
        let Bucket { sequences, length, .. } = bucket;
        let (mut into, mut out) = (Vec::new(), Vec::new());
        for (place, sequence) in sequences.iter().enumerate() {
            let padding = length - sequence.len();
            into.extend(sequence.clone().map(index));
            into.extend(std::iter::repeat_n(index(sequence.start), padding));
            out.extend((place * length..).take(sequence.len()).map(index));
        }
        Ok(Self { into: vector(into, device)?, out: vector(out, device)? })
    }
}

/// As an index on the device; batches are far smaller than what it can count.
pub(super) fn index(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// `[values]`.
pub(super) fn vector<T: candle_core::WithDType>(values: Vec<T>, device: &Device) -> Result<Tensor, NnError> {
    let length = values.len();
    Ok(Tensor::from_vec(values, length, device)?)
}
