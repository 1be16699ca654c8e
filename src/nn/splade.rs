//! From the logits of a sequence's tokens to weights of the vocabulary, as SPLADE has it.
//!
//! Formal et al. 2021, <https://arxiv.org/abs/2107.05720> (sum) and <https://arxiv.org/abs/2109.10086> (max); the second
//! logarithm is of Geng et al. 2024, <https://arxiv.org/abs/2411.04403>. Names are those of sentence-transformers'
//! `SpladePooling`.

use crate::model::pooling::{SpladeActivation, SpladePooling, SpladeStrategy};

/// How many numbers of [tokens, vocabulary] exist at once: 16 MiB in f32. A whole batch would be a gigabyte where the
/// vocabulary has 250,000 tokens.
const BLOCK_NUMBERS: usize = 1 << 22;

/// Tokens of a block where the vocabulary is small.
const MAX_ROWS: usize = 128;

impl SpladePooling {
    /// What a sequence has before its first token.
    pub(super) fn start(self) -> f32 {
        match self.strategy {
            SpladeStrategy::Max => f32::NEG_INFINITY,
            SpladeStrategy::Sum => 0.0,
        }
    }

    /// Takes the logits of one more token. A logit that is not a number stays in the result.
    #[inline]
    pub(super) fn add(self, sums: &mut [f32], logits: &[f32]) {
        match self.strategy {
            // The activation grows with the logit, so that the largest logit has the largest weight.
            SpladeStrategy::Max => {
                for (largest, &x) in sums.iter_mut().zip(logits) {
                    *largest = if x <= *largest || largest.is_nan() { *largest } else { x };
                }
            }
            SpladeStrategy::Sum => {
                for (sum, &x) in sums.iter_mut().zip(logits) {
                    // Most logits are below zero, and their logarithm need not be taken.
                    if x > 0.0 || x.is_nan() {
                        *sum += self.weight(x);
                    }
                }
            }
        }
    }

    /// Turns what the last token has left into weights.
    pub(super) fn finish(self, sums: &mut [f32]) {
        if self.strategy == SpladeStrategy::Max {
            sums.iter_mut().for_each(|x| *x = self.weight(*x));
        }
    }

    fn weight(self, logit: f32) -> f32 {
        // NaN stays what it is, which max would hide.
        let positive = if logit <= 0.0 { 0.0 } else { logit };
        match self.activation {
            SpladeActivation::Relu => positive.ln_1p(),
            SpladeActivation::Log1pRelu => positive.ln_1p().ln_1p(),
        }
    }
}

/// Tokens whose logits exist at once.
pub(super) fn rows_of_a_block(vocabulary: usize) -> usize {
    (BLOCK_NUMBERS / vocabulary.max(1)).clamp(1, MAX_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(strategy: SpladeStrategy, activation: SpladeActivation, expected: [f32; 3]) {
        let pooling = SpladePooling { strategy, activation };
        let mut weights = [pooling.start(); 3];
        pooling.add(&mut weights, &[1.0, -3.0, 0.0]);
        pooling.add(&mut weights, &[4.0, -1.0, 0.5]);
        pooling.finish(&mut weights);
        // The compiler may work a logarithm out in another way.
        let close = weights.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-6);
        assert!(close, "{weights:?} {expected:?}");
    }

    #[test]
    fn weights_are_the_largest_or_the_sum_of_logarithms() {
        let (one, four, half) = (1.0_f32.ln_1p(), 4.0_f32.ln_1p(), 0.5_f32.ln_1p());
        check(SpladeStrategy::Max, SpladeActivation::Relu, [four, 0.0, half]);
        check(SpladeStrategy::Sum, SpladeActivation::Relu, [one + four, 0.0, half]);
        check(SpladeStrategy::Max, SpladeActivation::Log1pRelu, [four.ln_1p(), 0.0, half.ln_1p()]);
        check(SpladeStrategy::Sum, SpladeActivation::Log1pRelu, [one.ln_1p() + four.ln_1p(), 0.0, half.ln_1p()]);
    }

    #[test]
    fn a_logit_that_is_no_number_stays_in_the_weight() {
        for strategy in [SpladeStrategy::Max, SpladeStrategy::Sum] {
            let pooling = SpladePooling { strategy, activation: SpladeActivation::Relu };
            let mut weights = [pooling.start()];
            for logit in [1.0, f32::NAN, 7.0] {
                pooling.add(&mut weights, &[logit]);
            }
            pooling.finish(&mut weights);
            assert!(weights[0].is_nan(), "{strategy:?}");
        }
    }

    #[test]
    fn blocks_are_small_where_the_vocabulary_is_large() {
        assert_eq!((rows_of_a_block(700), rows_of_a_block(250_000), rows_of_a_block(usize::MAX)), (128, 16, 1));
    }
}
