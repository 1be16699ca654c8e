//! From hidden states to weights of a vocabulary, a block of tokens at a time.

use super::buffers::Buffers;
use super::gemm::Finish;
use super::{Activations, Cpu, Linear};
use crate::domain::{PackedBatch, SparseVector};
use crate::model::pooling::SpladePooling;
use crate::nn::splade::rows_of_a_block;

impl Cpu {
    /// One sparse vector a sequence. Tokens of several short sequences share a block, and a long one has several.
    pub(super) fn weigh_vocabulary(
        &self,
        decoder: &Linear,
        input: &Activations,
        pooling: SpladePooling,
        batch: &PackedBatch,
    ) -> Vec<SparseVector> {
        let (inputs, vocabulary) = (decoder.0.inputs(), decoder.0.outputs());
        let rows = rows_of_a_block(vocabulary);
        let mut logits = Buffers::take(&self.buffers, rows.min(batch.tokens()) * vocabulary);
        let mut block = 0..0;
        let mut weights = Buffers::take(&self.buffers, vocabulary);
        let mut vectors = Vec::with_capacity(batch.sequences());
        for bounds in batch.cu_seqlens().windows(2) {
            weights.fill(pooling.start());
            let mut next = bounds[0];
            while next < bounds[1] {
                if next >= block.end {
                    block = next..(next + rows).min(batch.tokens());
                    let logits = &mut logits[..block.len() * vocabulary];
                    let input = &input.values[block.start * inputs..block.end * inputs];
                    decoder.apply(self.cores, input, Finish::Bias, logits);
                }
                let end = block.end.min(bounds[1]);
                let logits = &logits[(next - block.start) * vocabulary..(end - block.start) * vocabulary];
                let weights = &mut weights[..];
                // Inlined, or it would be compiled for what every processor has.
                self.instructions.run_plain(
                    #[inline(always)]
                    || logits.chunks_exact(vocabulary).for_each(|token| pooling.add(weights, token)),
                );
                next = end;
            }
            pooling.finish(&mut weights);
            vectors.push(SparseVector::of(&weights));
        }
        vectors
    }
}
