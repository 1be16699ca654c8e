//! The loops between matrix products, in a form that compilers turn into vector instructions: no branch, no call into
//! a mathematical library, sums in independent lanes. Each has its plain twin in f64 in the tests.
#![expect(clippy::inline_always, reason = "inlined, code is compiled for the instruction set of its caller")]

/// Lanes of a sum: enough for the widest vector registers. The order of a sum is fixed by this number alone, so that
/// results are the same on every instruction set.
const LANES: usize = 16;

/// e^x for x ≤ 0 or so, within 2e-7 of the value; 0 below -87. Range reduction by powers of two and a polynomial on
/// [-ln 2 / 2, ln 2 / 2] (Cephes, `expf`).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // ln 2 in two parts, the first with few digits, so that its product with a small integer is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding this rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let exponent = shifted - ROUND;
    let rest = x - exponent * LN_2_HIGH - exponent * LN_2_LOW;
    let mut polynomial = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = polynomial * rest + coefficient;
    }
    let value = polynomial * rest * rest + rest + 1.0;
    let power_of_two = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    value * power_of_two
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
    lanes.iter().sum()
}

/// (x - mean) / √(variance + epsilon) · weight + bias. Two passes: the variance is that of the differences.
#[inline(always)]
pub(super) fn layer_norm(row: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, out: &mut [f32]) {
    #[expect(clippy::cast_precision_loss, reason = "widths are small")]
    let width = row.len() as f32;
    let mean = sum(row, |x| x) / width;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / width;
    let scale = 1.0 / (variance + epsilon).sqrt();
    for (((out, x), weight), bias) in out.iter_mut().zip(row).zip(weight).zip(bias) {
        *out = (x - mean) * scale * weight + bias;
    }
}

/// e^(x - max) / Σ e^(x - max), in place.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32]) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            largest[lane] = if chunk[lane] > largest[lane] { chunk[lane] } else { largest[lane] };
        }
    }
    let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |one, &other| one.max(other));
    row.iter_mut().for_each(|x| *x = exp(*x - largest));
    let scale = 1.0 / sum(row, |x| x);
    row.iter_mut().for_each(|x| *x *= scale);
}

/// [rows, width] to [width].
pub(super) fn mean_of_rows(rows: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    #[expect(clippy::cast_precision_loss, reason = "sequences are short")]
    let count = (rows.len() / width) as f32;
    mean.iter_mut().for_each(|sum| *sum /= count);
    mean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
    /// Largest error of `fast` against `plain` on a grid, in units of max(1, |plain|).
    fn error(range: std::ops::RangeInclusive<f64>, fast: impl Fn(f32) -> f32, plain: impl Fn(f64) -> f64) -> f64 {
        let steps = 200_000;
        (0..=steps)
            .map(|step| {
                let x = (range.start() + (range.end() - range.start()) * f64::from(step) / f64::from(steps)) as f32;
                let expected = plain(f64::from(x));
                (f64::from(fast(x)) - expected).abs() / expected.abs().max(1.0)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn exponentials_are_exact_to_single_precision() {
        assert!(error(-87.0..=0.0, exp, f64::exp) < 3e-7);
        assert!(error(0.0..=87.0, exp, f64::exp) < 3e-7);
        assert_eq!((exp(f32::NEG_INFINITY), exp(0.0)), (exp(-87.0), 1.0));
    }

    #[test]
    fn values_that_are_not_numbers_stay_so() {
        assert!(exp(f32::NAN).is_nan());
        let mut row = [1.0, f32::NAN, 2.0];
        softmax(&mut row);
        assert!(row.iter().any(|x| x.is_nan()));
    }

    proptest! {
        #[test]
        fn softmax_is_its_definition(values in proptest::collection::vec(-50.0_f32..50.0, 1..90)) {
            let mut fast = values.clone();
            softmax(&mut fast);
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exponentials: Vec<f64> = values.iter().map(|&x| f64::from(x - largest).exp()).collect();
            let total: f64 = exponentials.iter().sum();
            for (fast, plain) in fast.iter().zip(exponentials) {
                prop_assert!((f64::from(*fast) - plain / total).abs() < 1e-6);
            }
        }

        #[test]
        fn layer_norm_is_its_definition(
            values in proptest::collection::vec((-9.0_f32..9.0, -2.0_f32..2.0, -2.0_f32..2.0), 2..90),
        ) {
            let column = |part: fn(&(f32, f32, f32)) -> f32| values.iter().map(part).collect::<Vec<f32>>();
            let (row, weight, bias) = (column(|v| v.0), column(|v| v.1), column(|v| v.2));
            let mut fast = vec![0.0; row.len()];
            layer_norm(&row, &weight, &bias, 1e-5, &mut fast);
            let count = row.len() as f64;
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
            let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
            for (index, fast) in fast.iter().enumerate() {
                let normal = (f64::from(row[index]) - mean) / (variance + 1e-5).sqrt();
                let plain = normal * f64::from(weight[index]) + f64::from(bias[index]);
                prop_assert!((f64::from(*fast) - plain).abs() < 2e-5 * plain.abs().max(1.0), "{fast} {plain}");
            }
        }
    }
}
