//! `RoBERTa`, XLM-R and `CamemBERT`: BERT whose positions begin after the padding token's id.
//!
//! Liu et al. 2019, <https://arxiv.org/abs/1907.11692>; Conneau et al. 2019, <https://arxiv.org/abs/1911.02116>. Checked
//! against `transformers` (`RobertaModel`, `XLMRobertaModel`).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Parts};
use super::post_norm::{BERT_LAYER, Embeddings, Layer, LayerAttention, Numbering, PostNorm};
use super::{Architecture, LoadError, bert};
use crate::model::weights::Weights;
use crate::nn::Backend;

/// What of `config.json` decides about the result.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(flatten)]
    bert: bert::Config,
    pad_token_id: u32,
}

/// Reads configuration and weights.
pub(super) fn load<B: Backend>(
    config: &Value,
    weights: &Weights,
    backend: &B,
) -> Result<Arc<dyn Architecture<B>>, LoadError> {
    let Config { bert: config, pad_token_id } = parts::config(config, defaults())?;
    let parts = Parts { weights, backend };
    let (sizes, numbering) = (config.layer_sizes()?, Numbering::AfterPadding(pad_token_id));
    let layer = |index| Layer::load(&parts, &format!("encoder.layer.{index}"), &BERT_LAYER, &sizes).map(Arc::new);
    Ok(Arc::new(PostNorm {
        embeddings: Embeddings::load(&parts, &config.embedding_sizes(numbering))?,
        layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
        attention: LayerAttention::Same(backend.attention(config.attention()?)?),
        hidden_size: config.hidden_size,
        max_positions: config.max_position_embeddings.saturating_sub(numbering.offset()),
    }))
}

/// Those of `RobertaConfig` in `transformers`; `XLMRobertaConfig` and `CamembertConfig` have the same, but for a
/// vocabulary whose size the tensor's shape would contradict.
fn defaults() -> Value {
    parts::merged(bert::Config::defaults(), json!({"vocab_size": 50265, "pad_token_id": 1}))
}
