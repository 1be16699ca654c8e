//! BERT: absolute positions, post-norm layers, full attention.
//!
//! Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>; checked against `transformers` (`BertModel`). The pooler
//! and any head of the checkpoint are not used: pooling belongs to the encoder.

use std::sync::Arc;

use serde::Deserialize;

use super::{Architecture, LoadError, tensor};
use crate::domain::PackedBatch;
use crate::model::weights::Weights;
use crate::nn::{Activation, Attention, Backend, Epilogue, FeedForward, Matrix, Middle, NnError};

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
        let activation = Activation::from_name(&config.hidden_act).ok_or_else(|| LoadError::Unsupported {
            key: "hidden_act",
            value: config.hidden_act.clone(),
            supported: "gelu, gelu_new, gelu_pytorch_tanh, relu, silu, swish",
        })?;
        if config.num_attention_heads == 0 || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return Err(LoadError::Unsupported {
                key: "num_attention_heads",
                value: config.num_attention_heads.to_string(),
                supported: "divisors of hidden_size",
            });
        }
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let load = Load { weights, backend, epsilon: config.layer_norm_eps };
        let layers = (0..config.num_hidden_layers)
            .map(|index| {
                let name = |part: &str| format!("encoder.layer.{index}.{part}");
                let inner = config.intermediate_size;
                Ok(Layer {
                    qkv: load.stacked(
                        &["query", "key", "value"].map(|part| name(&format!("attention.self.{part}"))),
                        hidden,
                        hidden,
                    )?,
                    attention_output: load.linear(&name("attention.output.dense"), hidden, hidden)?,
                    attention_norm: load.norm(&name("attention.output.LayerNorm"), hidden)?,
                    feed_forward: FeedForward {
                        up: load.linear(&name("intermediate.dense"), inner, hidden)?,
                        middle: Middle::Activation(activation),
                        down: load.linear(&name("output.dense"), hidden, inner)?,
                    },
                    output_norm: load.norm(&name("output.LayerNorm"), hidden)?,
                })
            })
            .collect::<Result<_, LoadError>>()?;
        let table = |part: &str, rows| load.embedding(&format!("embeddings.{part}_embeddings"), rows, hidden);
        Ok(Arc::new(Self {
            words: table("word", config.vocab_size)?,
            positions: table("position", config.max_position_embeddings)?,
            types: table("token_type", config.type_vocab_size)?,
            norm: load.norm("embeddings.LayerNorm", hidden)?,
            layers,
            attention: backend.attention(Attention::new(heads, hidden / heads))?,
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

/// Reads layers by name. A layer norm may carry the old names `gamma` and `beta`.
struct Load<'a, B> {
    weights: &'a Weights,
    backend: &'a B,
    epsilon: f64,
}

impl<B: Backend> Load<'_, B> {
    fn embedding(&self, name: &str, rows: usize, columns: usize) -> Result<B::Embedding, LoadError> {
        let values = tensor(self.weights, &[&format!("{name}.weight")], &[rows, columns])?;
        Ok(self.backend.embedding(Matrix { rows, columns, values })?)
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<B::Linear, LoadError> {
        self.stacked(&[name.to_owned()], outputs, inputs)
    }

    /// Layers with the same input as one; `outputs` is the width of each.
    fn stacked(&self, names: &[String], outputs: usize, inputs: usize) -> Result<B::Linear, LoadError> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for name in names {
            let values = tensor(self.weights, &[&format!("{name}.weight")], &[outputs, inputs])?;
            weights.push(Matrix { rows: outputs, columns: inputs, values });
            biases.extend(tensor(self.weights, &[&format!("{name}.bias")], &[outputs])?);
        }
        Ok(self.backend.linear(Matrix::stack(weights), Some(biases))?)
    }

    fn norm(&self, name: &str, width: usize) -> Result<B::Norm, LoadError> {
        let weight = tensor(self.weights, &[&format!("{name}.weight"), &format!("{name}.gamma")], &[width])?;
        let bias = tensor(self.weights, &[&format!("{name}.bias"), &format!("{name}.beta")], &[width])?;
        Ok(self.backend.layer_norm(weight, Some(bias), self.epsilon)?)
    }
}
