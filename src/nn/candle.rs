//! The operations on candle tensors: plain, and right on every device that candle knows.
//!
//! Sequences of one length are computed together, sequences of different lengths one group after the other, so that
//! nothing is padded. Batches come sorted by length, which makes the groups large.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops;

use super::{Activation, Attention, Backend, Epilogue, Matrix, NnError, Pooling};
use crate::domain::PackedBatch;

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
    bias: Tensor,
}

/// Weight, bias and epsilon of a layer normalisation.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

/// Consecutive sequences of one length.
struct Group {
    first_token: usize,
    sequences: usize,
    length: usize,
}

/// Cuts a batch into runs of sequences of the same length; empty sequences have no tokens and appear nowhere.
fn groups_of_one_length(batch: &PackedBatch) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for bounds in batch.cu_seqlens().windows(2) {
        let length = bounds[1] - bounds[0];
        match groups.last_mut() {
            _ if length == 0 => {}
            Some(group) if group.length == length => group.sequences += 1,
            _ => groups.push(Group { first_token: bounds[0], sequences: 1, length }),
        }
    }
    groups
}

impl Backend for Candle {
    type Activations = Tensor;
    type Embedding = Tensor;
    type Linear = Linear;
    type LayerNorm = LayerNorm;

    fn embedding(&self, table: Matrix) -> Result<Tensor, NnError> {
        self.matrix(table)
    }

    fn linear(&self, weight: Matrix, bias: Vec<f32>) -> Result<Linear, NnError> {
        Ok(Linear { weight: self.matrix(weight)?.t()?, bias: self.vector(bias)? })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the reference computes with an f32 epsilon as well")]
    fn layer_norm(&self, weight: Vec<f32>, bias: Vec<f32>, epsilon: f64) -> Result<LayerNorm, NnError> {
        Ok(LayerNorm { weight: self.vector(weight)?, bias: self.vector(bias)?, epsilon: epsilon as f32 })
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
        let sum = input.matmul(&layer.weight)?.broadcast_add(&layer.bias)?;
        Ok(match epilogue {
            Epilogue::Bias => sum,
            Epilogue::Residual(residual) => (sum + residual)?,
            Epilogue::Activation(Activation::Gelu) => sum.gelu_erf()?,
            Epilogue::Activation(Activation::GeluTanh) => sum.gelu()?,
            Epilogue::Activation(Activation::Relu) => sum.relu()?,
            Epilogue::Activation(Activation::Silu) => sum.silu()?,
        })
    }

    fn apply_layer_norm(&self, layer: &LayerNorm, input: &Tensor) -> Result<Tensor, NnError> {
        Ok(ops::layer_norm(input, &layer.weight, &layer.bias, layer.epsilon)?)
    }

    fn attention(&self, attention: Attention, qkv: &Tensor, batch: &PackedBatch) -> Result<Tensor, NnError> {
        let Attention { heads, head_size } = attention;
        let scale = 1.0 / (head_size as f64).sqrt();
        let mut contexts = Vec::new();
        for Group { first_token, sequences, length } in groups_of_one_length(batch) {
            // [tokens, 3 · heads · size] → three of [sequences, heads, length, size].
            let parts = qkv
                .narrow(0, first_token, sequences * length)?
                .reshape((sequences, length, 3, heads, head_size))?
                .permute((2, 0, 3, 1, 4))?
                .contiguous()?;
            let (query, key, value) = (parts.get(0)?, parts.get(1)?, parts.get(2)?);
            let scores = (query * scale)?.matmul(&key.transpose(2, 3)?)?;
            let context = ops::softmax_last_dim(&scores)?.matmul(&value)?;
            contexts.push(context.transpose(1, 2)?.reshape((sequences * length, heads * head_size))?);
        }
        Ok(Tensor::cat(&contexts, 0)?)
    }

    fn pool(&self, pooling: Pooling, hidden: &Tensor, batch: &PackedBatch) -> Result<Vec<f32>, NnError> {
        let hidden = hidden.to_dtype(DType::F32)?;
        let mut rows = Vec::with_capacity(batch.sequences());
        for bounds in batch.cu_seqlens().windows(2) {
            let (start, length) = (bounds[0], bounds[1] - bounds[0]);
            rows.push(match pooling {
                Pooling::Cls => hidden.get(start)?,
                Pooling::Mean => hidden.narrow(0, start, length)?.mean(0)?,
            });
        }
        let width = hidden.dim(D::Minus1)?;
        Ok(Tensor::cat(&rows, 0)?.reshape(rows.len() * width)?.to_vec1()?)
    }
}
