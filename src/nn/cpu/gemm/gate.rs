//! act(gate) · up: the middle of a gated feed-forward.

use pulp::{Simd, WithSimd};

use super::function;
use super::vectors::Vectors;
use crate::nn::Activation;
use crate::nn::cpu::Instructions;

/// The product of two halves of each row, the first one activated.
#[derive(Debug)]
pub struct Gate<'a> {
    /// Of the first half.
    pub activation: Activation,
    /// [rows, 2 · width].
    pub halves: &'a [f32],
    /// [rows, width].
    pub out: &'a mut [f32],
    /// More than 0.
    pub width: usize,
}

impl Gate<'_> {
    /// Does it, with instructions no better than `most`.
    pub fn apply(self, most: Instructions) {
        Vectors::at_most(most).run(self);
    }

    #[inline(always)]
    fn each<S: Simd>(self, simd: S, function: impl Fn(S::f32s) -> S::f32s) {
        let Self { halves, out, width, .. } = self;
        for (row, out) in halves.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            let ((gate, gate_rest), (up, up_rest)) = (S::as_simd_f32s(gate), S::as_simd_f32s(up));
            let (out, out_rest) = S::as_mut_simd_f32s(out);
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = simd.mul_f32s(function(gate), up);
            }
            if !out_rest.is_empty() {
                let (gate, up) = (simd.partial_load_f32s(gate_rest), simd.partial_load_f32s(up_rest));
                simd.partial_store_f32s(out_rest, simd.mul_f32s(function(gate), up));
            }
        }
    }
}

impl WithSimd for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.activation {
            Activation::Gelu => self.each(
                simd,
                #[inline(always)]
                |x| function::gelu(simd, x),
            ),
            Activation::GeluTanh => self.each(
                simd,
                #[inline(always)]
                |x| function::gelu_tanh(simd, x),
            ),
            Activation::Relu => self.each(
                simd,
                #[inline(always)]
                |x| function::relu(simd, x),
            ),
            Activation::Silu => self.each(
                simd,
                #[inline(always)]
                |x| function::silu(simd, x),
            ),
        }
    }
}
