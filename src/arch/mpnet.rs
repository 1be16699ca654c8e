//! `MPNet`: BERT whose attention also has a learned bias for each range of distances.
//!
//! Song et al. 2020, <https://arxiv.org/abs/2004.09297>; checked against `transformers` (`MPNetModel`). Positions are
//! numbered as in `RoBERTa`, after a padding token whose id is not read from the configuration.

use std::sync::Arc;

use serde_json::{Value, json};

use super::parts::{self, Parts, Up};
use super::post_norm::{
    EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, Numbering, PostNorm, QueryKeyValue,
};
use super::{Architecture, LoadError, bert};
use crate::model::weights::Weights;
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
    up: Up::Plain("intermediate.dense"),
    down: "output.dense",
    output_norm: "output.LayerNorm",
};

/// Reads configuration and weights.
pub(super) fn load<B: Backend>(
    config: &Value,
    weights: &Weights,
    backend: &B,
) -> Result<Arc<dyn Architecture<B>>, LoadError> {
    parts::refuse_unless(config, "relative_attention_num_buckets", &[json!(BUCKETS)], "32")?;
    let config: bert::Config = parts::config(config, defaults())?;
    let parts = Parts { weights, backend };
    let (sizes, numbering) = (config.layer_sizes()?, Numbering::AfterPadding(PADDING));
    let layer = |index| Layer::load(&parts, &format!("encoder.layer.{index}"), &LAYER, &sizes).map(Arc::new);
    let attention = config.attention()?;
    let values = parts.tensor(&["encoder.relative_attention_bias.weight"], &[BUCKETS, attention.heads])?;
    let table = Matrix { rows: BUCKETS, columns: attention.heads, values };
    let position_bias = Some(PositionBias::Buckets { table, max_distance: MAX_DISTANCE });
    let embedding_sizes = EmbeddingSizes { types: 0, ..config.embedding_sizes(numbering) };
    Ok(Arc::new(PostNorm {
        embeddings: Embeddings::load(&parts, &embedding_sizes)?,
        layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
        attention: LayerAttention::Same(backend.attention(Attention { position_bias, ..attention })?),
        hidden_size: config.hidden_size,
        max_positions: config.max_position_embeddings.saturating_sub(numbering.offset()),
    }))
}

/// Those of `MPNetConfig` in `transformers`.
fn defaults() -> Value {
    parts::merged(bert::Config::defaults(), json!({"vocab_size": 30527}))
}
