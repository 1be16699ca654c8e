//! From hidden states to weights of a vocabulary on the device: logits of some tokens at a time, and one copy to the host.
//!
//! On some devices max(NaN, x) is x. Logits are linear in the hidden states, so those of a sequence's mean state are NaN
//! wherever a token's are: they are added, times zero.

use candle_core::{DType, Device, Tensor};

use super::buckets::{Bucket, Cost, Grouping, buckets};
use super::layout::{index, vector};
use super::weights::Linear;
use crate::domain::{PackedBatch, SparseVector};
use crate::model::pooling::{SpladeActivation, SpladePooling, SpladeStrategy};
use crate::nn::{NnError, Pending};

/// How many logits exist at once: 128 MiB in f32. The layer's weights are read once for as many tokens as that is.
const MAX_LOGITS: usize = 1 << 25;

/// The same where each of them becomes a weight in f32, which takes five tensors.
const MAX_WEIGHTS: usize = MAX_LOGITS / 4;

/// How many weights of sequences wait on the device to be copied: 128 MiB. A batch has as many copies as it needs for
/// that, and one as a rule.
const MAX_RESULTS: usize = 1 << 25;

/// Most bytes that are taken at a time, whatever the batch: the logits and half as many again, and the results, beside
/// which those of the batch before may still wait.
pub const VOCABULARY_BYTES: u64 = 4 * (MAX_LOGITS + MAX_LOGITS / 2 + 2 * MAX_RESULTS) as u64;

/// One sparse vector a sequence, see [`Backend::weigh_vocabulary`](crate::nn::Backend::weigh_vocabulary).
pub(super) fn weigh(
    (decoder, input): (&Linear, &Tensor),
    pooling: SpladePooling,
    batch: &PackedBatch,
    grouping: Grouping,
    copied_later: &dyn Fn(&Tensor) -> Result<Pending, NnError>,
) -> Result<Pending<Vec<SparseVector>>, NnError> {
    let vocabulary = decoder.weight.dim(1)?;
    let buckets = buckets(batch, grouping, Cost::Tokens);
    let sequences = buckets.iter().map(|bucket| bucket.sequences.len()).sum();
    let mut results = Results::new(sequences, vocabulary, input.device())?;
    let head = Head { decoder, input, pooling, vocabulary };
    for bucket in &buckets {
        let at_once = head.sequences_at_once(bucket.length).min(results.rows());
        for first in (0..bucket.sequences.len()).step_by(at_once) {
            let weights = head.weights(&bucket.some(first, at_once))?;
            results.take(&weights, copied_later)?;
        }
    }
    let empty: Vec<bool> = batch.cu_seqlens().windows(2).map(|bounds| bounds[0] == bounds[1]).collect();
    Ok(results.finish(copied_later)?.map(|vectors| {
        let mut vectors = vectors.into_iter();
        let of_sequence = |empty| if empty { None } else { vectors.next() }.unwrap_or_default();
        empty.into_iter().map(of_sequence).collect()
    }))
}

/// A layer and what goes into it.
struct Head<'a> {
    decoder: &'a Linear,
    /// [tokens, inputs].
    input: &'a Tensor,
    pooling: SpladePooling,
    vocabulary: usize,
}

impl Head<'_> {
    /// How many sequences of one length have their logits computed together.
    fn sequences_at_once(&self, length: usize) -> usize {
        // What is made of the last one takes several times what is left of a sequence.
        (self.tokens_at_once() / length.max(8)).max(1)
    }

    fn tokens_at_once(&self) -> usize {
        let logits = match self.pooling.strategy {
            SpladeStrategy::Max => MAX_LOGITS,
            SpladeStrategy::Sum => MAX_WEIGHTS,
        };
        (logits / self.vocabulary.max(1)).max(1)
    }

    /// [sequences, vocabulary] in f32.
    fn weights(&self, bucket: &Bucket) -> Result<Tensor, NnError> {
        let sequences = bucket.sequences.len();
        let places = (self.tokens_at_once() / sequences).max(1);
        let mut left: Option<Tensor> = None;
        let mut hidden: Option<Tensor> = None;
        for first in (0..bucket.length).step_by(places) {
            let block = Block { bucket, first, places: places.min(bucket.length - first) };
            let tokens = self.input.index_select(&block.tokens(self.input.device())?, 0)?;
            hidden = Some(sum(hidden, block.sum(&tokens)?)?);
            let logits = tokens.matmul(&self.decoder.weight)?;
            left = Some(match self.pooling.strategy {
                SpladeStrategy::Max => {
                    let largest = largest(logits.reshape((block.places, sequences, self.vocabulary))?)?;
                    match left {
                        Some(left) => left.maximum(&largest)?,
                        None => largest,
                    }
                }
                SpladeStrategy::Sum => sum(left, block.sum(&self.weight(&self.biased(&logits)?)?)?)?,
            });
        }
        let (Some(left), Some(hidden)) = (left, hidden) else {
            return Ok(Tensor::zeros((0, self.vocabulary), DType::F32, self.input.device())?);
        };
        let weights = match self.pooling.strategy {
            // The activation grows with the logit, so that the largest logit has the largest weight.
            SpladeStrategy::Max => self.weight(&self.biased(&left)?)?,
            SpladeStrategy::Sum => left,
        };
        let mean = (hidden / bucket.length as f64)?.to_dtype(self.input.dtype())?;
        let nothing = (self.biased(&mean.matmul(&self.decoder.weight)?)? * 0.0)?;
        Ok((weights + nothing)?)
    }

    /// In f32, with the layer's bias.
    fn biased(&self, products: &Tensor) -> Result<Tensor, NnError> {
        let products = products.to_dtype(DType::F32)?;
        Ok(match &self.decoder.bias {
            Some(bias) => products.broadcast_add(&bias.to_dtype(DType::F32)?)?,
            None => products,
        })
    }

    /// Of logits in f32.
    fn weight(&self, logits: &Tensor) -> Result<Tensor, NnError> {
        let once = logarithm(&logits.relu()?)?;
        match self.pooling.activation {
            SpladeActivation::Relu => Ok(once),
            SpladeActivation::Log1pRelu => logarithm(&once),
        }
    }
}

/// log(1 + x), with all digits where x is small: what is lost in the sum with 1 is lost in the divisor as well.
///
/// W. Kahan; Goldberg 1991, "What every computer scientist should know about floating-point arithmetic", theorem 4.
fn logarithm(x: &Tensor) -> Result<Tensor, NnError> {
    let one_more = (x + 1.0)?;
    let added = (&one_more - 1.0)?;
    let quotient = (one_more.log()? * x)?.div(&added)?;
    Ok(added.eq(0.0)?.where_cond(x, &quotient)?)
}

fn sum(one: Option<Tensor>, other: Tensor) -> Result<Tensor, NnError> {
    Ok(match one {
        Some(one) => (one + other)?,
        None => other,
    })
}

/// The largest over the first dimension: the first half with the second, until one is left. Halves are contiguous, and
/// read in the order in which they lie.
fn largest(mut logits: Tensor) -> Result<Tensor, NnError> {
    loop {
        let count = logits.dim(0)?;
        if count <= 1 {
            return Ok(logits.squeeze(0)?);
        }
        // Where the number is odd, the middle one is in both halves.
        let half = count.div_ceil(2);
        logits = logits.narrow(0, 0, half)?.maximum(&logits.narrow(0, count - half, half)?)?;
    }
}

/// Some places of all sequences of a bucket.
struct Block<'a> {
    bucket: &'a Bucket,
    first: usize,
    places: usize,
}

impl Block<'_> {
    /// [places · sequences]: the tokens. Padding repeats the last of its own sequence, so that it changes no maximum, and
    /// nothing foreign gets into a sum.
    fn tokens(&self, device: &Device) -> Result<Tensor, NnError> {
        let at = |place: usize| {
            self.bucket.sequences.iter().map(move |sequence| index((sequence.start + place).min(sequence.end - 1)))
        };
        vector((self.first..self.first + self.places).flat_map(at).collect(), device)
    }

    /// [sequences, width] in f32: the sum over the places that are tokens of [places · sequences, width].
    fn sum(&self, tokens: &Tensor) -> Result<Tensor, NnError> {
        let (sequences, width) = (self.bucket.sequences.len(), tokens.dim(1)?);
        let tokens = tokens.to_dtype(DType::F32)?.reshape((self.places, sequences, width))?;
        let tokens = if self.bucket.is_even() {
            tokens
        } else {
            let counts = |place: usize| {
                self.bucket.sequences.iter().map(move |sequence| if place < sequence.len() { 1.0 } else { 0.0 })
            };
            let counts: Vec<f32> = (self.first..self.first + self.places).flat_map(counts).collect();
            tokens.broadcast_mul(&Tensor::from_vec(counts, (self.places, sequences, 1), tokens.device())?)?
        };
        added(tokens)
    }
}

/// The sum over the first dimension, by halves as [`largest`].
fn added(mut tokens: Tensor) -> Result<Tensor, NnError> {
    loop {
        let count = tokens.dim(0)?;
        if count <= 1 {
            return Ok(tokens.squeeze(0)?);
        }
        let half = count / 2;
        let sums = (tokens.narrow(0, 0, half)? + tokens.narrow(0, half, half)?)?;
        tokens = if count % 2 == 0 { sums } else { Tensor::cat(&[sums, tokens.narrow(0, count - 1, 1)?], 0)? };
    }
}

/// Weights of sequences on their way to the host.
struct Results {
    /// [rows, vocabulary] on the device.
    weights: Tensor,
    /// How many rows wait.
    filled: usize,
    /// What is on the host already.
    vectors: Vec<SparseVector>,
}

impl Results {
    /// For so many sequences in all.
    fn new(sequences: usize, vocabulary: usize, device: &Device) -> Result<Self, NnError> {
        let rows = sequences.min(MAX_RESULTS / vocabulary.max(1)).max(1);
        let weights = Tensor::zeros((rows, vocabulary), DType::F32, device)?;
        Ok(Self { weights, filled: 0, vectors: Vec::with_capacity(sequences) })
    }

    /// Most rows that wait.
    fn rows(&self) -> usize {
        self.weights.dims()[0]
    }

    /// Takes the [sequences, vocabulary] of some more. Where there is no room for them, those that wait are copied first.
    fn take(
        &mut self,
        weights: &Tensor,
        copied_later: &dyn Fn(&Tensor) -> Result<Pending, NnError>,
    ) -> Result<(), NnError> {
        let sequences = weights.dim(0)?;
        if self.filled + sequences > self.rows() {
            let copied = copied_later(&self.weights.narrow(0, 0, self.filled)?)?.get()?;
            self.vectors.extend(sparse(&copied, self.weights.dim(1)?));
            self.filled = 0;
        }
        self.weights.slice_set(weights, 0, self.filled)?;
        self.filled += sequences;
        Ok(())
    }

    /// Those of all sequences.
    fn finish(
        self,
        copied_later: &dyn Fn(&Tensor) -> Result<Pending, NnError>,
    ) -> Result<Pending<Vec<SparseVector>>, NnError> {
        let Self { weights, filled, mut vectors } = self;
        // Devices refuse to do nothing.
        if filled == 0 {
            return Ok(Pending::ready(vectors));
        }
        let vocabulary = weights.dim(1)?;
        Ok(copied_later(&weights.narrow(0, 0, filled)?)?.map(move |copied| {
            vectors.extend(sparse(&copied, vocabulary));
            vectors
        }))
    }
}

/// What is not zero of [sequences, vocabulary].
fn sparse(weights: &[f32], vocabulary: usize) -> impl Iterator<Item = SparseVector> {
    weights.chunks_exact(vocabulary.max(1)).map(SparseVector::of)
}
