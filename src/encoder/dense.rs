//! Layers of a text's vector after pooling, or of the vectors of its tokens, as sentence-transformers' Dense modules.
//!
//! In f32 whatever the layers of the transformer compute in: they are small, and what they lose nothing makes good.

use crate::arch::LoadError;
use std::path::Path;

use super::finish::normalize;
use crate::domain::VectorKind;
use crate::model::spec::{self, AfterPooling, DenseActivation};
use crate::model::weights::{WeightError, Weights};
use crate::nn::Matrix;

/// A step after pooling, ready to run.
pub(super) enum Step {
    Dense(Dense),
    Normalize,
}

/// activation(x Wᵀ + b), and the residual where there is one.
pub(super) struct Dense {
    inputs: usize,
    outputs: usize,
    /// [outputs, inputs].
    weight: Vec<f32>,
    /// `[outputs]`.
    bias: Option<Vec<f32>>,
    activation: DenseActivation,
    residual: Residual,
}

/// What is added to the result.
enum Residual {
    Nothing,
    Input,
    /// The input through a layer of its own: [outputs, inputs].
    Projected(Vec<f32>),
}

impl Step {
    /// Weight and bias of a step that is a product and nothing else.
    pub(super) fn product(&self) -> Option<(Matrix, Option<Vec<f32>>)> {
        let Self::Dense(Dense { inputs, outputs, weight, bias, activation, residual }) = self else { return None };
        let is_plain = *activation == DenseActivation::Identity && matches!(residual, Residual::Nothing);
        let weight = || Matrix { rows: *outputs, columns: *inputs, values: weight.clone() };
        is_plain.then(|| (weight(), bias.clone()))
    }

    /// [rows, width] to [rows, another width].
    pub(super) fn apply(&self, mut vectors: Vec<f32>, width: usize) -> (Vec<f32>, usize) {
        match self {
            Self::Dense(dense) => (dense.apply(&vectors), dense.outputs()),
            Self::Normalize => {
                vectors.chunks_exact_mut(width).for_each(normalize);
                (vectors, width)
            }
        }
    }
}

/// Loads the steps that lead to one kind of vectors from a model's weights.
pub(super) fn load(steps: &[AfterPooling], kind: VectorKind, weights: &Weights) -> Result<Vec<Step>, LoadError> {
    let mut files = weights.head(kind);
    let step = |step: &AfterPooling| match step {
        AfterPooling::Normalize => Ok(Step::Normalize),
        AfterPooling::Dense(dense) => {
            let own = if dense.weights.is_empty() { Some(weights) } else { files.next() };
            let own = own.ok_or_else(|| absent("linear.weight", &dense.directory))?;
            Ok(Step::Dense(Dense::load(dense, own)?))
        }
    };
    steps.iter().map(step).collect()
}

/// A tensor whose file was not opened.
pub(super) fn absent(tensor: &str, path: &Path) -> WeightError {
    WeightError::Absent { tensor: tensor.to_owned(), paths: vec![path.to_owned()] }
}

impl Dense {
    fn load(spec: &spec::Dense, weights: &Weights) -> Result<Self, WeightError> {
        let &spec::Dense { inputs, outputs, activation, .. } = spec;
        let tensor = |name: &str, shape: &[usize]| weights.tensor(name)?.expect_shape(shape)?.to_f32();
        let residual = match (spec.residual, inputs == outputs) {
            (false, _) => Residual::Nothing,
            (true, true) => Residual::Input,
            (true, false) => Residual::Projected(tensor("residual.weight", &[outputs, inputs])?),
        };
        // A file that holds one layer alone may have no name for it.
        let prefix = if weights.contains("linear.weight") || !weights.contains("weight") { "linear." } else { "" };
        let weight = tensor(&format!("{prefix}weight"), &[outputs, inputs])?;
        let bias = spec.bias.then(|| tensor(&format!("{prefix}bias"), &[outputs])).transpose()?;
        Ok(Self { inputs, outputs, weight, bias, activation, residual })
    }

    /// [sequences, inputs] to [sequences, outputs].
    pub(super) fn apply(&self, vectors: &[f32]) -> Vec<f32> {
        vectors.chunks_exact(self.inputs).flat_map(|vector| self.of_one(vector)).collect()
    }

    /// Length of the vectors that it gives.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    fn of_one(&self, vector: &[f32]) -> Vec<f32> {
        let mut out = times(&self.weight, vector);
        if let Some(bias) = &self.bias {
            add(&mut out, bias);
        }
        out.iter_mut().for_each(|x| *x = activated(self.activation, *x));
        match &self.residual {
            Residual::Nothing => {}
            Residual::Input => add(&mut out, vector),
            Residual::Projected(weight) => add(&mut out, &times(weight, vector)),
        }
        debug_assert_eq!(out.len(), self.outputs);
        out
    }
}

/// A matrix, row by row, times a vector.
fn times(matrix: &[f32], vector: &[f32]) -> Vec<f32> {
    matrix.chunks_exact(vector.len()).map(|row| dot(row, vector)).collect()
}

/// In sixteen sums, which the compiler puts side by side and which lose less than one.
fn dot(one: &[f32], other: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let (ones, one_rest) = one.as_chunks::<16>();
    let (others, other_rest) = other.as_chunks::<16>();
    for (a, b) in ones.iter().zip(others) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest: f32 = one_rest.iter().zip(other_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

fn add(sum: &mut [f32], other: &[f32]) {
    sum.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
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
        DenseActivation::Gelu => 0.5 * x * (1.0 + candle_core::cpu::erf::erf_f32(x * std::f32::consts::FRAC_1_SQRT_2)),
        DenseActivation::Silu => x / (1.0 + (-x).exp()),
        DenseActivation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    fn dense(activation: DenseActivation, residual: Residual) -> Dense {
        let weight = vec![1.0, 2.0, 3.0, -1.0, 0.0, 1.0];
        Dense { inputs: 3, outputs: 2, weight, bias: Some(vec![0.5, -0.5]), activation, residual }
    }

    #[track_caller]
    fn check(layer: &Dense, expected: &[f32]) {
        let found = layer.apply(&[1.0, 0.0, -1.0, 2.0, 1.0, 0.0]);
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {expected:?}");
    }

    #[test]
    fn a_layer_is_the_product_the_bias_the_activation_and_the_residual() {
        let plain = [-1.5, -2.5, 4.5, -2.5];
        check(&dense(DenseActivation::Identity, Residual::Nothing), &plain);
        for (activation, function) in [
            (DenseActivation::Tanh, (|x| f64::tanh(x)) as fn(f64) -> f64),
            (DenseActivation::Relu, |x| x.max(0.0)),
            (DenseActivation::Gelu, |x| 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))),
            (DenseActivation::Silu, |x| x / (1.0 + (-x).exp())),
            (DenseActivation::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        ] {
            #[expect(clippy::cast_possible_truncation, reason = "an expected value to seven digits")]
            let expected = plain.map(|x: f32| function(x.into()) as f32);
            check(&dense(activation, Residual::Nothing), &expected);
        }
        let projected = Residual::Projected(vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        check(&dense(DenseActivation::Identity, projected), &[-0.5, -2.5, 6.5, -1.5]);
        let square = Dense {
            inputs: 1,
            outputs: 1,
            weight: vec![2.0],
            bias: None,
            ..dense(DenseActivation::Relu, Residual::Input)
        };
        assert_eq!(square.apply(&[3.0, -1.0]), [9.0, -1.0]);
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for activation in
            [DenseActivation::Identity, DenseActivation::Tanh, DenseActivation::Relu, DenseActivation::Gelu]
        {
            assert!(activated(activation, f32::NAN).is_nan(), "{activation:?}");
        }
    }

    #[test]
    fn long_products_are_whole() {
        let numbers: Vec<f32> = (0_u8..37).map(f32::from).collect();
        assert_eq!(dot(&numbers, &numbers), (0..37).map(|x| x * x).sum::<i32>() as f32);
    }
}
