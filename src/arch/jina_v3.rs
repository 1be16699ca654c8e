//! jina-embeddings-v3: XLM-R with rotary positions, in the layout of `transformers` 5, without its task adapters.
//!
//! Sturua et al. 2024, <https://arxiv.org/abs/2409.10173>; checked against `transformers` (`JinaEmbeddingsV3Model`).

use std::sync::Arc;

use serde_json::{Value, json};

use super::parts::{self, Parts, Up};
use super::post_norm::{
    EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, LayerSizes, Numbering, PostNorm, QueryKeyValue,
};
use super::{Architecture, LoadError, bert, rope};
use crate::model::weights::Weights;
use crate::nn::{Attention, Backend};

const LAYER: LayerNames = LayerNames {
    query_key_value: QueryKeyValue::Stacked("mixer.Wqkv"),
    attention_output: "mixer.out_proj",
    attention_norm: "norm1",
    up: Up::Plain("mlp.fc1"),
    down: "mlp.fc2",
    output_norm: "norm2",
};

/// Reads configuration and weights.
pub(super) fn load<B: Backend>(
    raw: &Value,
    weights: &Weights,
    backend: &B,
) -> Result<Arc<dyn Architecture<B>>, LoadError> {
    parts::refuse_unless(raw, "lora_adaptations", &[json!([])], "no adapters, as in jina-embeddings-v3-hf")?;
    let raw = &with_key_of_transformers(raw);
    let config: bert::Config = parts::config(raw, defaults())?;
    let head_size = parts::own_head_size(raw, config.hidden_size, config.num_attention_heads)?;
    let parts = Parts { weights, backend };
    let sizes = LayerSizes { attention: config.num_attention_heads * head_size, ..config.layer_sizes()? };
    let layer = |index| Layer::load(&parts, &format!("encoder.layers.{index}"), &LAYER, &sizes).map(Arc::new);
    let embedding_sizes =
        EmbeddingSizes { positions: None, norm: "emb_ln", ..config.embedding_sizes(Numbering::FromZero) };
    let rope = rope::read_with_base(raw, head_size, 20_000.0)?;
    let attention = rope.turning(Attention::new(config.num_attention_heads, head_size));
    Ok(Arc::new(PostNorm {
        embeddings: Embeddings::load(&parts, &embedding_sizes)?,
        layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
        attention: LayerAttention::Same(backend.attention(attention)?),
        hidden_size: config.hidden_size,
        max_positions: config.max_position_embeddings,
    }))
}

/// Jina's own code has another name for the base of the rotary positions.
fn with_key_of_transformers(raw: &Value) -> Value {
    match raw.get("rotary_emb_base").filter(|base| !base.is_null()) {
        Some(base) => parts::merged(json!({"rope_theta": base}), raw.clone()),
        None => raw.clone(),
    }
}

/// Those of `JinaEmbeddingsV3Config` in `transformers`.
fn defaults() -> Value {
    let own = json!({
        "vocab_size": 250_002,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 8194,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    });
    parts::merged(bert::Config::defaults(), own)
}
