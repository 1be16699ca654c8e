//! Weights of layers on the device.

use candle_core::Tensor;

/// Weight as [inputs, outputs] and bias of a linear layer.
#[derive(Debug)]
pub struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

/// Weight as [inputs, outputs] and bias of a layer that is computed in f32.
#[derive(Debug)]
pub struct Projection(pub(super) Linear);

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
