//! `MPNet`: BERT whose attention also has a learned bias for each range of distances.
//!
//! Song et al. 2020, <https://arxiv.org/abs/2004.09297>; checked against `transformers` (`MPNetModel`). Positions are
//! numbered as in `RoBERTa`, after a padding token whose id is not read from the configuration.

use serde_json::{Value, json};

use super::parts::{self, Parts};
use super::post_norm::{
    BERT_LAYER, EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, Numbering, QueryKeyValue,
};
use super::{Loaded, bert};
use crate::nn::{Attention, Backend, Matrix, PositionBias};

const PADDING: u32 = 1;

/// Ranges of distances, and the distance from which on there is one for all: the reference's own, whatever the
/// configuration says.
const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;

const LAYER: LayerNames = LayerNames {
    query_key_value: QueryKeyValue::Apart(["attention.attn.q", "attention.attn.k", "attention.attn.v"]),
    attention_output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    ..BERT_LAYER
};

pub(super) fn load<B: Backend>(config: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    parts::refuse_unless(config, "relative_attention_num_buckets", &[json!(BUCKETS)], "32")?;
    let config: bert::Config = parts::config(config, defaults())?;
    let (sizes, numbering) = (config.layer_sizes()?, Numbering::AfterPadding(PADDING));
    let attention = config.attention()?;
    let values = parts.tensor(&["encoder.relative_attention_bias.weight"], &[BUCKETS, attention.heads])?;
    let table = Matrix { rows: BUCKETS, columns: attention.heads, values };
    let position_bias = Some(PositionBias::Buckets { table, max_distance: MAX_DISTANCE });
    let embedding_sizes = EmbeddingSizes { types: 0, ..config.embedding_sizes(numbering) };
    let embeddings = Embeddings::load(parts, &embedding_sizes)?;
    let layers = Layer::load_all(parts, "encoder.layer", config.num_hidden_layers, &LAYER, &sizes)?;
    let attention = LayerAttention::Same(parts.backend.attention(Attention { position_bias, ..attention })?);
    Ok(config.encoder(embeddings, layers, attention))
}

/// Those of `MPNetConfig` in `transformers`.
fn defaults() -> Value {
    parts::merged(bert::Config::defaults(), json!({"vocab_size": 30527}))
}
