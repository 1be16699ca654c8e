//! Layers of a text's vector after pooling, or of the vectors of its tokens, as sentence-transformers' Dense modules.
//!
//! In f32 whatever the layers of the transformer compute in: they are small, and what they lose nothing makes good.

use std::path::Path;

use super::finish::normalize;
use crate::arch::LoadError;
use crate::domain::VectorKind;
use crate::model::spec::{self, AfterPooling, DenseActivation};
use crate::model::weights::{WeightError, Weights};
use crate::nn::cpu::gemm::{Finish, Kernel, PackedLinear};
use crate::nn::{Matrix, erf};

/// A step after pooling.
pub(super) enum Step<L> {
    Dense(Dense<L>),
    Normalize,
}

/// activation(x Wᵀ + b), and the residual where there is one.
pub(super) struct Dense<L> {
    layer: L,
    activation: DenseActivation,
    residual: Residual<L>,
}

/// What is added to the result.
enum Residual<L> {
    Nothing,
    Input,
    /// The input through a layer of its own.
    Projected(L),
}

/// A layer as it is read: weight of [outputs, inputs], and bias of `[outputs]`.
pub(super) struct Read {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

/// A layer that is ready to run.
pub(super) type Ready = PackedLinear;

impl Step<Read> {
    /// Ready to run, by this kernel.
    pub(super) fn packed(self, kernel: Kernel) -> Step<Ready> {
        let packed = |Read { weight, bias }: Read| PackedLinear::new(kernel, &weight, bias);
        match self {
            Self::Normalize => Step::Normalize,
            Self::Dense(Dense { layer, activation, residual }) => {
                let residual = match residual {
                    Residual::Nothing => Residual::Nothing,
                    Residual::Input => Residual::Input,
                    Residual::Projected(layer) => Residual::Projected(packed(layer)),
                };
                Step::Dense(Dense { layer: packed(layer), activation, residual })
            }
        }
    }
}

impl Step<Ready> {
    /// [rows, width] to [rows, another width].
    pub(super) fn apply(&self, mut vectors: Vec<f32>, width: usize) -> (Vec<f32>, usize) {
        match self {
            Self::Dense(dense) => (dense.apply(&vectors), dense.layer.outputs()),
            Self::Normalize => {
                vectors.chunks_exact_mut(width).for_each(normalize);
                (vectors, width)
            }
        }
    }
}

/// Reads the steps that lead to one kind of vectors from a model's weights.
pub(super) fn read(steps: &[AfterPooling], kind: VectorKind, weights: &Weights) -> Result<Vec<Step<Read>>, LoadError> {
    let mut files = weights.head(kind);
    let step = |step: &AfterPooling| match step {
        AfterPooling::Normalize => Ok(Step::Normalize),
        AfterPooling::Dense(dense) => {
            let own = if dense.weights.is_empty() { Some(weights) } else { files.next() };
            let own = own.ok_or_else(|| absent("linear.weight", &dense.directory))?;
            Ok(Step::Dense(Dense::read(dense, own)?))
        }
    };
    steps.iter().map(step).collect()
}

/// A tensor whose file was not opened.
pub(super) fn absent(tensor: &str, path: &Path) -> WeightError {
    WeightError::Absent { tensor: tensor.to_owned(), paths: vec![path.to_owned()] }
}

impl Dense<Read> {
    /// Whether it is a product and a bias, and nothing else.
    pub(super) fn is_linear(&self) -> bool {
        self.activation == DenseActivation::Identity && matches!(self.residual, Residual::Nothing)
    }

    /// Weight and bias of the layer.
    pub(super) fn into_linear(self) -> (Matrix, Option<Vec<f32>>) {
        (self.layer.weight, self.layer.bias)
    }

    fn read(spec: &spec::Dense, weights: &Weights) -> Result<Self, WeightError> {
        let &spec::Dense { inputs, outputs, activation, .. } = spec;
        let tensor = |name: &str, shape: &[usize]| weights.tensor(name)?.expect_shape(shape)?.to_f32();
        let matrix =
            |name: &str| Ok(Matrix { rows: outputs, columns: inputs, values: tensor(name, &[outputs, inputs])? });
        let residual = match (spec.residual, inputs == outputs) {
            (false, _) => Residual::Nothing,
            (true, true) => Residual::Input,
            (true, false) => Residual::Projected(Read { weight: matrix("residual.weight")?, bias: None }),
        };
        // A file that holds one layer alone may have no name for it.
        let prefix = if weights.contains("linear.weight") || !weights.contains("weight") { "linear." } else { "" };
        let weight = matrix(&format!("{prefix}weight"))?;
        let bias = spec.bias.then(|| tensor(&format!("{prefix}bias"), &[outputs])).transpose()?;
        Ok(Self { layer: Read { weight, bias }, activation, residual })
    }
}

impl Dense<Ready> {
    /// [rows, inputs] to [rows, outputs].
    fn apply(&self, vectors: &[f32]) -> Vec<f32> {
        let rows = vectors.len() / self.layer.inputs();
        let mut out = vec![0.0; rows * self.layer.outputs()];
        self.layer.apply(vectors, Finish::Bias, &mut out);
        out.iter_mut().for_each(|x| *x = activated(self.activation, *x));
        match &self.residual {
            Residual::Nothing => out,
            Residual::Input => sum(out, vectors),
            Residual::Projected(layer) => {
                let mut projected = vec![0.0; out.len()];
                layer.apply(vectors, Finish::Residual(&out), &mut projected);
                projected
            }
        }
    }
}

fn sum(mut one: Vec<f32>, other: &[f32]) -> Vec<f32> {
    one.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
    one
}

fn activated(activation: DenseActivation, x: f32) -> f32 {
    match activation {
        DenseActivation::Identity => x,
        DenseActivation::Tanh => x.tanh(),
        // NaN stays what it is, which max would hide.
        DenseActivation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        DenseActivation::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        DenseActivation::Silu => x / (1.0 + (-x).exp()),
        DenseActivation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        DenseActivation::LeakyRelu => {
            if x < 0.0 {
                0.01 * x
            } else {
                x
            }
        }
        DenseActivation::Elu => {
            if x < 0.0 {
                x.exp_m1()
            } else {
                x
            }
        }
        DenseActivation::Softplus => softplus(x),
        DenseActivation::Mish => x * softplus(x).tanh(),
    }
}

/// ln(1 + eˣ), which is x where eˣ is large.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Instructions;

    fn matrix(rows: usize, values: &[f32]) -> Read {
        let weight = Matrix { rows, columns: values.len() / rows, values: values.to_vec() };
        Read { weight, bias: None }
    }

    fn dense(activation: DenseActivation, residual: Residual<Read>) -> Dense<Read> {
        let layer = Read { bias: Some(vec![0.5, -0.5]), ..matrix(2, &[1.0, 2.0, 3.0, -1.0, 0.0, 1.0]) };
        Dense { layer, activation, residual }
    }

    fn apply(dense: Dense<Read>, vectors: &[f32]) -> Vec<f32> {
        Step::Dense(dense).packed(Kernel::single(Instructions::detect())).apply(vectors.to_vec(), 0).0
    }

    #[track_caller]
    fn check(layer: Dense<Read>, expected: &[f32]) {
        let found = apply(layer, &[1.0, 0.0, -1.0, 2.0, 1.0, 0.0]);
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {expected:?}");
    }

    #[test]
    fn a_layer_is_the_product_the_bias_the_activation_and_the_residual() {
        let plain = [-1.5, -2.5, 4.5, -2.5];
        check(dense(DenseActivation::Identity, Residual::Nothing), &plain);
        for (activation, function) in [
            (DenseActivation::Tanh, (|x| f64::tanh(x)) as fn(f64) -> f64),
            (DenseActivation::Relu, |x| x.max(0.0)),
            (DenseActivation::Gelu, |x| 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))),
            (DenseActivation::Silu, |x| x / (1.0 + (-x).exp())),
            (DenseActivation::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
            (DenseActivation::LeakyRelu, |x| x.max(0.0) + 0.01 * x.min(0.0)),
            (DenseActivation::Elu, |x| x.max(0.0) + x.min(0.0).exp_m1()),
            (DenseActivation::Softplus, |x| x.exp().ln_1p()),
            (DenseActivation::Mish, |x| x * x.exp().ln_1p().tanh()),
        ] {
            #[expect(clippy::cast_possible_truncation, reason = "an expected value to seven digits")]
            let expected = plain.map(|x: f32| function(x.into()) as f32);
            check(dense(activation, Residual::Nothing), &expected);
        }
        let projected = Residual::Projected(matrix(2, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
        check(dense(DenseActivation::Identity, projected), &[-0.5, -2.5, 6.5, -1.5]);
        let square = Dense { layer: matrix(1, &[2.0]), activation: DenseActivation::Relu, residual: Residual::Input };
        assert_eq!(apply(square, &[3.0, -1.0]), [9.0, -1.0]);
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for activation in
            [DenseActivation::Identity, DenseActivation::Tanh, DenseActivation::Relu, DenseActivation::Gelu]
        {
            assert!(activated(activation, f32::NAN).is_nan(), "{activation:?}");
        }
    }
}
