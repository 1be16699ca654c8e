//! `RoBERTa`, XLM-R and `CamemBERT`: BERT whose positions begin after the padding token's id.
//!
//! Liu et al. 2019, <https://arxiv.org/abs/1907.11692>; Conneau et al. 2019, <https://arxiv.org/abs/1911.02116>. Checked
//! against `transformers` (`RobertaModel`, `XLMRobertaModel`).

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Parts};
use super::post_norm::{BERT_LAYER, Embeddings, Layer, LayerAttention, Numbering};
use super::{Loaded, bert};
use crate::nn::Backend;

#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(flatten)]
    bert: bert::Config,
    pad_token_id: u32,
}

pub(super) fn load<B: Backend>(config: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let Config { bert: config, pad_token_id } = parts::config(config, defaults())?;
    let (sizes, numbering) = (config.layer_sizes()?, Numbering::AfterPadding(pad_token_id));
    let embeddings = Embeddings::load(parts, &config.embedding_sizes(numbering))?;
    let layers = Layer::load_all(parts, "encoder.layer", config.num_hidden_layers, &BERT_LAYER, &sizes)?;
    let attention = LayerAttention::Same(parts.backend.attention(config.attention()?)?);
    Ok(config.encoder(embeddings, layers, attention))
}

/// Those of `RobertaConfig` in `transformers`; `XLMRobertaConfig` and `CamembertConfig` have the same, but for a
/// vocabulary whose size the tensor's shape would contradict.
fn defaults() -> Value {
    parts::merged(bert::Config::defaults(), json!({"vocab_size": 50265, "pad_token_id": 1}))
}
