//! Normalisations of rows, in plain loops that compilers turn into vector instructions.
//!
//! A row stays in the nearest cache while it is read twice, so that the variance is that of the differences from the mean
//! and not a difference of sums, which loses digits.
#![expect(clippy::inline_always, reason = "inlined, code is compiled for the instruction set of its caller")]

/// Lanes of a sum: enough for two chains of the widest vectors. The order of a sum is fixed by this number alone.
const LANES: usize = 32;

/// A normalisation over the width of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Norm {
    /// To mean 0 and variance 1, then weight and bias.
    Layer {
        /// `[width]`.
        weight: Vec<f32>,
        /// `[width]`, if there is any.
        bias: Option<Vec<f32>>,
        /// Added to the variance.
        epsilon: f32,
    },
    /// To mean square 1, then weight.
    Rms {
        /// `[width]`.
        weight: Vec<f32>,
        /// Added to the mean square.
        epsilon: f32,
    },
}

impl Norm {
    /// Normalises one row.
    #[inline(always)]
    pub(super) fn apply(&self, row: &[f32], out: &mut [f32]) {
        match self {
            Self::Layer { weight, bias: Some(bias), epsilon } => layer_norm(row, weight, bias, *epsilon, out),
            Self::Layer { weight, bias: None, epsilon } => layer_norm_without_bias(row, weight, *epsilon, out),
            Self::Rms { weight, epsilon } => rms_norm(row, weight, *epsilon, out),
        }
    }
}

/// (x - mean) / √(variance + epsilon) · weight + bias.
#[inline(always)]
fn layer_norm(row: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, out: &mut [f32]) {
    let (mean, scale) = moments(row, epsilon);
    for (((out, x), weight), bias) in out.iter_mut().zip(row).zip(weight).zip(bias) {
        *out = (x - mean) * scale * weight + bias;
    }
}

/// (x - mean) / √(variance + epsilon) · weight.
#[inline(always)]
fn layer_norm_without_bias(row: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let (mean, scale) = moments(row, epsilon);
    for ((out, x), weight) in out.iter_mut().zip(row).zip(weight) {
        *out = (x - mean) * scale * weight;
    }
}

/// x / √(mean of squares + epsilon) · weight.
#[inline(always)]
pub(super) fn rms_norm(row: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let scale = 1.0 / (sum(row, |x| x * x) / count(row) + epsilon).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(row).zip(weight) {
        *out = x * scale * weight;
    }
}

/// Mean, and the inverse of the standard deviation.
#[inline(always)]
fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let mean = sum(row, |x| x) / count(row);
    let variance = sum(row, |x| (x - mean) * (x - mean)) / count(row);
    (mean, 1.0 / (variance + epsilon).sqrt())
}

#[inline(always)]
fn count(row: &[f32]) -> f32 {
    row.len() as f32
}

#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += term(chunk[lane]);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        lanes[lane] += term(value);
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a norm is, in f64.
    fn plain(norm: &Norm, row: &[f32]) -> Vec<f64> {
        let values: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let mean_of = |terms: &dyn Fn(f64) -> f64| values.iter().map(|&x| terms(x)).sum::<f64>() / values.len() as f64;
        let at = |values: &[f32], index: usize| f64::from(values[index]);
        match norm {
            Norm::Layer { weight, bias, epsilon } => {
                let mean = mean_of(&|x| x);
                let deviation = (mean_of(&|x| (x - mean).powi(2)) + f64::from(*epsilon)).sqrt();
                let bias = |index| bias.as_ref().map_or(0.0, |bias| at(bias, index));
                let normal = |(index, x): (usize, &f64)| (x - mean) / deviation * at(weight, index) + bias(index);
                values.iter().enumerate().map(normal).collect()
            }
            Norm::Rms { weight, epsilon } => {
                let size = (mean_of(&|x| x * x) + f64::from(*epsilon)).sqrt();
                values.iter().enumerate().map(|(index, x)| x / size * at(weight, index)).collect()
            }
        }
    }

    proptest! {
        #[test]
        fn norms_are_their_definitions(
            values in proptest::collection::vec((-9.0_f32..9.0, -2.0_f32..2.0, -2.0_f32..2.0), 2..200),
        ) {
            let column = |part: fn(&(f32, f32, f32)) -> f32| values.iter().map(part).collect::<Vec<f32>>();
            let (row, weight, bias) = (column(|v| v.0), column(|v| v.1), column(|v| v.2));
            for norm in [
                Norm::Layer { weight: weight.clone(), bias: Some(bias), epsilon: 1e-5 },
                Norm::Layer { weight: weight.clone(), bias: None, epsilon: 1e-12 },
                Norm::Rms { weight, epsilon: 1e-6 },
            ] {
                let mut fast = vec![0.0; row.len()];
                norm.apply(&row, &mut fast);
                for (fast, plain) in fast.iter().zip(plain(&norm, &row)) {
                    let error = (f64::from(*fast) - plain).abs();
                    prop_assert!(error < 2e-5 * plain.abs().max(1.0), "{fast} {plain}");
                }
            }
        }
    }
}
