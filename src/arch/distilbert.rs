//! `DistilBERT`: BERT without types of tokens, under other names.
//!
//! Sanh et al. 2019, <https://arxiv.org/abs/1910.01108>; checked against `transformers` (`DistilBertModel`). Sinusoidal
//! positions need no code of their own: checkpoints hold them as a table.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Parts, Up};
use super::post_norm::{
    Biases, EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, LayerSizes, Numbering, PostNorm,
    QueryKeyValue,
};
use super::{LoadError, Loaded};
use crate::nn::{Activation, Attention, Backend};

#[derive(Debug, Clone, Deserialize)]
struct Config {
    vocab_size: usize,
    max_position_embeddings: usize,
    n_layers: usize,
    n_heads: usize,
    dim: usize,
    hidden_dim: usize,
    activation: String,
}

/// Names that `transformers` has for the same in all its configurations: they count where they are there.
const ALIASES: [(&str, &str); 3] =
    [("hidden_size", "dim"), ("num_attention_heads", "n_heads"), ("num_hidden_layers", "n_layers")];

impl Config {
    fn read(config: &Value) -> Result<Self, LoadError> {
        let aliased = ALIASES.iter().filter_map(|(alias, key)| Some(((*key).to_owned(), config.get(alias)?.clone())));
        let aliased = Value::Object(aliased.filter(|(_, value)| !value.is_null()).collect());
        parts::config(&parts::merged(config.clone(), aliased), defaults())
    }
}

/// Not in the configuration.
pub(super) const EPSILON: f64 = 1e-12;

const LAYER: LayerNames = LayerNames {
    query_key_value: QueryKeyValue::Apart(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: Up::Plain("ffn.lin1"),
    down: "ffn.lin2",
    output_norm: "output_layer_norm",
};

pub(super) fn load<B: Backend>(config: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let config = Config::read(config)?;
    let head_size = parts::head_size(config.dim, config.n_heads)?;
    let sizes = LayerSizes {
        hidden: config.dim,
        attention: config.dim,
        inner: config.hidden_dim,
        activation: parts::activation("activation", &config.activation)?,
        epsilon: EPSILON,
        biases: Biases::ALL,
    };
    let embedding_sizes = EmbeddingSizes {
        vocabulary: config.vocab_size,
        types: 0,
        positions: Some((config.max_position_embeddings, Numbering::FromZero)),
        width: config.dim,
        norm_width: config.dim,
        norm: "embeddings.LayerNorm",
        epsilon: EPSILON,
    };
    Ok(Arc::new(PostNorm {
        embeddings: Embeddings::load(parts, &embedding_sizes)?,
        layers: Layer::load_all(parts, "transformer.layer", config.n_layers, &LAYER, &sizes)?,
        attention: LayerAttention::Same(parts.backend.attention(Attention::new(config.n_heads, head_size))?),
        hidden_size: config.dim,
        max_positions: config.max_position_embeddings,
    }))
}

/// The activation of its layers, and of its head.
pub(super) fn activation(config: &Value) -> Result<Activation, LoadError> {
    let config = Config::read(config)?;
    parts::activation("activation", &config.activation)
}

/// Those of `DistilBertConfig` in `transformers`.
fn defaults() -> Value {
    json!({
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "n_layers": 6,
        "n_heads": 12,
        "dim": 768,
        "hidden_dim": 3072,
        "activation": "gelu",
    })
}
