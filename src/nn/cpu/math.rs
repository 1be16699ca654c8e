//! The loops between matrix products, in a form that compilers turn into vector instructions: no branch, no call into
//! a mathematical library, sums in independent lanes. Each has its plain twin in f64 in the tests.
#![expect(clippy::inline_always, reason = "inlined, code is compiled for the instruction set of its caller")]

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

/// The error function within 4e-7: a rational approximation, odd in x, on [-4, 4], beyond which it is 1 to the last
/// digit (as in Eigen and XLA).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut numerator = -2.726_142_3e-10;
    for coefficient in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2] {
        numerator = numerator * square + coefficient;
    }
    let mut denominator = -1.456_607_2e-5;
    for coefficient in [-2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        denominator = denominator * square + coefficient;
    }
    x * numerator / denominator
}

/// x Φ(x).
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³))), by way of tanh y = 1 - 2 / (e^2y + 1).
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let y = SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    x - x / (exp(2.0 * y) + 1.0)
}

/// x / (1 + e^-x).
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
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

    fn plain_gelu(x: f64) -> f64 {
        0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
    }

    #[test]
    fn exponentials_and_activations_are_exact_to_single_precision() {
        assert!(error(-87.0..=0.0, exp, f64::exp) < 3e-7);
        assert!(error(0.0..=87.0, exp, f64::exp) < 3e-7);
        assert_eq!((exp(f32::NEG_INFINITY), exp(0.0)), (exp(-87.0), 1.0));
        assert!(error(-6.0..=6.0, erf, libm::erf) < 4e-7);
        // The error of the error function times |x| / 2, up to where the function is flat.
        assert!(error(-12.0..=12.0, gelu, plain_gelu) < 4e-7 * 5.66 / 2.0);
        let plain_tanh =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
        assert!(error(-12.0..=12.0, gelu_tanh, plain_tanh) < 6e-7);
        assert!(error(-60.0..=60.0, silu, |x| x / (1.0 + (-x).exp())) < 6e-7);
    }

    #[test]
    fn values_that_are_not_numbers_stay_so() {
        assert!(exp(f32::NAN).is_nan() && gelu(f32::NAN).is_nan() && silu(f32::NAN).is_nan());
    }
}
