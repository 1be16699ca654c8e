//! ELECTRA: BERT whose embeddings may be narrower than its layers.
//!
//! Clark et al. 2020, <https://arxiv.org/abs/2003.10555>; checked against `transformers` (`ElectraModel`).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Bias, Parts, Shape};
use super::post_norm::{
    BERT_LAYER, EmbeddingSizes, Embeddings, Layer, LayerAttention, Numbering, PostNorm, Projection,
};
use super::{Architecture, LoadError, bert};
use crate::model::weights::Weights;
use crate::nn::Backend;

/// What of `config.json` decides about the result.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(flatten)]
    bert: bert::Config,
    embedding_size: usize,
}

/// Reads configuration and weights.
pub(super) fn load<B: Backend>(
    config: &Value,
    weights: &Weights,
    backend: &B,
) -> Result<Arc<dyn Architecture<B>>, LoadError> {
    let Config { bert: config, embedding_size } = parts::config(config, defaults())?;
    let parts = Parts { weights, backend };
    let sizes = config.layer_sizes()?;
    let layer = |index| Layer::load(&parts, &format!("encoder.layer.{index}"), &BERT_LAYER, &sizes).map(Arc::new);
    let embedding_sizes = EmbeddingSizes {
        width: embedding_size,
        norm_width: embedding_size,
        ..config.embedding_sizes(Numbering::FromZero)
    };
    let mut embeddings = Embeddings::load(&parts, &embedding_sizes)?;
    if embedding_size != config.hidden_size {
        let shape = Shape { outputs: config.hidden_size, inputs: embedding_size, bias: Bias::Present };
        embeddings.projection = Projection::AfterNorm(parts.linear("embeddings_project", shape)?);
    }
    Ok(Arc::new(PostNorm {
        embeddings,
        layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
        attention: LayerAttention::Same(backend.attention(config.attention()?)?),
        hidden_size: config.hidden_size,
        max_positions: config.max_position_embeddings,
    }))
}

/// Width of the tables, and of the head of its masked language model.
pub(super) fn embedding_size(config: &Value) -> Result<usize, LoadError> {
    let config: Config = parts::config(config, defaults())?;
    Ok(config.embedding_size)
}

/// Those of `ElectraConfig` in `transformers`.
pub(super) fn defaults() -> Value {
    let own = json!({
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    });
    parts::merged(bert::Config::defaults(), own)
}
