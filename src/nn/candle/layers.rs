//! Layers that take each token by itself, by the project's own kernels or in plain tensors.

use candle_core::{DType, Tensor};
use candle_nn::ops;

use super::fused::norm::{Destination, Sum};
use super::fused::pointwise::{Finish, finish, gated};
use super::weights::{Linear, Norm};
use super::{Candle, fused, is_of_no_tokens};
use crate::nn::{Activation, Backend, Branch, Epilogue, Inner, NnError};

impl Candle {
    /// A product, its bias and what follows.
    pub(super) fn linear_then(
        &self,
        layer: &Linear,
        input: &Tensor,
        epilogue: &Epilogue<'_, Tensor>,
    ) -> Result<Tensor, NnError> {
        let mut sum = input.matmul(&layer.weight)?;
        if self.fuses(&sum) {
            let (activation, residual) = match epilogue {
                Epilogue::Bias => (None, None),
                Epilogue::Activation(activation) => (Some(*activation), None),
                Epilogue::Residual(residual) => (None, Some(*residual)),
            };
            return finish(sum, Finish { bias: layer.bias.as_ref(), activation, residual });
        }
        if let Some(bias) = &layer.bias {
            sum = sum.broadcast_add(bias)?;
        }
        Ok(match epilogue {
            Epilogue::Bias => sum,
            Epilogue::Residual(residual) => (sum + *residual)?,
            Epilogue::Activation(activation) => activated(*activation, &sum)?,
        })
    }

    /// What comes into the last layer of a feed-forward half: activated, and multiplied where there is a gate.
    pub(super) fn inner(&self, inner: &Inner<Linear>, input: &Tensor) -> Result<Tensor, NnError> {
        match inner {
            Inner::Plain { up, activation } => self.apply_linear(up, input, Epilogue::Activation(*activation)),
            Inner::Gated { gate, up, activation } if self.fuses(input) => {
                let (product, other) = (input.matmul(&gate.weight)?, input.matmul(&up.weight)?);
                gated(product, &other, [gate.bias.as_ref(), up.bias.as_ref()], *activation)
            }
            Inner::Gated { gate, up, activation } => {
                let gate = self.apply_linear(gate, input, Epilogue::Activation(*activation))?;
                Ok((gate * self.apply_linear(up, input, Epilogue::Bias)?)?)
            }
        }
    }

    /// A norm of residual + branch(input), and the sum where it is kept.
    pub(super) fn fused_sum(
        &self,
        branch: &Branch<'_, Linear>,
        input: &Tensor,
        residual: &Tensor,
        norm: &Norm,
        into: Destination,
    ) -> Result<(Tensor, Tensor), NnError> {
        let (layer, input) = match branch {
            Branch::Linear(layer) => (*layer, input.clone()),
            Branch::FeedForward(layer) => (&layer.down, self.inner(&layer.inner, input)?),
        };
        let product = input.matmul(&layer.weight)?;
        let sum = Sum { input: &product, bias: layer.bias.as_ref(), residual: Some(residual) };
        let normed = fused::norm::norm(norm, sum, into)?;
        Ok((product, normed))
    }

    /// A norm of each row.
    pub(super) fn normed(&self, norm: &Norm, input: &Tensor) -> Result<Tensor, NnError> {
        if self.fuses(input) && fused::norm::takes(norm) {
            return fused::norm::norm(norm, Sum { input, bias: None, residual: None }, Destination::New);
        }
        Ok(match norm {
            _ if is_of_no_tokens(input) => input.clone(),
            Norm::Layer { weight, bias, epsilon } => ops::layer_norm(input, weight, bias, *epsilon)?,
            Norm::Rms { weight, epsilon } => ops::rms_norm(input, weight, *epsilon)?,
        })
    }
}

fn activated(activation: Activation, input: &Tensor) -> Result<Tensor, NnError> {
    Ok(match activation {
        Activation::Gelu => input.gelu_erf()?,
        // candle rounds every step of these two to the input's numbers, and 1 + tanh leaves few digits of them.
        Activation::GeluTanh => input.to_dtype(DType::F32)?.gelu()?.to_dtype(input.dtype())?,
        Activation::Relu => input.relu()?,
        Activation::Silu => input.to_dtype(DType::F32)?.silu()?.to_dtype(input.dtype())?,
    })
}
