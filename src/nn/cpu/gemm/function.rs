//! Activations on vectors: the same polynomials on every instruction set, so that sets agree to rounding.
//!
//! What is not a number stays so: each activation multiplies or divides its argument itself. Bounds of errors are measured
//! on grids of 400,001 arguments against f64, and held by the tests; the first is with fused multiply-adds, the second
//! without.

use pulp::Simd;

/// p₀ xⁿ + p₁ xⁿ⁻¹ + … + pₙ.
#[inline(always)]
fn polynomial<S: Simd, const TERMS: usize>(simd: S, x: S::f32s, coefficients: [f32; TERMS]) -> S::f32s {
    let mut value = simd.splat_f32s(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        value = simd.mul_add_e_f32s(value, x, simd.splat_f32s(coefficient));
    }
    value
}

#[inline(always)]
fn clamp<S: Simd>(simd: S, x: S::f32s, low: f32, high: f32) -> S::f32s {
    simd.min_f32s(simd.max_f32s(x, simd.splat_f32s(low)), simd.splat_f32s(high))
}

/// e^x for x in [-87, 88], beyond which it stays at the value there. Range reduction by powers of two and a polynomial on
/// [-ln 2 / 2, ln 2 / 2] (Cephes, `expf`). Relative error 8.3e-8, 8.3e-8.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // ln 2 in two parts, the first with few digits, so that its product with a small integer is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding this rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = clamp(simd, x, -87.0, 88.0);
    let round = simd.splat_f32s(ROUND);
    let shifted = simd.mul_add_e_f32s(x, simd.splat_f32s(std::f32::consts::LOG2_E), round);
    let exponent = simd.sub_f32s(shifted, round);
    let rest = simd.mul_add_e_f32s(exponent, simd.splat_f32s(-LN_2_HIGH), x);
    let rest = simd.mul_add_e_f32s(exponent, simd.splat_f32s(-LN_2_LOW), rest);
    let coefficients = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let curved = polynomial(simd, rest, coefficients);
    let value = simd.mul_add_e_f32s(simd.mul_f32s(rest, rest), curved, rest);
    let value = simd.add_f32s(value, simd.splat_f32s(1.0));
    let power = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.add_u32s(power, simd.splat_u32s(0x3f80_0000));
    simd.mul_f32s(value, simd.transmute_f32s_u32s(power))
}

/// The error function: a rational approximation, odd in x, on [-4, 4], beyond which it is 1 to the last digit (as in
/// Eigen and XLA). Relative error 3.4e-7, 4.5e-7, the largest of it where the function is flat.
#[inline(always)]
pub(super) fn erf<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let x = clamp(simd, x, -4.0, 4.0);
    let square = simd.mul_f32s(x, x);
    let numerator = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    let denominator = [-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let numerator = simd.mul_f32s(x, polynomial(simd, square, numerator));
    simd.div_f32s(numerator, polynomial(simd, square, denominator))
}

/// x Φ(x). Error relative to x 1.9e-7, 2.5e-7.
#[inline(always)]
pub(super) fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let half = simd.mul_f32s(x, simd.splat_f32s(0.5));
    let erf = erf(simd, simd.mul_f32s(x, simd.splat_f32s(std::f32::consts::FRAC_1_SQRT_2)));
    simd.mul_add_e_f32s(half, erf, half)
}

/// x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³))), by way of (1 + tanh y) / 2 = 1 / (1 + e^-2y). Error
/// relative to x 1.2e-7.
#[inline(always)]
pub(super) fn gelu_tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const MINUS_2_SQRT_2_OVER_PI: f32 = -1.595_769;
    let square = simd.mul_f32s(x, x);
    let slope = simd.splat_f32s(MINUS_2_SQRT_2_OVER_PI * 0.044_715);
    let slope = simd.mul_add_e_f32s(square, slope, simd.splat_f32s(MINUS_2_SQRT_2_OVER_PI));
    sigmoid_weighted(simd, x, simd.mul_f32s(x, slope))
}

/// x / (1 + e^-x). Error relative to x 1.2e-7.
#[inline(always)]
pub(super) fn silu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    sigmoid_weighted(simd, x, simd.sub_f32s(simd.splat_f32s(0.0), x))
}

/// x / (1 + e^y).
#[inline(always)]
fn sigmoid_weighted<S: Simd>(simd: S, x: S::f32s, y: S::f32s) -> S::f32s {
    simd.div_f32s(x, simd.add_f32s(exp(simd, y), simd.splat_f32s(1.0)))
}

/// max(x, 0).
#[inline(always)]
pub(super) fn relu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.less_than_f32s(x, zero), zero, x)
}
