//! What a model takes of a device's memory, from its own files.
//!
//! Numbers are counted as f32: the activations are, and weights in bf16 or int8 take less, never more.

use super::spec::ModelSpec;
use super::weights::Weights;
use crate::domain::Bytes;

/// Bytes of a number in f32.
const NUMBER: u64 = 4;

/// Sizes that decide about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// All weights in f32, whatever their type in the files.
    pub weights: Bytes,
    /// Activations for each token of a batch.
    pub token_bytes: u64,
    /// Attention scores for each pair of tokens of a sequence.
    pub pair_bytes: u64,
}

impl Footprint {
    /// From the tensors of the weight files and the sizes in `config.json`.
    ///
    /// While a layer of a transformer computes, these are alive for each token: its input, the residual and the output
    /// (hidden size each), query, key, value and their result (four of them), and what the feed-forward widens to, before
    /// and after its activation (intermediate size each); for each pair of tokens, one score a head.
    pub fn new(spec: &ModelSpec, weights: &Weights) -> Self {
        let size = |keys: &[&str]| keys.iter().find_map(|key| spec.config.get(*key)?.as_u64());
        let hidden = spec.hidden_size as u64;
        // Each is known by several names, one of which a configuration has.
        let intermediate = size(&["intermediate_size", "hidden_dim", "n_inner", "d_ff"]);
        let intermediate = intermediate.unwrap_or(hidden.saturating_mul(4));
        let heads = size(&["num_attention_heads", "n_heads", "n_head", "num_heads"]).unwrap_or(1);
        Self {
            weights: Bytes(weights.numbers().saturating_mul(NUMBER)),
            token_bytes: hidden.saturating_mul(7).saturating_add(intermediate.saturating_mul(2)).saturating_mul(NUMBER),
            pair_bytes: heads.saturating_mul(NUMBER),
        }
    }

    /// Activations of a batch of so many tokens, in sequences of one length.
    pub fn activations(&self, tokens: usize, length: usize) -> Bytes {
        let (tokens, length) = (tokens as u64, length as u64);
        Bytes(tokens.saturating_mul(self.token_bytes.saturating_add(length.saturating_mul(self.pair_bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_from_the_files() {
        let spec = ModelSpec::read("tests/fixtures/models/bert-minilm".as_ref()).unwrap();
        let weights = Weights::open(&spec.weights).unwrap();
        let footprint = Footprint::new(&spec, &weights);
        // 704 words, 96 positions, 2 types and 2 layers of width 32 (64 between), and the pooler.
        let layer = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32;
        let numbers = (704 + 96 + 2) * 32 + 2 * 32 + 2 * layer + 32 * 32 + 32;
        let stored = weights.numbers();
        assert!(stored.abs_diff(numbers) <= 96, "{stored} {numbers}: at most the list of positions besides");
        assert_eq!(footprint.weights, Bytes(stored * 4));
        assert_eq!((footprint.token_bytes, footprint.pair_bytes), ((7 * 32 + 2 * 64) * 4, 16));
        assert_eq!(footprint.activations(10, 5), Bytes(10 * (352 * 4 + 5 * 16)));
    }
}
