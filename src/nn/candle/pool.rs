//! Pooling of a whole batch in a few operations, in f32, with one copy to the host when the result is read.

use candle_core::{D, DType, Device, Tensor};

use super::buckets::{Bucket, Cost, Grouping, buckets};
use super::layout::{index, vector};
use crate::domain::PackedBatch;
use crate::model::pooling::Pooling;
use crate::nn::{NnError, Pending};

/// [sequences, poolings · width] on the host, as [`Backend::pool`](crate::nn::Backend::pool) says.
pub(super) fn pool(
    poolings: &[Pooling],
    left_out: usize,
    hidden: &Tensor,
    batch: &PackedBatch,
    grouping: Grouping,
    copied_later: impl FnOnce(&Tensor) -> Result<Pending, NnError>,
) -> Result<Pending, NnError> {
    let width = poolings.len() * hidden.dim(D::Minus1)?;
    let mut vectors = Vec::new();
    for bucket in buckets(batch, grouping, Cost::Pairs) {
        vectors.push(pool_bucket(poolings, left_out, hidden, &bucket)?);
    }
    let pooled = match vectors.as_slice() {
        [] => Pending::ready(Vec::new()),
        vectors => copied_later(&Tensor::cat(vectors, 0)?)?,
    };
    let lengths: Vec<usize> = batch.cu_seqlens().windows(2).map(|bounds| bounds[1] - bounds[0]).collect();
    let poolings = poolings.to_vec();
    Ok(pooled.map(move |pooled| {
        let mut pooled = pooled.chunks_exact(width.max(1));
        let mut values = Vec::with_capacity(lengths.len() * width);
        for length in lengths {
            let vector = if length == 0 { None } else { pooled.next() };
            match vector {
                Some(vector) if length > left_out => values.extend_from_slice(vector),
                Some(vector) => values.extend(of_nothing(&poolings, vector)),
                None => values.extend(std::iter::repeat_n(0.0, width)),
            }
        }
        values
    }))
}

/// What sentence-transformers gives where pooling leaves out every token; `vector` has the first token's for
/// [`Pooling::Cls`].
fn of_nothing<'a>(poolings: &'a [Pooling], vector: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    let parts = vector.chunks_exact((vector.len() / poolings.len()).max(1));
    parts.zip(poolings).flat_map(|(part, pooling)| {
        part.iter().map(move |value| match pooling {
            Pooling::Cls => *value,
            Pooling::Max => f32::NEG_INFINITY,
            _ => 0.0,
        })
    })
}

/// [sequences, poolings · width] of a bucket.
fn pool_bucket(poolings: &[Pooling], left_out: usize, hidden: &Tensor, bucket: &Bucket) -> Result<Tensor, NnError> {
    let device = hidden.device();
    let kept = Kept { left_out, bucket };
    let (sequences, width) = (bucket.sequences.len(), hidden.dim(D::Minus1)?);
    let needs_all = poolings.iter().any(|pooling| !matches!(pooling, Pooling::Cls | Pooling::LastToken));
    let tokens = if needs_all {
        let tokens = hidden.index_select(&kept.tokens(device)?, 0)?.to_dtype(DType::F32)?;
        Some(tokens.reshape((sequences, bucket.length, width))?)
    } else {
        None
    };
    let one = |pooling: Pooling| -> Result<Tensor, NnError> {
        Ok(match (pooling, &tokens) {
            (Pooling::Cls, _) => hidden.index_select(&kept.firsts(device)?, 0)?.to_dtype(DType::F32)?,
            (Pooling::LastToken, _) | (_, None) => {
                hidden.index_select(&kept.lasts(device)?, 0)?.to_dtype(DType::F32)?
            }
            // The largest of NaN and a number is the number on some devices; a sum is no number then.
            (Pooling::Max, Some(tokens)) => (tokens.max(1)? + (tokens.sum(1)? * 0.0)?)?,
            (_, Some(tokens)) => kept.weights(pooling, device)?.matmul(tokens)?.squeeze(1)?,
        })
    };
    let vectors = poolings.iter().map(|&pooling| one(pooling)).collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat(&vectors, 1)?)
}

/// The tokens of a bucket that take part.
struct Kept<'a> {
    left_out: usize,
    bucket: &'a Bucket,
}

impl Kept<'_> {
    /// The first token of each sequence that takes part; the very first where none does.
    fn first(&self) -> impl Iterator<Item = usize> {
        let first = move |sequence: &std::ops::Range<usize>| {
            let left_out = if sequence.len() > self.left_out { self.left_out } else { 0 };
            sequence.start + left_out
        };
        self.bucket.sequences.iter().map(first)
    }

    fn firsts(&self, device: &Device) -> Result<Tensor, NnError> {
        vector(self.first().map(index).collect(), device)
    }

    fn lasts(&self, device: &Device) -> Result<Tensor, NnError> {
        vector(self.bucket.sequences.iter().map(|sequence| index(sequence.end - 1)).collect(), device)
    }

    /// [sequences · length]: the tokens; in the places of padding and of tokens that are left out, one that takes part,
    /// which changes no maximum and has no weight.
    fn tokens(&self, device: &Device) -> Result<Tensor, NnError> {
        let mut tokens = Vec::with_capacity(self.bucket.sequences.len() * self.bucket.length);
        for (sequence, first) in self.bucket.sequences.iter().zip(self.first()) {
            tokens.extend(sequence.clone().map(|token| index(token.max(first))));
            tokens.extend(std::iter::repeat_n(index(first), self.bucket.length - sequence.len()));
        }
        vector(tokens, device)
    }

    /// [sequences, 1, length]: how much of each token is in the sum.
    fn weights(&self, pooling: Pooling, device: &Device) -> Result<Tensor, NnError> {
        let length = self.bucket.length;
        let mut weights = Vec::with_capacity(self.bucket.sequences.len() * length);
        for sequence in &self.bucket.sequences {
            let count = sequence.len().saturating_sub(self.left_out) as f64;
            // Positions count from 1, left out or not.
            let positions = (self.left_out + 1..=sequence.len()).sum::<usize>() as f64;
            weights.extend((0..length).map(|place| {
                let takes_part = (self.left_out..sequence.len()).contains(&place);
                let weight = match pooling {
                    _ if !takes_part => 0.0,
                    Pooling::MeanSqrtLen => 1.0 / count.sqrt(),
                    Pooling::WeightedMean => (place + 1) as f64 / positions,
                    _ => 1.0 / count,
                };
                #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
                let weight = weight as f32;
                weight
            }));
        }
        Ok(Tensor::from_vec(weights, (self.bucket.sequences.len(), 1, length), device)?)
    }
}
