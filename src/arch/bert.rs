//! BERT: absolute positions, post-norm layers, full attention.
//!
//! Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>; checked against `transformers` (`BertModel`). The pooler
//! and any head of the checkpoint are not used: pooling belongs to the encoder. BERT's relatives read most of their
//! configuration as it is read here.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Parts};
use super::post_norm::{
    BERT_LAYER, Biases, EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerSizes, Numbering, PostNorm,
};
use super::{Architecture, LoadError, Loaded};
use crate::nn::{Activation, Attention, Backend};

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) hidden_act: String,
    pub(super) max_position_embeddings: usize,
    pub(super) type_vocab_size: usize,
    pub(super) layer_norm_eps: f64,
}

pub(super) fn load<B: Backend>(config: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let config: Config = parts::config(config, Config::defaults())?;
    let sizes = config.layer_sizes()?;
    let embeddings = Embeddings::load(parts, &config.embedding_sizes(Numbering::FromZero))?;
    let layers = Layer::load_all(parts, "encoder.layer", config.num_hidden_layers, &BERT_LAYER, &sizes)?;
    let attention = LayerAttention::Same(parts.backend.attention(config.attention()?)?);
    Ok(config.encoder(embeddings, layers, attention))
}

impl Config {
    /// Those of `BertConfig` in `transformers`.
    pub(super) fn defaults() -> Value {
        json!({
            "vocab_size": 30522,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "hidden_act": "gelu",
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
        })
    }

    /// The encoder of these parts, for as many positions as its embeddings have.
    pub(super) fn encoder<B: Backend>(
        &self,
        embeddings: Embeddings<B>,
        layers: Vec<Arc<Layer<B>>>,
        attention: LayerAttention<B>,
    ) -> Arc<dyn Architecture<B>> {
        let unused = embeddings.positions.as_ref().map_or(0, |(_, numbering)| numbering.offset());
        let max_positions = self.max_position_embeddings.saturating_sub(unused);
        Arc::new(PostNorm { embeddings, layers, attention, hidden_size: self.hidden_size, max_positions })
    }

    /// What `hidden_act` names.
    pub(super) fn activation(&self) -> Result<Activation, LoadError> {
        parts::activation("hidden_act", &self.hidden_act)
    }

    pub(super) fn layer_sizes(&self) -> Result<LayerSizes, LoadError> {
        Ok(LayerSizes {
            hidden: self.hidden_size,
            attention: self.hidden_size,
            inner: self.intermediate_size,
            activation: self.activation()?,
            epsilon: self.layer_norm_eps,
            biases: Biases::ALL,
        })
    }

    pub(super) fn embedding_sizes(&self, numbering: Numbering) -> EmbeddingSizes {
        EmbeddingSizes {
            vocabulary: self.vocab_size,
            types: self.type_vocab_size,
            positions: Some((self.max_position_embeddings, numbering)),
            width: self.hidden_size,
            norm_width: self.hidden_size,
            norm: "embeddings.LayerNorm",
            epsilon: self.layer_norm_eps,
        }
    }

    pub(super) fn attention(&self) -> Result<Attention, LoadError> {
        let heads = self.num_attention_heads;
        Ok(Attention::new(heads, parts::head_size(self.hidden_size, heads)?))
    }
}
