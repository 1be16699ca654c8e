//! GTE (`GteModel` of `transformers`, `NewModel` of Alibaba's own code): BERT with rotary positions and gated feed-forward
//! layers.
//!
//! Zhang et al. 2024, <https://arxiv.org/abs/2407.19669>; checked against `transformers` (`GteModel`). Both layouts have
//! the same names of tensors; the older one has keys of its own in the configuration.

use std::sync::Arc;

use serde_json::{Value, json};

use super::parts::{self, Bias, Parts, Up};
use super::post_norm::{
    Biases, EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, LayerSizes, Numbering, PostNorm, QueryKeyValue,
};
use super::{Architecture, LoadError, bert, rotary};
use crate::model::weights::Weights;
use crate::nn::{Attention, Backend};

const LAYER: LayerNames = LayerNames {
    query_key_value: QueryKeyValue::Stacked("attention.qkv_proj"),
    attention_output: "attention.o_proj",
    attention_norm: "attn_ln",
    up: Up::UpFirst("mlp.up_gate_proj"),
    down: "mlp.down_proj",
    output_norm: "mlp_ln",
};

const APART: QueryKeyValue = QueryKeyValue::Apart(["attention.q_proj", "attention.k_proj", "attention.v_proj"]);

/// Reads configuration and weights.
pub(super) fn load<B: Backend>(
    raw: &Value,
    weights: &Weights,
    backend: &B,
) -> Result<Arc<dyn Architecture<B>>, LoadError> {
    parts::refuse_unless(raw, "position_embedding_type", &[json!("rope")], "rope")?;
    parts::refuse_unless(raw, "layer_norm_type", &[json!("layer_norm")], "layer_norm")?;
    parts::refuse_unless(raw, "logn_attention_scale", &[json!(false)], "false")?;
    let is_old = raw.get("model_type").is_some_and(|name| name == "new");
    let config: bert::Config = parts::config(raw, if is_old { old_defaults() } else { defaults() })?;
    let head_size = parts::own_head_size(raw, config.hidden_size, config.num_attention_heads)?;
    let parts = Parts { weights, backend };
    let sizes = LayerSizes {
        attention: config.num_attention_heads * head_size,
        biases: Biases { up: Bias::Absent, ..Biases::ALL },
        ..config.layer_sizes()?
    };
    let names = match raw.get("pack_qkv") {
        Some(Value::Bool(false)) => LayerNames { query_key_value: APART, ..LAYER },
        _ => LAYER,
    };
    let layer = |index| Layer::load(&parts, &format!("encoder.layer.{index}"), &names, &sizes).map(Arc::new);
    let embedding_sizes = EmbeddingSizes { positions: None, ..config.embedding_sizes(Numbering::FromZero) };
    let rotary = Some(rotary::read(raw, head_size, if is_old { 10_000.0 } else { 160_000.0 })?);
    Ok(Arc::new(PostNorm {
        embeddings: Embeddings::load(&parts, &embedding_sizes)?,
        layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
        attention: LayerAttention::Same(backend.attention(Attention { rotary, ..Attention::new(config.num_attention_heads, head_size) })?),
        hidden_size: config.hidden_size,
        max_positions: config.max_position_embeddings,
    }))
}

/// Those of `GteConfig` in `transformers`.
fn defaults() -> Value {
    let own = json!({"vocab_size": 250_048, "type_vocab_size": 1, "max_position_embeddings": 8192});
    parts::merged(bert::Config::defaults(), own)
}

/// Those of Alibaba's `NewConfig`.
fn old_defaults() -> Value {
    let own = json!({"vocab_size": 30528, "type_vocab_size": 1, "max_position_embeddings": 2048});
    parts::merged(bert::Config::defaults(), own)
}
