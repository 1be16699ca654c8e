//! What follows a product, done on a tile of sums on its way from the registers to the result.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Columns, function};
use crate::nn::Activation;

/// What follows a product and its bias.
#[derive(Debug, Clone, Copy)]
pub enum Finish<'a> {
    /// Nothing more.
    Bias,
    /// An activation.
    Activation(Activation),
    /// The sum with other activations of the result's shape.
    Residual(&'a [f32]),
    /// The product with what is there already.
    Product,
}

impl Finish<'_> {
    /// What follows some of the values.
    pub(in crate::nn::cpu) fn of(self, values: &Range<usize>) -> Self {
        match self {
            Self::Residual(residual) => Self::Residual(&residual[values.clone()]),
            other => other,
        }
    }
}

/// Finishes a tile and puts it in its place.
pub(super) struct FinishTile<'a, 'b> {
    /// [rows, width].
    pub(super) sums: &'a [f32],
    /// Width of the tile, a multiple of the vectors' width.
    pub(super) width: usize,
    /// Rows of the result that the tile is.
    pub(super) rows: Range<usize>,
    /// Columns of the result that the tile is; fewer than its width where the panel is padded.
    pub(super) columns: Range<usize>,
    /// The bias of these columns.
    pub(super) bias: &'a [f32],
    /// What follows the bias.
    pub(super) finish: Finish<'a>,
    /// Width of the whole result, and of a residual.
    pub(super) outputs: usize,
    /// These columns of the result, and perhaps more.
    pub(super) out: &'a mut Columns<'b>,
}

impl WithSimd for FinishTile<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        /// Works out one expression for every sum.
        macro_rules! each {
            (|$sum:ident, $there:ident| $result:expr) => {
                self.each(
                    simd,
                    #[inline(always)]
                    |$sum, $there| $result,
                )
            };
        }
        match self.finish {
            Finish::Bias => each!(|sum, _there| sum),
            Finish::Activation(Activation::Gelu) => each!(|sum, _there| function::gelu(simd, sum)),
            Finish::Activation(Activation::GeluTanh) => each!(|sum, _there| function::gelu_tanh(simd, sum)),
            Finish::Activation(Activation::Relu) => each!(|sum, _there| function::relu(simd, sum)),
            Finish::Activation(Activation::Silu) => each!(|sum, _there| function::silu(simd, sum)),
            Finish::Product => each!(|sum, there| simd.mul_f32s(there, sum)),
            Finish::Residual(residual) => self.add(simd, residual),
        }
    }
}

impl FinishTile<'_, '_> {
    /// `function` of every sum with its bias and of the value at its place in the result.
    #[inline(always)]
    fn each<S: Simd>(self, simd: S, function: impl Fn(S::f32s, S::f32s) -> S::f32s) {
        let (bias, bias_rest) = S::as_simd_f32s(self.bias);
        for (row, sums) in self.rows.zip(self.sums.chunks_exact(self.width)) {
            let out = self.out.row(row, self.columns.clone());
            let (out, out_rest) = S::as_mut_simd_f32s(out);
            let (sums, _) = S::as_simd_f32s(sums);
            for ((out, &sum), &bias) in out.iter_mut().zip(sums).zip(bias) {
                *out = function(simd.add_f32s(sum, bias), *out);
            }
            if !out_rest.is_empty() {
                let bias = simd.partial_load_f32s(bias_rest);
                let there = simd.partial_load_f32s(out_rest);
                simd.partial_store_f32s(out_rest, function(simd.add_f32s(sums[out.len()], bias), there));
            }
        }
    }

    /// Every sum with its bias and the value at its place in the residual.
    #[inline(always)]
    fn add<S: Simd>(self, simd: S, residual: &[f32]) {
        let (bias, bias_rest) = S::as_simd_f32s(self.bias);
        for (row, sums) in self.rows.zip(self.sums.chunks_exact(self.width)) {
            let residual = &residual[row * self.outputs..][self.columns.clone()];
            let (residual, residual_rest) = S::as_simd_f32s(residual);
            let out = self.out.row(row, self.columns.clone());
            let (out, out_rest) = S::as_mut_simd_f32s(out);
            let (sums, _) = S::as_simd_f32s(sums);
            for (((out, &sum), &bias), &residual) in out.iter_mut().zip(sums).zip(bias).zip(residual) {
                *out = simd.add_f32s(simd.add_f32s(sum, bias), residual);
            }
            if !out_rest.is_empty() {
                let (bias, residual) = (simd.partial_load_f32s(bias_rest), simd.partial_load_f32s(residual_rest));
                let sum = simd.add_f32s(sums[out.len()], bias);
                simd.partial_store_f32s(out_rest, simd.add_f32s(sum, residual));
            }
        }
    }
}
