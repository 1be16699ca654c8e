//! What a model takes of a device's memory, from its own files.
//!
//! Numbers are counted as f32: the activations are, and weights in bf16 or int8 take less, never more.

use super::spec::{Architecture, ModelSpec, SparseHead};
use super::weights::Weights;
use crate::domain::{Bytes, Widths};

/// Bytes of a number in f32.
const NUMBER: u64 = 4;

/// Names of the number of heads, and of their size where the configuration has it.
const HEADS: &[&str] = &["num_attention_heads", "n_heads", "n_head", "num_heads"];
const HEAD_SIZE: &[&str] = &["head_dim", "d_kv"];

/// Sizes that decide about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// All weights in f32, whatever their type in the files.
    pub weights: Bytes,
    /// Activations for each token of a batch.
    pub token_bytes: u64,
    /// One copy of a token in f32.
    pub hidden_bytes: u64,
    /// Attention scores for each pair of tokens of a sequence.
    pub pair_bytes: u64,
}

impl Footprint {
    /// From the tensors of the weight files and the sizes in `config.json`.
    ///
    /// While a layer of a transformer computes, these are alive for each token: its input, the residual and the output
    /// (hidden size each), query, key, value and their result (four times the width of all heads), and what the
    /// feed-forward widens to, before and after its activation (intermediate size each; a gate has another); for each
    /// pair of tokens, one score a head. A table of vectors has no layers.
    ///
    /// The head of a masked language model has the table of words a second time, as a linear layer.
    pub fn new(spec: &ModelSpec, weights: &Weights, given: Widths) -> Self {
        let size = |keys: &[&str]| keys.iter().find_map(|key| spec.config.get(*key)?.as_u64());
        let hidden = spec.hidden_size as u64;
        // Each is known by several names, one of which a configuration has.
        let intermediate = size(&["intermediate_size", "hidden_dim", "n_inner", "d_ff"]);
        let intermediate = intermediate.unwrap_or(hidden.saturating_mul(4));
        let heads = size(HEADS).unwrap_or(1);
        let head_size = size(HEAD_SIZE).unwrap_or_default();
        let widths = if spec.architecture == Architecture::Static {
            hidden
        } else {
            let attention = heads.saturating_mul(head_size).max(hidden).saturating_mul(4);
            let middle = intermediate.saturating_mul(if gated(spec) { 3 } else { 2 });
            hidden.saturating_mul(3).saturating_add(attention).saturating_add(middle)
        };
        let pair_heads = if spec.architecture == Architecture::Static { 0 } else { heads };
        let decoder = match (&spec.sparse, given.sparse) {
            (Some(SparseHead::MaskedLm { vocabulary, .. }), Some(_)) => hidden.saturating_mul(*vocabulary as u64),
            _ => 0,
        };
        Self {
            weights: Bytes(weights.numbers().saturating_add(decoder).saturating_mul(NUMBER)),
            token_bytes: widths.saturating_mul(NUMBER),
            hidden_bytes: hidden.saturating_mul(NUMBER),
            pair_bytes: pair_heads.saturating_mul(NUMBER),
        }
    }

    /// The same with weights and activations in numbers of so many bytes, as on a GPU. Attention scores stay in f32, and
    /// so does one copy of a token, in which norms add up.
    #[must_use]
    pub fn in_numbers_of(self, bytes: u64) -> Self {
        let scaled = |amount: u64| (amount / NUMBER).saturating_mul(bytes);
        let norm = if bytes < NUMBER { self.hidden_bytes } else { 0 };
        let token_bytes = scaled(self.token_bytes).saturating_add(norm);
        Self { weights: Bytes(scaled(self.weights.0)), token_bytes, ..self }
    }

    /// The same where attention is fused, and no score is in memory: all but that with relative positions, whose scores
    /// are plain tensors, and such heads as no kernel takes. The few batches that are left to plain tensors all the same,
    /// because a token sees no key, are no reason to count scores for all others.
    ///
    /// `largest_head`: numbers of the largest heads that there are kernels for.
    #[must_use]
    pub fn with_fused_attention(self, spec: &ModelSpec, largest_head: usize) -> Self {
        let size = |keys: &[&str]| keys.iter().find_map(|key| spec.config.get(*key)?.as_u64());
        let heads = size(HEADS).unwrap_or(1).max(1);
        let head_size = size(HEAD_SIZE).unwrap_or(spec.hidden_size as u64 / heads);
        let fused = spec.architecture != Architecture::DebertaV2 && head_size <= largest_head as u64;
        if fused { Self { pair_bytes: 0, ..self } } else { self }
    }

    /// Activations of a batch of so many tokens, in sequences of one length.
    pub fn activations(&self, tokens: usize, length: usize) -> Bytes {
        let (tokens, length) = (tokens as u64, length as u64);
        Bytes(tokens.saturating_mul(self.token_bytes.saturating_add(length.saturating_mul(self.pair_bytes))))
    }
}

/// Whether feed-forward layers have a gate.
fn gated(spec: &ModelSpec) -> bool {
    match spec.architecture {
        Architecture::NomicBert
        | Architecture::ModernBert
        | Architecture::Gte
        | Architecture::JinaBert
        | Architecture::Qwen2
        | Architecture::Qwen3
        | Architecture::Mistral
        | Architecture::Llama
        | Architecture::Gemma3 => true,
        Architecture::T5 => {
            let projection = spec.config.get("feed_forward_proj").and_then(serde_json::Value::as_str);
            projection.is_some_and(|projection| projection.starts_with("gated-"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn sizes_come_from_the_files() {
        let spec = ModelSpec::read("tests/fixtures/models/bert-minilm".as_ref()).unwrap();
        let weights = Weights::open(&spec.weights).unwrap();
        let footprint = Footprint::new(&spec, &weights, spec.widths());
        // 704 words, 96 positions, 2 types and 2 layers of width 32 (64 between), and the pooler.
        let layer = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32;
        let numbers = (704 + 96 + 2) * 32 + 2 * 32 + 2 * layer + 32 * 32 + 32;
        let stored = weights.numbers();
        assert!(stored.abs_diff(numbers) <= 96, "{stored} {numbers}: at most the list of positions besides");
        assert_eq!(footprint.weights, Bytes(stored * 4));
        assert_eq!((footprint.token_bytes, footprint.pair_bytes), ((7 * 32 + 2 * 64) * 4, 16));
        assert_eq!(footprint.activations(10, 5), Bytes(10 * (352 * 4 + 5 * 16)));
        let half = footprint.in_numbers_of(2);
        assert_eq!((half.weights, half.token_bytes, half.pair_bytes), (Bytes(stored * 2), 352 * 2 + 32 * 4, 16));
        assert_eq!(footprint.in_numbers_of(4), footprint);
        assert_eq!(footprint.with_fused_attention(&spec, 256), Footprint { pair_bytes: 0, ..footprint });
    }

    #[test]
    fn scores_of_relative_positions_and_of_the_largest_heads_are_counted_in_any_case() {
        let spec = ModelSpec::read("tests/fixtures/models/bert-minilm".as_ref()).unwrap();
        let sizes = |pair_bytes| Footprint { weights: Bytes(1), token_bytes: 2, hidden_bytes: 3, pair_bytes };
        let left = |spec: &ModelSpec| sizes(4).with_fused_attention(spec, 256);
        assert_eq!(left(&spec), sizes(0));
        assert_eq!(left(&ModelSpec { architecture: Architecture::DebertaV2, ..spec.clone() }), sizes(4));
        let mut wide = spec;
        wide.config.insert("head_dim".to_owned(), 257.into());
        assert_eq!(left(&wide), sizes(4));
    }

    #[test]
    fn the_table_of_words_counts_twice_where_it_is_a_layer_too() {
        let spec = ModelSpec::read("tests/fixtures/models/splade-mlm".as_ref()).unwrap();
        let weights = Weights::open(&spec.weights).unwrap();
        let table = (spec.widths().sparse.unwrap() * spec.hidden_size) as u64;
        let footprint = Footprint::new(&spec, &weights, spec.widths());
        assert_eq!(footprint.weights, Bytes((weights.numbers() + table) * 4));
    }

    #[test]
    fn heads_and_gates_are_counted_as_wide_as_they_are() {
        let read = |model: &str| {
            let spec = ModelSpec::read(&Path::new("tests/fixtures/models").join(model)).unwrap();
            let footprint = Footprint::new(&spec, &Weights::open(&spec.weights).unwrap(), spec.widths());
            (spec, footprint)
        };
        let (spec, footprint) = read("qwen3-sharded");
        let size = |key: &str| spec.config[key].as_u64().unwrap();
        let (hidden, heads) = (size("hidden_size"), size("num_attention_heads"));
        let attention = heads * size("head_dim");
        assert!(attention > hidden, "a fixture whose heads are wider than its tokens");
        let numbers = 3 * hidden + 4 * attention + 3 * size("intermediate_size");
        assert_eq!((footprint.token_bytes, footprint.pair_bytes), (4 * numbers, 4 * heads));
        let (spec, footprint) = read("static-model2vec");
        assert_eq!((footprint.token_bytes, footprint.pair_bytes), (4 * spec.dimension as u64, 0));
    }
}
