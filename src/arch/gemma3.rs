//! Gemma 3, text alone; `EmbeddingGemma` is one whose tokens see both directions.
//!
//! Norms before and after each half of a layer, local layers with a rotary base of their own between global ones, scaled
//! embeddings. Gemma Team 2025, <https://arxiv.org/abs/2503.19786>; checked against `transformers` (`Gemma3TextModel`).

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::decoder::{self, Config, Family, LayerType};
use super::parts::{self, Parts};
use super::rope::{self, Rope};
use super::{LoadError, Loaded};
use crate::nn::{Backend, Mask};

#[derive(Debug, Clone, Deserialize)]
struct FamilyConfig {
    hidden_activation: String,
    query_pre_attn_scalar: f64,
    /// Every so many layers, one is global; read only where there are no `layer_types`.
    sliding_window_pattern: usize,
    use_bidirectional_attention: Option<bool>,
}

pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let config = Config::read(raw, defaults())?;
    let keys: FamilyConfig = parts::config(raw, defaults())?;
    parts::refuse_unless(raw, "attn_logit_softcapping", &[], "null")?;
    rope::refuse_old_kind(raw)?;
    #[expect(clippy::cast_possible_truncation, reason = "an f32 tensor in the reference")]
    let embedding_scale = (config.hidden_size as f64).sqrt() as f32;
    let family = Family {
        head_norms: true,
        gemma: true,
        embedding_scale,
        scale: Some(keys.query_pre_attn_scalar.sqrt().recip()),
        ..Family::new(&config, ("hidden_activation", keys.hidden_activation.clone()), layers(raw, &config, &keys)?)
    };
    decoder::load(&config, &family, parts)
}

/// What each layer sees, and its positions.
fn layers(raw: &Value, config: &Config, keys: &FamilyConfig) -> Result<Vec<(Mask, Rope)>, LoadError> {
    let pattern = keys.sliding_window_pattern.max(1);
    let by_place = |layer: usize| {
        if (layer + 1).is_multiple_of(pattern) { LayerType::FullAttention } else { LayerType::SlidingAttention }
    };
    let head_size = config.head_size()?;
    let layer = |layer: LayerType| {
        let (name, theta_key, default_theta) = match layer {
            LayerType::FullAttention => ("full_attention", "rope_theta", 1_000_000.0),
            LayerType::SlidingAttention => ("sliding_attention", "rope_local_base_freq", 10_000.0),
        };
        let scaling = if layer == LayerType::FullAttention { object(raw, "rope_scaling") } else { Map::new() };
        let mut parameters = object(&Value::Object(object(raw, "rope_parameters")), name);
        parameters.extend(scaling);
        let theta = raw.get(theta_key).filter(|theta| !theta.is_null()).cloned();
        parameters.entry("rope_theta").or_insert_with(|| theta.unwrap_or_else(|| json!(default_theta)));
        Ok((mask(config, keys, layer)?, rope::from_parameters(&parameters, raw, head_size)?))
    };
    config.layer_types(by_place)?.into_iter().map(layer).collect()
}

/// With `use_bidirectional_attention`, a window of W is W / 2 tokens on either side.
fn mask(config: &Config, keys: &FamilyConfig, layer: LayerType) -> Result<Mask, LoadError> {
    match layer {
        _ if keys.use_bidirectional_attention != Some(true) => config.mask(layer),
        LayerType::FullAttention => Ok(Mask::FULL),
        LayerType::SlidingAttention => {
            // is_causal false also counts the width without the token itself.
            let beyond = usize::from(config.is_causal == Some(false));
            let width = config.sliding_window.ok_or_else(|| decoder::no_window(None))?;
            Ok(Mask::window(width / 2 + beyond))
        }
    }
}

/// The object of a key; an empty one where there is none.
fn object(value: &Value, key: &str) -> Map<String, Value> {
    value.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Those of `Gemma3TextConfig`.
fn defaults() -> Value {
    json!({
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "attention_bias": false,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "use_bidirectional_attention": false,
        "max_position_embeddings": 131_072,
    })
}
