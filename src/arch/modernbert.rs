//! `ModernBERT`: rotary positions, local attention in most layers, gated feed-forward layers, norms before and not after.
//!
//! Warner et al. 2024, <https://arxiv.org/abs/2412.13663>; checked against `transformers` (`ModernBertModel`).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Bias, Parts, Shape, Up};
use super::{Architecture, LoadError, rotary};
use crate::domain::PackedBatch;
use crate::model::weights::Weights;
use crate::nn::{Attention, Backend, Epilogue, FeedForward, Mask, NnError, Rotary};

/// What of `config.json` decides about the result.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_activation: String,
    max_position_embeddings: usize,
    norm_eps: f64,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    /// Which layers are local, by name.
    layer_types: Option<Vec<String>>,
    /// The same in older files: every so many layers, one is global.
    global_attn_every_n_layers: usize,
    /// Both sides of a local window together.
    local_attention: usize,
}

/// A `ModernBERT` encoder.
struct ModernBert<B: Backend> {
    words: B::Embedding,
    norm: B::Norm,
    layers: Vec<Layer<B>>,
    global: B::Attention,
    local: B::Attention,
    final_norm: B::Norm,
    hidden_size: usize,
    max_positions: usize,
}

struct Layer<B: Backend> {
    reach: Reach,
    /// The first layer has none: its input comes from a norm.
    attention_norm: Option<B::Norm>,
    query_key_value: B::Linear,
    attention_output: B::Linear,
    feed_forward_norm: B::Norm,
    feed_forward: FeedForward<B::Linear>,
}

/// How far a layer's attention reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Global,
    Local,
}

/// Reads configuration and weights.
pub(super) fn load<B: Backend>(
    raw: &Value,
    weights: &Weights,
    backend: &B,
) -> Result<Arc<dyn Architecture<B>>, LoadError> {
    let config: Config = parts::config(raw, defaults())?;
    let (hidden, inner, heads) = (config.hidden_size, config.intermediate_size, config.num_attention_heads);
    let activation = parts::activation("hidden_activation", &config.hidden_activation)?;
    let head_size = parts::head_size(hidden, heads)?;
    let parts = Parts { weights, backend };
    let bias = |has_bias| if has_bias { Bias::Present } else { Bias::Absent };
    let (attention_bias, mlp_bias) = (bias(config.attention_bias), bias(config.mlp_bias));
    let norm = |name: &str| parts.norm(name, hidden, config.norm_eps, bias(config.norm_bias));
    let layer = |(index, reach)| {
        let prefix = format!("layers.{index}");
        let name = |part: &str| format!("{prefix}.{part}");
        let up = Up::GateFirst("mlp.Wi");
        let qkv = Shape { outputs: 3 * hidden, inputs: hidden, bias: attention_bias };
        Ok(Layer {
            reach,
            attention_norm: (index > 0).then(|| norm(&name("attn_norm"))).transpose()?,
            query_key_value: parts.linear(&name("attn.Wqkv"), qkv)?,
            attention_output: parts.linear(&name("attn.Wo"), Shape { outputs: hidden, ..qkv })?,
            feed_forward_norm: norm(&name("mlp_norm"))?,
            feed_forward: FeedForward {
                up: parts.up(&prefix, up, (hidden, inner), mlp_bias)?,
                middle: up.middle(activation),
                down: parts
                    .linear(&name("mlp.Wo"), Shape { outputs: hidden, inputs: inner, bias: mlp_bias })?,
            },
        })
    };
    let [global_rotary, local_rotary] = rotaries(raw, head_size)?;
    let global = Attention { rotary: Some(global_rotary), ..Attention::new(heads, head_size) };
    let mask = Mask::window(config.local_attention / 2);
    let local = Attention { rotary: Some(local_rotary), mask, ..Attention::new(heads, head_size) };
    Ok(Arc::new(ModernBert {
        words: parts.embedding("embeddings.tok_embeddings", config.vocab_size, hidden)?,
        norm: norm("embeddings.norm")?,
        layers: reaches(&config)?.into_iter().enumerate().map(layer).collect::<Result<_, LoadError>>()?,
        global: backend.attention(global)?,
        local: backend.attention(local)?,
        final_norm: norm("final_norm")?,
        hidden_size: hidden,
        max_positions: config.max_position_embeddings,
    }))
}

/// One for each layer.
fn reaches(config: &Config) -> Result<Vec<Reach>, LoadError> {
    let every = config.global_attn_every_n_layers.max(1);
    let Some(types) = &config.layer_types else {
        let reach = |layer: usize| if layer.is_multiple_of(every) { Reach::Global } else { Reach::Local };
        return Ok((0..config.num_hidden_layers).map(reach).collect());
    };
    let unsupported = |value: String, supported| LoadError::Unsupported { key: "layer_types", value, supported };
    if types.len() != config.num_hidden_layers {
        return Err(unsupported(format!("{} names", types.len()), "as many as num_hidden_layers"));
    }
    let reach = |name: &String| match name.as_str() {
        "full_attention" => Ok(Reach::Global),
        "sliding_attention" => Ok(Reach::Local),
        other => Err(unsupported(other.to_owned(), "full_attention, sliding_attention")),
    };
    types.iter().map(reach).collect()
}

/// Those of global and of local layers.
fn rotaries(raw: &Value, head_size: usize) -> Result<[Rotary; 2], LoadError> {
    // An explicit null of older files means that there is one base for all.
    let old = |key: &str| raw.get(key).and_then(Value::as_f64);
    let global = old("global_rope_theta").unwrap_or(160_000.0);
    let local = match raw.get("local_rope_theta") {
        Some(Value::Null) => global,
        _ => old("local_rope_theta").unwrap_or(10_000.0),
    };
    let scaling = raw.get("rope_scaling").cloned().unwrap_or(Value::Null);
    let of = |name: &str, theta| {
        let own = raw.get("rope_parameters").and_then(|all| all.get(name)).cloned().unwrap_or(Value::Null);
        rotary::read(&json!({"rope_parameters": own, "rope_scaling": scaling}), head_size, theta)
    };
    Ok([of("full_attention", global)?, of("sliding_attention", local)?])
}

impl<B: Backend> Architecture<B> for ModernBert<B> {
    fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError> {
        let mut hidden = backend.apply_norm(&self.norm, &backend.embed(&[(&self.words, batch.ids())])?)?;
        for layer in &self.layers {
            let attention = match layer.reach {
                Reach::Global => &self.global,
                Reach::Local => &self.local,
            };
            let qkv = match &layer.attention_norm {
                Some(norm) => {
                    let input = backend.apply_norm(norm, &hidden)?;
                    backend.apply_linear(&layer.query_key_value, &input, Epilogue::Bias)?
                }
                None => backend.apply_linear(&layer.query_key_value, &hidden, Epilogue::Bias)?,
            };
            let context = backend.apply_attention(attention, &qkv, batch)?;
            let attended = backend.apply_linear(&layer.attention_output, &context, Epilogue::Residual(&hidden))?;
            let input = backend.apply_norm(&layer.feed_forward_norm, &attended)?;
            hidden = backend.apply_feed_forward(&layer.feed_forward, &input, Epilogue::Residual(&attended))?;
        }
        backend.apply_norm(&self.final_norm, &hidden)
    }

    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn positions(&self) -> usize {
        self.max_positions
    }
}

/// Those of `ModernBertConfig` in `transformers`.
fn defaults() -> Value {
    json!({
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "hidden_activation": "gelu",
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "norm_bias": false,
        "attention_bias": false,
        "mlp_bias": false,
        "layer_types": null,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
    })
}
