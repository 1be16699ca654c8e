//! Qwen2: biases on query, key and value; windows in the upper layers, where asked for.
//!
//! Yang et al. 2024, <https://arxiv.org/abs/2407.10671>; checked against `transformers` (`Qwen2Model`).

use serde::Deserialize;
use serde_json::{Value, json};

use super::decoder::{self, Config, Family, LayerType};
use super::parts::{self, Bias, Parts};
use super::rope::{self, Rope};
use super::{LoadError, Loaded};
use crate::nn::{Backend, Mask};

pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let config = Config::read(raw, defaults())?;
    let keys: FamilyConfig = parts::config(raw, defaults())?;
    let family = Family {
        query_key_value_bias: Bias::Present,
        attention_output_bias: Bias::Absent,
        ..Family::new(&config, ("hidden_act", keys.hidden_act.clone()), layers(raw, &config, &keys)?)
    };
    decoder::load(&config, &family, parts)
}

/// Keys of Qwen2 and Qwen3.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct FamilyConfig {
    pub(super) hidden_act: String,
    use_sliding_window: bool,
    max_window_layers: usize,
}

/// What each layer sees, and its positions.
pub(super) fn layers(raw: &Value, config: &Config, keys: &FamilyConfig) -> Result<Vec<(Mask, Rope)>, LoadError> {
    decoder::refuse_bidirectional_key(raw)?;
    let window = config.sliding_window.filter(|_| keys.use_sliding_window);
    let windowed = |layer| window.is_some() && layer >= keys.max_window_layers;
    let by_place = |layer| if windowed(layer) { LayerType::SlidingAttention } else { LayerType::FullAttention };
    let types = config.layer_types(by_place)?;
    let config = Config { sliding_window: window, ..config.clone() };
    let rope = rope::read(raw, config.head_size()?)?;
    types.into_iter().map(|layer| Ok((config.mask(layer)?, rope.clone()))).collect()
}

/// Those of `Qwen2Config`.
pub(super) fn defaults() -> Value {
    json!({
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 22_016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "use_sliding_window": false,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "max_position_embeddings": 32_768,
    })
}
