//! Llama and Mistral: no biases unless asked for; Mistral's layers all see a window, unless their types are given.
//!
//! Touvron et al. 2023, <https://arxiv.org/abs/2302.13971>, and Jiang et al. 2023, <https://arxiv.org/abs/2310.06825>;
//! checked against `transformers` (`LlamaModel`, `MistralModel`).

use serde::Deserialize;
use serde_json::{Value, json};

use super::decoder::{self, Config, Family, LayerType};
use super::parts::{self, Bias, Parts};
use super::rope;
use super::{LoadError, Loaded};
use crate::nn::Backend;

/// Reads configuration and weights of a Llama.
pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let config = Config::read(raw, defaults())?;
    let keys: FamilyConfig = parts::config(raw, defaults())?;
    let layers = vec![LayerType::FullAttention; config.num_hidden_layers];
    load_layers(raw, &config, &keys, &layers, parts)
}

/// Reads configuration and weights of a Mistral.
pub(super) fn load_mistral<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let config = Config::read(raw, mistral_defaults())?;
    // Keys of Llama's that Mistral does not have.
    let keys = FamilyConfig { mlp_bias: false, ..parts::config(raw, mistral_defaults())? };
    let layer = if config.sliding_window.is_some() { LayerType::SlidingAttention } else { LayerType::FullAttention };
    // With types of layers, `transformers` takes it for a Ministral, which is the same in all else.
    let layers = config.layer_types(|_| layer)?;
    load_layers(raw, &Config { attention_bias: false, ..config }, &keys, &layers, parts)
}

#[derive(Debug, Clone, Deserialize)]
struct FamilyConfig {
    hidden_act: String,
    mlp_bias: bool,
}

fn load_layers<B: Backend>(
    raw: &Value,
    config: &Config,
    keys: &FamilyConfig,
    layers: &[LayerType],
    parts: &Parts<'_, B>,
) -> Loaded<B> {
    decoder::refuse_bidirectional_key(raw)?;
    let rope = rope::read(raw, config.head_size()?)?;
    let family = Family {
        feed_forward_bias: Bias::of(keys.mlp_bias),
        ..Family::new(
            config,
            ("hidden_act", keys.hidden_act.clone()),
            layers.iter().map(|layer| Ok((config.mask(*layer)?, rope.clone()))).collect::<Result<_, LoadError>>()?,
        )
    };
    decoder::load(config, &family, parts)
}

/// Those of `LlamaConfig`.
fn defaults() -> Value {
    json!({
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_bias": false,
        "mlp_bias": false,
        "max_position_embeddings": 2048,
    })
}

/// Those of `MistralConfig`.
fn mistral_defaults() -> Value {
    let own = json!({
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "max_position_embeddings": 131_072,
    });
    parts::merged(defaults(), own)
}
