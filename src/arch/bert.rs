//! BERT: absolute positions, post-norm layers, full attention.
//!
//! Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>; checked against `transformers` (`BertModel`). The pooler
//! and any head of the checkpoint are not used: pooling belongs to the encoder.

use std::sync::Arc;

use serde::Deserialize;

use super::parts::{self, Bias, Parts, Shape};
use super::{Architecture, LoadError};
use crate::domain::PackedBatch;
use crate::model::weights::Weights;
use crate::nn::{Attention, Backend, Epilogue, FeedForward, NnError};

/// What of `config.json` decides about the result.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
}

/// A BERT encoder.
pub(super) struct Bert<B: Backend> {
    words: B::Embedding,
    positions: B::Embedding,
    types: B::Embedding,
    norm: B::Norm,
    layers: Vec<Layer<B>>,
    attention: B::Attention,
    hidden_size: usize,
    max_positions: usize,
}

struct Layer<B: Backend> {
    /// Query, key and value in one.
    qkv: B::Linear,
    attention_output: B::Linear,
    attention_norm: B::Norm,
    feed_forward: FeedForward<B::Linear>,
    output_norm: B::Norm,
}

impl<B: Backend> Bert<B> {
    /// Reads configuration and weights.
    pub(super) fn load(
        config: &serde_json::Value,
        weights: &Weights,
        backend: &B,
    ) -> Result<Arc<dyn Architecture<B>>, LoadError> {
        let config = Config::deserialize(config).map_err(LoadError::Config)?;
        let activation = parts::activation("hidden_act", &config.hidden_act)?;
        let (hidden, heads, epsilon) = (config.hidden_size, config.num_attention_heads, config.layer_norm_eps);
        let head_size = parts::head_size(hidden, heads)?;
        let parts = Parts { weights, backend };
        let layer = |index| {
            let name = |part: &str| format!("encoder.layer.{index}.{part}");
            let [query, key, value] = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
            let output = Shape { outputs: hidden, inputs: hidden, bias: Bias::Present };
            Ok(Layer {
                qkv: parts.stacked(&[(&query, hidden), (&key, hidden), (&value, hidden)], hidden, Bias::Present)?,
                attention_output: parts.linear(&name("attention.output.dense"), output)?,
                attention_norm: parts.layer_norm(&name("attention.output.LayerNorm"), hidden, epsilon)?,
                feed_forward: parts.feed_forward(
                    [&name("intermediate.dense"), &name("output.dense")],
                    (hidden, config.intermediate_size),
                    activation,
                    Bias::Present,
                )?,
                output_norm: parts.layer_norm(&name("output.LayerNorm"), hidden, epsilon)?,
            })
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_, LoadError>>()?;
        let table = |part: &str, rows| parts.embedding(&format!("embeddings.{part}_embeddings"), rows, hidden);
        Ok(Arc::new(Self {
            words: table("word", config.vocab_size)?,
            positions: table("position", config.max_position_embeddings)?,
            types: table("token_type", config.type_vocab_size)?,
            norm: parts.layer_norm("embeddings.LayerNorm", hidden, epsilon)?,
            layers,
            attention: backend.attention(Attention::new(heads, head_size))?,
            hidden_size: hidden,
            max_positions: config.max_position_embeddings,
        }))
    }
}

impl<B: Backend> Architecture<B> for Bert<B> {
    fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError> {
        let types = vec![0; batch.tokens()];
        let embedded = backend.embed(&[
            (&self.words, batch.ids()),
            (&self.types, &types),
            (&self.positions, &batch.positions()),
        ])?;
        let mut hidden = backend.apply_norm(&self.norm, &embedded)?;
        for layer in &self.layers {
            let qkv = backend.apply_linear(&layer.qkv, &hidden, Epilogue::Bias)?;
            let context = backend.apply_attention(&self.attention, &qkv, batch)?;
            let attended = backend.apply_linear(&layer.attention_output, &context, Epilogue::Residual(&hidden))?;
            let attended = backend.apply_norm(&layer.attention_norm, &attended)?;
            let output = backend.apply_feed_forward(&layer.feed_forward, &attended, Epilogue::Residual(&attended))?;
            hidden = backend.apply_norm(&layer.output_norm, &output)?;
        }
        Ok(hidden)
    }

    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn positions(&self) -> usize {
        self.max_positions
    }
}
