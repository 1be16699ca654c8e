//! `ModernBERT`: rotary positions, local attention in most layers, gated feed-forward layers, norms before and not after.
//!
//! Warner et al. 2024, <https://arxiv.org/abs/2412.13663>; checked against `transformers` (`ModernBertModel`).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::parts::{self, Bias, Parts, Shape, Up};
use super::rope::{self, Rope};
use super::{Architecture, LoadError, Loaded};
use crate::domain::PackedBatch;
use crate::nn::{Attention, Backend, Branch, Epilogue, FeedForward, Mask, NnError};

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
    /// One side of it, where it is given.
    sliding_window: Option<usize>,
}

/// What decides about the head of its masked language model.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) classifier_activation: String,
    pub(super) classifier_bias: bool,
    pub(super) decoder_bias: bool,
    pub(super) norm_bias: bool,
    pub(super) norm_eps: f64,
}

impl Head {
    /// Those of `ModernBertConfig` in `transformers`.
    pub(super) fn defaults() -> Value {
        let own = json!({"classifier_activation": "gelu", "classifier_bias": false, "decoder_bias": true});
        parts::merged(defaults(), own)
    }
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

pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let config: Config = parts::config(raw, defaults())?;
    let (hidden, inner, heads) = (config.hidden_size, config.intermediate_size, config.num_attention_heads);
    let activation = parts::activation("hidden_activation", &config.hidden_activation)?;
    let head_size = parts::head_size(hidden, heads)?;
    let (attention_bias, mlp_bias) = (Bias::of(config.attention_bias), Bias::of(config.mlp_bias));
    let norm = |name: &str| parts.norm(name, hidden, config.norm_eps, Bias::of(config.norm_bias));
    let layer = |(index, reach)| {
        let prefix = format!("layers.{index}");
        let name = |part: &str| format!("{prefix}.{part}");
        let qkv = Shape { outputs: 3 * hidden, inputs: hidden, bias: attention_bias };
        Ok(Layer {
            reach,
            attention_norm: (index > 0).then(|| norm(&name("attn_norm"))).transpose()?,
            query_key_value: parts.linear(&name("attn.Wqkv"), qkv)?,
            attention_output: parts.linear(&name("attn.Wo"), Shape { outputs: hidden, ..qkv })?,
            feed_forward_norm: norm(&name("mlp_norm"))?,
            feed_forward: FeedForward {
                inner: parts.inner(&prefix, Up::GateFirst("mlp.Wi"), activation, (hidden, inner), mlp_bias)?,
                down: parts.linear(&name("mlp.Wo"), Shape { outputs: hidden, inputs: inner, bias: mlp_bias })?,
            },
        })
    };
    rope::refuse_old_kind(raw)?;
    let [global, local] = ropes(raw, head_size)?.map(|rope| rope.turning(Attention::new(heads, head_size)));
    let local = Attention { mask: Mask::window(config.sliding_window.unwrap_or(config.local_attention / 2)), ..local };
    Ok(Arc::new(ModernBert {
        words: parts.embedding("embeddings.tok_embeddings", config.vocab_size, hidden)?,
        norm: norm("embeddings.norm")?,
        layers: reaches(&config)?.into_iter().enumerate().map(layer).collect::<Result<_, LoadError>>()?,
        global: parts.backend.attention(global)?,
        local: parts.backend.attention(local)?,
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
    let unsupported = |value: &str, supported| LoadError::unsupported("layer_types", &value, supported);
    if types.len() != config.num_hidden_layers {
        return Err(unsupported(&format!("{} names", types.len()), "as many as num_hidden_layers"));
    }
    let reach = |name: &String| match name.as_str() {
        "full_attention" => Ok(Reach::Global),
        "sliding_attention" => Ok(Reach::Local),
        other => Err(unsupported(other, "full_attention, sliding_attention")),
    };
    types.iter().map(reach).collect()
}

/// The rotary positions of global and of local layers.
fn ropes(raw: &Value, head_size: usize) -> Result<[Rope; 2], LoadError> {
    let old = |key: &str| raw.get(key).filter(|theta| !theta.is_null()).cloned();
    let global = old("global_rope_theta").unwrap_or_else(|| json!(160_000.0));
    let local = match raw.get("local_rope_theta") {
        // In older files: one base for all.
        Some(Value::Null) => global.clone(),
        _ => old("local_rope_theta").unwrap_or_else(|| json!(10_000.0)),
    };
    let object = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    let of = |name: &str, theta| {
        let mut parameters: Map<String, Value> = object(raw.get("rope_parameters").and_then(|all| all.get(name)));
        parameters.extend(object(raw.get("rope_scaling")));
        parameters.entry("rope_theta").or_insert(theta);
        rope::from_parameters(&parameters, raw, head_size)
    };
    Ok([of("full_attention", global)?, of("sliding_attention", local)?])
}

impl<B: Backend> Architecture<B> for ModernBert<B> {
    fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError> {
        let mut hidden = backend.apply_norm(&self.norm, &backend.embed(&[(&self.words, batch.ids())])?)?;
        // What goes into the first layer comes from a norm already, and is its own residual.
        let mut normed = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let attention = match layer.reach {
                Reach::Global => &self.global,
                Reach::Local => &self.local,
            };
            let input = normed.as_ref().unwrap_or(&hidden);
            let qkv = backend.apply_linear(&layer.query_key_value, input, Epilogue::Bias)?;
            let context = backend.apply_attention(attention, &qkv, batch)?;
            let output = Branch::Linear(&layer.attention_output);
            let (attended, input) = backend.add_branch_and_norm(output, &context, &hidden, &layer.feed_forward_norm)?;
            let next = self.layers.get(index + 1).and_then(|layer| layer.attention_norm.as_ref());
            let output = Branch::FeedForward(&layer.feed_forward);
            let (sum, next_input) =
                backend.add_branch_and_norm(output, &input, &attended, next.unwrap_or(&self.final_norm))?;
            hidden = sum;
            normed = Some(next_input);
        }
        match normed {
            Some(normed) => Ok(normed),
            None => backend.apply_norm(&self.final_norm, &hidden),
        }
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
        "sliding_window": null,
    })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    fn slowest(raw: &Value) -> [f32; 2] {
        ropes(raw, 4).unwrap().map(|rope| rope.rotary.inverse_frequencies[1])
    }

    #[test]
    fn bases_of_global_and_local_layers_are_found_in_either_style() {
        assert_eq!(slowest(&json!({})), [1.0 / 400.0, 1.0 / 100.0]);
        assert_eq!(slowest(&json!({"global_rope_theta": 400.0, "local_rope_theta": 100})), [1.0 / 20.0, 1.0 / 10.0]);
        assert_eq!(slowest(&json!({"global_rope_theta": 400.0, "local_rope_theta": null})), [1.0 / 20.0; 2]);
        let parameters = json!({"full_attention": {"rope_theta": 400.0}, "sliding_attention": {"rope_theta": 100.0}});
        assert_eq!(slowest(&json!({"rope_parameters": parameters})), [1.0 / 20.0, 1.0 / 10.0]);
    }

    #[test]
    fn local_layers_are_named_or_all_but_every_third() {
        let reaches = |own: Value| reaches(&parts::config(&own, defaults()).unwrap());
        let (global, local) = (Reach::Global, Reach::Local);
        assert_eq!(reaches(json!({"num_hidden_layers": 4})).unwrap(), [global, local, local, global]);
        let every = json!({"num_hidden_layers": 3, "global_attn_every_n_layers": 2});
        assert_eq!(reaches(every).unwrap(), [global, local, global]);
        let named = |types: Value| reaches(json!({"num_hidden_layers": 2, "layer_types": types}));
        assert_eq!(named(json!(["sliding_attention", "full_attention"])).unwrap(), [local, global]);
        assert!(named(json!(["full_attention"])).is_err());
        let error = named(json!(["full_attention", "chunked_attention"])).unwrap_err().to_string();
        assert!(error.contains("layer_types = chunked_attention"), "{error}");
    }
}
