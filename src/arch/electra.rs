//! ELECTRA: BERT whose embeddings may be narrower than its layers.
//!
//! Clark et al. 2020, <https://arxiv.org/abs/2003.10555>; checked against `transformers` (`ElectraModel`).

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Bias, Parts, Shape};
use super::post_norm::{BERT_LAYER, EmbeddingSizes, Embeddings, Layer, LayerAttention, Numbering, Projection};
use super::{LoadError, Loaded, bert};
use crate::nn::Backend;

#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(flatten)]
    bert: bert::Config,
    embedding_size: usize,
}

pub(super) fn load<B: Backend>(config: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let Config { bert: config, embedding_size } = parts::config(config, defaults())?;
    let sizes = config.layer_sizes()?;
    let embedding_sizes = EmbeddingSizes {
        width: embedding_size,
        norm_width: embedding_size,
        ..config.embedding_sizes(Numbering::FromZero)
    };
    let mut embeddings = Embeddings::load(parts, &embedding_sizes)?;
    if embedding_size != config.hidden_size {
        let shape = Shape { outputs: config.hidden_size, inputs: embedding_size, bias: Bias::Present };
        embeddings.projection = Projection::AfterNorm(parts.linear("embeddings_project", shape)?);
    }
    let layers = Layer::load_all(parts, "encoder.layer", config.num_hidden_layers, &BERT_LAYER, &sizes)?;
    let attention = LayerAttention::Same(parts.backend.attention(config.attention()?)?);
    Ok(config.encoder(embeddings, layers, attention))
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
