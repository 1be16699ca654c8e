//! jina-embeddings-v3: XLM-R with rotary positions, in the layout of `transformers` 5, without its task adapters.
//!
//! Sturua et al. 2024, <https://arxiv.org/abs/2409.10173>; checked against `transformers` (`JinaEmbeddingsV3Model`).

use serde_json::{Value, json};

use super::parts::{self, Parts, Up};
use super::post_norm::{
    EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, LayerSizes, Numbering, QueryKeyValue,
};
use super::{Loaded, bert, rope};
use crate::nn::{Attention, Backend};

const LAYER: LayerNames = LayerNames {
    query_key_value: QueryKeyValue::Stacked("mixer.Wqkv"),
    attention_output: "mixer.out_proj",
    attention_norm: "norm1",
    up: Up::Plain("mlp.fc1"),
    down: "mlp.fc2",
    output_norm: "norm2",
};

pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    parts::refuse_unless(raw, "lora_adaptations", &[json!([])], "no adapters, as in jina-embeddings-v3-hf")?;
    let raw = &with_key_of_transformers(raw);
    let config: bert::Config = parts::config(raw, defaults())?;
    let head_size = parts::own_head_size(raw, config.hidden_size, config.num_attention_heads)?;
    let sizes = LayerSizes { attention: config.num_attention_heads * head_size, ..config.layer_sizes()? };
    let embedding_sizes =
        EmbeddingSizes { positions: None, norm: "emb_ln", ..config.embedding_sizes(Numbering::FromZero) };
    let rope = rope::read_with_base(raw, head_size, 20_000.0)?;
    let attention = rope.turning(Attention::new(config.num_attention_heads, head_size));
    let embeddings = Embeddings::load(parts, &embedding_sizes)?;
    let layers = Layer::load_all(parts, "encoder.layers", config.num_hidden_layers, &LAYER, &sizes)?;
    let attention = LayerAttention::Same(parts.backend.attention(attention)?);
    Ok(config.encoder(embeddings, layers, attention))
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
