//! Layers by their names in a checkpoint: what every architecture reads alike.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::LoadError;
use crate::model::serde_key;
use crate::model::weights::{WeightError, Weights};
use crate::nn::{Activation, Backend, Inner, Matrix};

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

impl Bias {
    /// As a switch of the configuration says.
    pub(super) fn of(has_bias: bool) -> Self {
        if has_bias { Self::Present } else { Self::Absent }
    }
}

/// Sizes of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) bias: Bias,
}

/// Where a checkpoint has the first linear layer of a feed-forward layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Up {
    /// One layer and no gate.
    Plain(&'static str),
    /// The gate, to which the activation is applied, and what it is multiplied with, each in a tensor of its own.
    Apart { gate: &'static str, up: &'static str },
    /// Both in one tensor, the gate first.
    GateFirst(&'static str),
    /// Both in one tensor, the gate last.
    GateLast(&'static str),
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

    /// The first half of a feed-forward layer, below `prefix`.
    pub(super) fn inner(
        &self,
        prefix: &str,
        up: Up,
        activation: Activation,
        (hidden, inner): (usize, usize),
        bias: Bias,
    ) -> Result<Inner<B::Linear>, LoadError> {
        let name = |part: &str| format!("{prefix}.{part}");
        let shape = Shape { outputs: inner, inputs: hidden, bias };
        let (gate, up) = match up {
            Up::Plain(up) => return Ok(Inner::Plain { up: self.linear(&name(up), shape)?, activation }),
            Up::Apart { gate, up } => (self.linear(&name(gate), shape)?, self.linear(&name(up), shape)?),
            Up::GateFirst(gate_up) => self.halves(&name(gate_up), shape)?.into(),
            Up::GateLast(up_gate) => {
                let [up, gate] = self.halves(&name(up_gate), shape)?;
                (gate, up)
            }
        };
        Ok(Inner::Gated { gate, up, activation })
    }

    /// Two layers of one shape that stand one behind the other in `NAME.weight` and `NAME.bias`.
    fn halves(&self, name: &str, shape: Shape) -> Result<[B::Linear; 2], LoadError> {
        let Shape { outputs, inputs, bias } = shape;
        let mut first = self.tensor(&[&format!("{name}.weight")], &[2 * outputs, inputs])?;
        let second = first.split_off(outputs * inputs);
        let (first_bias, second_bias) = if bias == Bias::Present {
            let mut first = self.tensor(&[&format!("{name}.bias")], &[2 * outputs])?;
            let second = first.split_off(outputs);
            (Some(first), Some(second))
        } else {
            (None, None)
        };
        let layer = |values, bias| self.backend.linear(Matrix { rows: outputs, columns: inputs, values }, bias);
        Ok([layer(first, first_bias)?, layer(second, second_bias)?])
    }

    /// `NAME.weight` and `NAME.bias`; old checkpoints call them `gamma` and `beta`.
    pub(super) fn layer_norm(&self, name: &str, width: usize, epsilon: f64) -> Result<B::Norm, LoadError> {
        self.norm(name, width, epsilon, Bias::Present)
    }

    /// The same, with or without a bias.
    pub(super) fn norm(&self, name: &str, width: usize, epsilon: f64, bias: Bias) -> Result<B::Norm, LoadError> {
        let weight = self.tensor(&[&format!("{name}.weight"), &format!("{name}.gamma")], &[width])?;
        let bias = (bias == Bias::Present)
            .then(|| self.tensor(&[&format!("{name}.bias"), &format!("{name}.beta")], &[width]))
            .transpose()?;
        Ok(self.backend.layer_norm(weight, bias, epsilon)?)
    }
}

/// What `config.json` says, with defaults for keys that it leaves out.
pub(super) fn config<T: DeserializeOwned>(config: &Value, defaults: Value) -> Result<T, LoadError> {
    let merged = merged(defaults, config.clone());
    T::deserialize(&merged).map_err(|source| match merged.as_object().and_then(serde_key::find::<T>) {
        Some(key) => LoadError::Key { key, source },
        None => LoadError::Config(source),
    })
}

/// The keys of both objects, with the values of the second where both have one.
pub(super) fn merged(mut under: Value, over: Value) -> Value {
    if let (Value::Object(under), Value::Object(over)) = (&mut under, over) {
        under.extend(over);
    }
    under
}

/// Refuses a key that is set to anything but null or one of some values.
pub(super) fn refuse_unless(
    config: &Value,
    key: &'static str,
    allowed: &[Value],
    supported: &'static str,
) -> Result<(), LoadError> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(()),
        Some(value) if allowed.contains(value) => Ok(()),
        Some(value) => Err(LoadError::unsupported(key, value, supported)),
    }
}

/// The activation that a key of `config.json` names.
pub(super) fn activation(key: &'static str, name: &str) -> Result<Activation, LoadError> {
    let supported = "gelu, gelu_new, gelu_pytorch_tanh and their other names, relu, silu, swish";
    Activation::from_name(name).ok_or_else(|| LoadError::unsupported(key, &name, supported))
}

/// The size of each of some heads that share the hidden size evenly.
pub(super) fn head_size(hidden: usize, heads: usize) -> Result<usize, LoadError> {
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(LoadError::unsupported("num_attention_heads", &heads, "divisors of hidden_size"));
    }
    Ok(hidden / heads)
}

/// `head_dim` where the configuration has it, else [`head_size`].
pub(super) fn own_head_size(config: &Value, hidden: usize, heads: usize) -> Result<usize, LoadError> {
    match config.get("head_dim") {
        None | Some(Value::Null) => head_size(hidden, heads),
        Some(value) => {
            let size = value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0 && heads > 0);
            let supported = "a whole number above 0, and heads to have it";
            size.ok_or_else(|| LoadError::unsupported("head_dim", value, supported))
        }
    }
}
