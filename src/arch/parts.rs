//! Layers by their names in a checkpoint: what every architecture reads alike.

use super::LoadError;
use crate::model::weights::{WeightError, Weights};
use crate::nn::{Activation, Backend, FeedForward, Matrix, Middle};

/// A checkpoint and the backend that takes its layers.
pub(super) struct Parts<'a, B> {
    pub(super) weights: &'a Weights,
    pub(super) backend: &'a B,
}

/// Whether a layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    /// It is part of the layer: a checkpoint without is an error.
    Present,
    /// The layer has none.
    Absent,
}

/// Sizes of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) bias: Bias,
}

impl<B: Backend> Parts<'_, B> {
    /// The f32 values of the first of some names that there is, in the expected shape.
    pub(super) fn tensor(&self, names: &[&str], shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let name = names.iter().find(|name| self.weights.contains(name)).unwrap_or(&names[0]);
        self.weights.tensor(name)?.expect_shape(shape)?.to_f32()
    }

    /// `NAME.weight` as a table.
    pub(super) fn embedding(&self, name: &str, rows: usize, columns: usize) -> Result<B::Embedding, LoadError> {
        let values = self.tensor(&[&format!("{name}.weight")], &[rows, columns])?;
        Ok(self.backend.embedding(Matrix { rows, columns, values })?)
    }

    /// `NAME.weight` and `NAME.bias`.
    pub(super) fn linear(&self, name: &str, shape: Shape) -> Result<B::Linear, LoadError> {
        self.stacked(&[(name, shape.outputs)], shape.inputs, shape.bias)
    }

    /// Layers with the same input as one, each with its own width.
    pub(super) fn stacked(&self, layers: &[(&str, usize)], inputs: usize, bias: Bias) -> Result<B::Linear, LoadError> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for &(name, outputs) in layers {
            let values = self.tensor(&[&format!("{name}.weight")], &[outputs, inputs])?;
            weights.push(Matrix { rows: outputs, columns: inputs, values });
            if bias == Bias::Present {
                biases.extend(self.tensor(&[&format!("{name}.bias")], &[outputs])?);
            }
        }
        let biases = (bias == Bias::Present).then_some(biases);
        Ok(self.backend.linear(Matrix::stack(weights), biases)?)
    }

    /// Two linear layers with an activation between them, by their names.
    pub(super) fn feed_forward(
        &self,
        [up, down]: [&str; 2],
        (hidden, inner): (usize, usize),
        activation: Activation,
        bias: Bias,
    ) -> Result<FeedForward<B::Linear>, LoadError> {
        Ok(FeedForward {
            up: self.linear(up, Shape { outputs: inner, inputs: hidden, bias })?,
            middle: Middle::Activation(activation),
            down: self.linear(down, Shape { outputs: hidden, inputs: inner, bias })?,
        })
    }

    /// `NAME.weight` and `NAME.bias`; old checkpoints call them `gamma` and `beta`.
    pub(super) fn layer_norm(&self, name: &str, width: usize, epsilon: f64) -> Result<B::Norm, LoadError> {
        let weight = self.tensor(&[&format!("{name}.weight"), &format!("{name}.gamma")], &[width])?;
        let bias = self.tensor(&[&format!("{name}.bias"), &format!("{name}.beta")], &[width])?;
        Ok(self.backend.layer_norm(weight, Some(bias), epsilon)?)
    }
}

/// The activation that a key of `config.json` names.
pub(super) fn activation(key: &'static str, name: &str) -> Result<Activation, LoadError> {
    Activation::from_name(name).ok_or_else(|| LoadError::Unsupported {
        key,
        value: name.to_owned(),
        supported: "gelu, gelu_new, gelu_pytorch_tanh, relu, silu, swish",
    })
}

/// The size of each of some heads that share the hidden size evenly.
pub(super) fn head_size(hidden: usize, heads: usize) -> Result<usize, LoadError> {
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(LoadError::Unsupported {
            key: "num_attention_heads",
            value: heads.to_string(),
            supported: "divisors of hidden_size",
        });
    }
    Ok(hidden / heads)
}
