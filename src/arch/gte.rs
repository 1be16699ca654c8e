//! GTE (`GteModel` of `transformers`, `NewModel` of Alibaba's own code): BERT with rotary positions and gated feed-forward
//! layers.
//!
//! Zhang et al. 2024, <https://arxiv.org/abs/2407.19669>; checked against `transformers` (`GteModel`). Both layouts have
//! the same names of tensors; the older one has keys of its own in the configuration.

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Bias, Parts, Up};
use super::post_norm::{
    Biases, EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, LayerSizes, Numbering, QueryKeyValue,
};
use super::rope::{self, Rope};
use super::{LoadError, Loaded, bert};
use crate::nn::{Attention, Backend};

const LAYER: LayerNames = LayerNames {
    query_key_value: QueryKeyValue::Stacked("attention.qkv_proj"),
    attention_output: "attention.o_proj",
    attention_norm: "attn_ln",
    up: Up::GateLast("mlp.up_gate_proj"),
    down: "mlp.down_proj",
    output_norm: "mlp_ln",
};

const APART: QueryKeyValue = QueryKeyValue::Apart(["attention.q_proj", "attention.k_proj", "attention.v_proj"]);

pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    parts::refuse_unless(raw, "position_embedding_type", &[json!("rope")], "rope")?;
    parts::refuse_unless(raw, "layer_norm_type", &[json!("layer_norm")], "layer_norm")?;
    parts::refuse_unless(raw, "logn_attention_scale", &[json!(false)], "false")?;
    let is_old = raw.get("model_type").is_some_and(|name| name == "new");
    let config: bert::Config = parts::config(raw, if is_old { old_defaults() } else { defaults() })?;
    let head_size = parts::own_head_size(raw, config.hidden_size, config.num_attention_heads)?;
    let sizes = LayerSizes {
        attention: config.num_attention_heads * head_size,
        biases: Biases { up: Bias::Absent, ..Biases::ALL },
        ..config.layer_sizes()?
    };
    let names = match raw.get("pack_qkv") {
        Some(Value::Bool(false)) => LayerNames { query_key_value: APART, ..LAYER },
        _ => LAYER,
    };
    let embedding_sizes = EmbeddingSizes { positions: None, ..config.embedding_sizes(Numbering::FromZero) };
    let attention = rope(raw, head_size, if is_old { 10_000.0 } else { 160_000.0 })?
        .turning(Attention::new(config.num_attention_heads, head_size));
    let embeddings = Embeddings::load(parts, &embedding_sizes)?;
    let layers = Layer::load_all(parts, "encoder.layer", config.num_hidden_layers, &names, &sizes)?;
    let attention = LayerAttention::Same(parts.backend.attention(attention)?);
    Ok(config.encoder(embeddings, layers, attention))
}

/// What the older layout has beside the scalings of `transformers`: "ntk".
#[derive(Debug, Deserialize)]
struct Ntk {
    factor: f64,
    mixed_b: Option<f64>,
}

/// Rotary positions, with a base where nothing is said.
fn rope(raw: &Value, head_size: usize, default_theta: f64) -> Result<Rope, LoadError> {
    let scaling = raw.get("rope_scaling").filter(|scaling| scaling.get("type").is_some_and(|kind| kind == "ntk"));
    let Some(scaling) = scaling else { return rope::read_with_base(raw, head_size, default_theta) };
    let ntk = Ntk::deserialize(scaling).map_err(LoadError::Config)?;
    if let Some(mixed_b) = ntk.mixed_b {
        return Err(LoadError::unsupported("rope_scaling.mixed_b", &mixed_b, "null"));
    }
    let theta = raw.get("rope_theta").and_then(Value::as_f64).unwrap_or(default_theta);
    scaled(theta, ntk.factor, head_size)
}

/// Fixed NTK scaling: a larger base, and all frequencies a little lower, so that the lowest is divided by `factor`
/// (<https://kexue.fm/archives/9706>, equation 6). Without a factor above 1, nothing is scaled.
fn scaled(theta: f64, factor: f64, head_size: usize) -> Result<Rope, LoadError> {
    let with_base = |theta: f64| rope::read_with_base(&json!({"rope_theta": theta}), head_size, theta);
    if factor <= 1.0 {
        return with_base(theta);
    }
    let mut rope = with_base(theta * factor)?;
    #[expect(clippy::cast_possible_truncation, reason = "the reference divides by an f32")]
    let divisor = factor.powf(2.0 / head_size as f64) as f32;
    rope.rotary.inverse_frequencies.iter_mut().for_each(|frequency| *frequency /= divisor);
    Ok(rope)
}

/// Those of `GteConfig` in `transformers`.
pub(super) fn defaults() -> Value {
    let own = json!({"vocab_size": 250_048, "type_vocab_size": 1, "max_position_embeddings": 8192});
    parts::merged(bert::Config::defaults(), own)
}

/// Those of Alibaba's `NewConfig`.
fn old_defaults() -> Value {
    let own = json!({"vocab_size": 30528, "type_vocab_size": 1, "max_position_embeddings": 2048});
    parts::merged(bert::Config::defaults(), own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(raw: &Value) -> Vec<f32> {
        rope(raw, 4, 10_000.0).unwrap().rotary.inverse_frequencies
    }

    #[test]
    fn ntk_scaling_divides_the_lowest_frequency_by_the_factor() {
        let found = frequencies(&json!({"rope_scaling": {"type": "ntk", "factor": 4.0}}));
        assert!((found[0] - 0.5).abs() < 1e-7 && (found[1] - 0.01 / 4.0).abs() < 1e-9, "{found:?}");
        assert_eq!(frequencies(&json!({"rope_scaling": {"type": "ntk", "factor": 1.0}})), [1.0, 0.01]);
        assert_eq!(frequencies(&json!({"rope_theta": 100.0, "rope_scaling": null})), [1.0, 0.1]);
    }

    #[test]
    fn mixed_ntk_scaling_is_refused_by_name() {
        let raw = json!({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}});
        let error = rope(&raw, 4, 10_000.0).unwrap_err().to_string();
        assert!(error.contains("rope_scaling.mixed_b = 0.5"), "{error}");
    }
}
