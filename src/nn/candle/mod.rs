//! The operations on candle tensors: plain, and right on every device that candle knows.
//!
//! Sequences of one length are computed together, sequences of different lengths one group after the other, so that
//! nothing is padded. Batches come sorted by length, which makes the groups large.

mod attention;
mod relative_attention;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops;

use super::splade::rows_of_a_block;
use super::{
    Activation, Attention, Backend, Epilogue, FeedForward, Inner, Matrix, NnError, Pooling, RelativeAttention,
    SpladePooling,
};
use crate::domain::{PackedBatch, SparseVector};

/// Operations on one candle device.
#[derive(Debug, Clone)]
pub struct Candle {
    device: Device,
}

impl Candle {
    /// Operations on the CPU, in f32.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu }
    }

    fn matrix(&self, matrix: Matrix) -> Result<Tensor, NnError> {
        Ok(Tensor::from_vec(matrix.values, (matrix.rows, matrix.columns), &self.device)?)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Tensor, NnError> {
        let length = values.len();
        Ok(Tensor::from_vec(values, length, &self.device)?)
    }
}

/// Weight as [inputs, outputs] and bias of a linear layer.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// A normalisation of token vectors.
#[derive(Debug)]
pub enum Norm {
    /// To mean 0 and variance 1, then weight and bias.
    Layer {
        /// `[width]`.
        weight: Tensor,
        /// `[width]`.
        bias: Tensor,
        /// Added to the variance.
        epsilon: f32,
    },
    /// To mean square 1, then weight.
    Rms {
        /// `[width]`.
        weight: Tensor,
        /// Added to the mean square.
        epsilon: f32,
    },
}

/// Consecutive sequences of one length.
struct Group {
    first_token: usize,
    sequences: usize,
    length: usize,
    /// How many leading tokens of each are seen.
    seen: usize,
}

/// Cuts a batch into runs of sequences of the same length, of which as much is seen; empty sequences have no tokens and appear nowhere.
fn groups_of_one_length(batch: &PackedBatch) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (sequence, bounds) in batch.cu_seqlens().windows(2).enumerate() {
        let (length, seen) = (bounds[1] - bounds[0], batch.seen(sequence));
        match groups.last_mut() {
            _ if length == 0 => {}
            Some(group) if (group.length, group.seen) == (length, seen) => group.sequences += 1,
            _ => groups.push(Group { first_token: bounds[0], sequences: 1, length, seen }),
        }
    }
    groups
}

/// The results of all groups of a batch, one after the other.
fn by_groups(
    qkv: &Tensor,
    output_width: usize,
    batch: &PackedBatch,
    apply: impl Fn(&Tensor, &Group) -> Result<Tensor, NnError>,
) -> Result<Tensor, NnError> {
    let mut contexts = Vec::new();
    for group in groups_of_one_length(batch) {
        contexts.push(apply(&qkv.narrow(0, group.first_token, group.sequences * group.length)?, &group)?);
    }
    if contexts.is_empty() {
        return Ok(Tensor::zeros((0, output_width), qkv.dtype(), qkv.device())?);
    }
    Ok(Tensor::cat(&contexts, 0)?)
}

impl Backend for Candle {
    type Activations = Tensor;
    type Embedding = Tensor;
    type Linear = Linear;
    type Norm = Norm;
    type Attention = Attention;
    type RelativeAttention = RelativeAttention;

    fn embedding(&self, table: Matrix) -> Result<Tensor, NnError> {
        self.matrix(table)
    }

    fn linear(&self, weight: Matrix, bias: Option<Vec<f32>>) -> Result<Linear, NnError> {
        let bias = bias.map(|bias| self.vector(bias)).transpose()?;
        Ok(Linear { weight: self.matrix(weight)?.t()?, bias })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the reference computes with an f32 epsilon as well")]
    fn layer_norm(&self, weight: Vec<f32>, bias: Option<Vec<f32>>, epsilon: f64) -> Result<Norm, NnError> {
        let bias = bias.unwrap_or_else(|| vec![0.0; weight.len()]);
        Ok(Norm::Layer { weight: self.vector(weight)?, bias: self.vector(bias)?, epsilon: epsilon as f32 })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the reference computes with an f32 epsilon as well")]
    fn rms_norm(&self, weight: Vec<f32>, epsilon: f64) -> Result<Norm, NnError> {
        Ok(Norm::Rms { weight: self.vector(weight)?, epsilon: epsilon as f32 })
    }

    fn attention(&self, attention: Attention) -> Result<Attention, NnError> {
        attention.assert_consistent();
        Ok(attention)
    }

    fn relative_attention(&self, attention: RelativeAttention) -> Result<RelativeAttention, NnError> {
        attention.assert_consistent();
        Ok(attention)
    }

    fn embed(&self, lookups: &[(&Tensor, &[u32])]) -> Result<Tensor, NnError> {
        let mut sum: Option<Tensor> = None;
        for (table, indices) in lookups {
            let found = table.index_select(&Tensor::new(*indices, &self.device)?, 0)?;
            sum = Some(match sum {
                Some(sum) => (sum + found)?,
                None => found,
            });
        }
        sum.ok_or_else(|| NnError::Candle(candle_core::Error::Msg("no table to look up in".into())))
    }

    fn apply_linear(&self, layer: &Linear, input: &Tensor, epilogue: Epilogue<'_, Tensor>) -> Result<Tensor, NnError> {
        let mut sum = input.matmul(&layer.weight)?;
        if let Some(bias) = &layer.bias {
            sum = sum.broadcast_add(bias)?;
        }
        Ok(match epilogue {
            Epilogue::Bias => sum,
            Epilogue::Residual(residual) => (sum + residual)?,
            Epilogue::Activation(activation) => activated(activation, &sum)?,
        })
    }

    fn apply_feed_forward(
        &self,
        layer: &FeedForward<Linear>,
        input: &Tensor,
        epilogue: Epilogue<'_, Tensor>,
    ) -> Result<Tensor, NnError> {
        let inner = match &layer.inner {
            Inner::Plain { up, activation } => self.apply_linear(up, input, Epilogue::Activation(*activation))?,
            Inner::Gated { gate, up, activation } => {
                let gate = self.apply_linear(gate, input, Epilogue::Activation(*activation))?;
                (gate * self.apply_linear(up, input, Epilogue::Bias)?)?
            }
        };
        self.apply_linear(&layer.down, &inner, epilogue)
    }

    fn apply_norm(&self, norm: &Norm, input: &Tensor) -> Result<Tensor, NnError> {
        Ok(match norm {
            Norm::Layer { weight, bias, epsilon } => ops::layer_norm(input, weight, bias, *epsilon)?,
            Norm::Rms { weight, epsilon } => ops::rms_norm(input, weight, *epsilon)?,
        })
    }

    fn apply_attention(&self, attention: &Attention, qkv: &Tensor, batch: &PackedBatch) -> Result<Tensor, NnError> {
        let apply = |qkv: &Tensor, group: &Group| attention::apply(attention, qkv, group);
        by_groups(qkv, attention.output_width(), batch, apply)
    }

    fn apply_relative_attention(
        &self,
        attention: &RelativeAttention,
        qkv: &Tensor,
        batch: &PackedBatch,
    ) -> Result<Tensor, NnError> {
        let apply =
            |qkv: &Tensor, group: &Group| relative_attention::apply(attention, qkv, group.sequences, group.length);
        by_groups(qkv, attention.output_width(), batch, apply)
    }

    fn add(&self, one: &Tensor, other: &Tensor) -> Result<Tensor, NnError> {
        Ok((one + other)?)
    }

    fn scale(&self, input: &Tensor, factor: f32) -> Result<Tensor, NnError> {
        Ok((input * f64::from(factor))?)
    }

    fn pool(
        &self,
        poolings: &[Pooling],
        left_out: usize,
        hidden: &Tensor,
        batch: &PackedBatch,
    ) -> Result<Vec<f32>, NnError> {
        if batch.sequences() == 0 || poolings.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = hidden.to_dtype(DType::F32)?;
        let mut rows = Vec::with_capacity(batch.sequences() * poolings.len());
        for bounds in batch.cu_seqlens().windows(2) {
            let tokens = hidden.narrow(0, bounds[0], bounds[1] - bounds[0])?;
            for &pooling in poolings {
                rows.push(self.pooled(pooling, &tokens, left_out)?);
            }
        }
        let width = hidden.dim(D::Minus1)?;
        Ok(Tensor::cat(&rows, 0)?.reshape(rows.len() * width)?.to_vec1()?)
    }

    fn weigh_vocabulary(
        &self,
        decoder: &Linear,
        input: &Tensor,
        pooling: SpladePooling,
        batch: &PackedBatch,
    ) -> Result<Vec<SparseVector>, NnError> {
        let vocabulary = decoder.weight.dim(1)?;
        let rows = rows_of_a_block(vocabulary);
        let mut vectors = Vec::with_capacity(batch.sequences());
        for bounds in batch.cu_seqlens().windows(2) {
            let mut weights = vec![pooling.start(); vocabulary];
            for first in (bounds[0]..bounds[1]).step_by(rows) {
                let block = input.narrow(0, first, rows.min(bounds[1] - first))?;
                let logits = self.to_host(&self.apply_linear(decoder, &block, Epilogue::Bias)?)?;
                logits.chunks_exact(vocabulary).for_each(|token| pooling.add(&mut weights, token));
            }
            pooling.finish(&mut weights);
            vectors.push(SparseVector::of(&weights));
        }
        Ok(vectors)
    }

    fn to_host(&self, activations: &Tensor) -> Result<Vec<f32>, NnError> {
        Ok(activations.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }
}

impl Candle {
    /// `[width]` of one sequence of [tokens, width], of which so many leading tokens take no part.
    fn pooled(&self, pooling: Pooling, tokens: &Tensor, left_out: usize) -> Result<Tensor, NnError> {
        let (length, width) = tokens.dims2()?;
        let filled = |value: f32| Tensor::full(value, width, &self.device);
        let count = length.saturating_sub(left_out);
        if count == 0 {
            return Ok(match pooling {
                _ if length == 0 => filled(0.0)?,
                Pooling::Cls => tokens.get(0)?,
                Pooling::Max => filled(f32::NEG_INFINITY)?,
                _ => filled(0.0)?,
            });
        }
        let tokens = tokens.narrow(0, left_out, count)?;
        Ok(match pooling {
            Pooling::Cls => tokens.get(0)?,
            Pooling::Max => tokens.max(0)?,
            Pooling::Mean => tokens.mean(0)?,
            Pooling::MeanSqrtLen => (tokens.sum(0)? / (count as f64).sqrt())?,
            Pooling::WeightedMean => {
                let position = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
                let weights = Tensor::arange(position(left_out + 1), position(length + 1), &self.device)?;
                let weights = weights.to_dtype(DType::F32)?;
                let weighted = tokens.broadcast_mul(&weights.unsqueeze(1)?)?;
                weighted.sum(0)?.broadcast_div(&weights.sum_all()?)?
            }
            Pooling::LastToken => tokens.get(count - 1)?,
        })
    }
}

fn activated(activation: Activation, input: &Tensor) -> Result<Tensor, NnError> {
    Ok(match activation {
        Activation::Gelu => input.gelu_erf()?,
        Activation::GeluTanh => input.gelu()?,
        Activation::Relu => input.relu()?,
        Activation::Silu => input.silu()?,
    })
}
