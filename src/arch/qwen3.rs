//! Qwen3: norms over the heads of queries and keys; a head's size of its own.
//!
//! Yang et al. 2025, <https://arxiv.org/abs/2505.09388>; checked against `transformers` (`Qwen3Model`).

use std::sync::Arc;

use serde_json::{Value, json};

use super::decoder::{self, Config, Family};
use super::parts::{self, Bias};
use super::qwen2::{self, Own};
use super::{Architecture, LoadError};
use crate::model::weights::Weights;
use crate::nn::Backend;

/// Reads configuration and weights.
pub(super) fn load<B: Backend>(
    raw: &Value,
    weights: &Weights,
    backend: &B,
) -> Result<Arc<dyn Architecture<B>>, LoadError> {
    let config = Config::read(raw, defaults())?;
    let own: Own = parts::config(raw, defaults())?;
    let attention_bias = Bias::of(config.attention_bias);
    let family = Family {
        query_key_value_bias: attention_bias,
        attention_output_bias: attention_bias,
        feed_forward_bias: Bias::Absent,
        activation: ("hidden_act", own.hidden_act.clone()),
        head_norms: true,
        gemma: false,
        embedding_scale: 1.0,
        scale: None,
        layers: qwen2::layers(raw, &config, &own)?,
    };
    decoder::load(&config, &family, weights, backend)
}

/// Those of `Qwen3Config`.
fn defaults() -> Value {
    json!({
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 22_016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "use_sliding_window": false,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "max_position_embeddings": 32_768,
    })
}
