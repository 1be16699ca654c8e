//! Language models used as encoders: what Qwen, Llama, Mistral and Gemma have in common, configured by a file each.
//!
//! All are [`PreNorm`] stacks with grouped heads, rotary positions and gated feed-forward layers, under the same names.
//! No key-value cache: a text is read once, and nothing of a batch survives it.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Bias, Parts, Shape, Up};
use super::pre_norm::{Layer, PreNorm};
use super::rope::Rope;
use super::{LoadError, Loaded};
use crate::model::spec;
use crate::nn::{Attention, Backend, FeedForward, HeadNorm, Mask, Matrix};

/// What the architectures call alike in `config.json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    /// As many as heads, where there is nothing else.
    pub(super) num_key_value_heads: Option<usize>,
    /// The heads share the hidden size, where there is nothing else.
    pub(super) head_dim: Option<usize>,
    pub(super) rms_norm_eps: f64,
    pub(super) sliding_window: Option<usize>,
    pub(super) layer_types: Option<Vec<LayerType>>,
    /// Not of every layer that has the key: see the files of the architectures.
    #[serde(default)]
    pub(super) attention_bias: bool,
    /// False lets tokens see what follows them; `transformers` honours it for all decoders.
    pub(super) is_causal: Option<bool>,
}

/// How far a layer's attention reaches, as `layer_types` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LayerType {
    /// All tokens.
    FullAttention,
    /// Those within `sliding_window`.
    SlidingAttention,
}

impl Config {
    /// Reads the keys, with the defaults of `transformers` for the architecture.
    pub(super) fn read(config: &Value, defaults: Value) -> Result<Self, LoadError> {
        // There, some architectures take it for false, and others do so only where a batch has padding.
        if config.get("is_causal").is_some_and(Value::is_null) {
            return Err(LoadError::unsupported("is_causal", &"null", "true or false"));
        }
        let optional = ["num_key_value_heads", "head_dim", "sliding_window", "layer_types", "is_causal"];
        let absent = Value::Object(optional.iter().map(|key| ((*key).to_owned(), Value::Null)).collect());
        parts::config(config, parts::merged(absent, defaults))
    }

    /// Width of one head.
    pub(super) fn head_size(&self) -> Result<usize, LoadError> {
        match self.head_dim {
            Some(size) => Ok(size),
            None => parts::head_size(self.hidden_size, self.num_attention_heads),
        }
    }

    /// The type of each layer: `layer_types`, or what its place says where there are none.
    pub(super) fn layer_types(&self, by_place: impl Fn(usize) -> LayerType) -> Result<Vec<LayerType>, LoadError> {
        match &self.layer_types {
            None => Ok((0..self.num_hidden_layers).map(by_place).collect()),
            Some(types) if types.len() == self.num_hidden_layers => Ok(types.clone()),
            Some(types) => {
                let count = format!("{} types", types.len());
                Err(LoadError::unsupported("layer_types", &count, "as many as num_hidden_layers"))
            }
        }
    }

    /// Which keys a layer's queries see.
    pub(super) fn mask(&self, layer: LayerType) -> Result<Mask, LoadError> {
        let causal = self.is_causal.unwrap_or(true);
        match (layer, self.sliding_window) {
            (LayerType::FullAttention, _) => Ok(if causal { Mask::CAUSAL } else { Mask::FULL }),
            (LayerType::SlidingAttention, Some(width)) if width > 0 => {
                // The library counts the width with the token itself in one case, and without in the other.
                Ok(if causal { Mask::causal_window(width) } else { Mask::window(width) })
            }
            (LayerType::SlidingAttention, width) => Err(no_window(width)),
        }
    }
}

/// Whether `is_causal` is read for an architecture, or does nothing there. `transformers` honours it for all others too,
/// whose layers here see both directions in any case.
pub(super) fn reads_causality(architecture: spec::Architecture) -> bool {
    use spec::Architecture::{DebertaV2, Gemma3, Llama, Mistral, Mpnet, Qwen2, Qwen3, Static};
    matches!(architecture, Qwen2 | Qwen3 | Llama | Mistral | Gemma3 | Mpnet | DebertaV2 | Static)
}

/// A layer is to have a window, but none is given.
pub(super) fn no_window(width: Option<usize>) -> LoadError {
    let width = width.map_or("null".to_owned(), |width| width.to_string());
    let supported = "numbers above 0, where a layer's type is sliding_attention";
    LoadError::unsupported("sliding_window", &width, supported)
}

/// What differs between architectures.
pub(super) struct Family {
    pub(super) query_key_value_bias: Bias,
    pub(super) attention_output_bias: Bias,
    pub(super) feed_forward_bias: Bias,
    /// The key of the activation, and its value.
    pub(super) activation: (&'static str, String),
    /// Norms over the heads of queries and keys.
    pub(super) head_norms: bool,
    /// Norms before and after each half of a layer, with weights that are stored without the 1 that they are added to.
    pub(super) gemma: bool,
    /// What the rows of the table of tokens are multiplied with.
    pub(super) embedding_scale: f32,
    /// What scores are multiplied with, if not the inverse square root of the head's size.
    pub(super) scale: Option<f64>,
    /// One for each layer.
    pub(super) layers: Vec<(Mask, Rope)>,
}

impl Family {
    /// Without the parts that only some have; biases of the attention as the configuration says.
    pub(super) fn new(config: &Config, activation: (&'static str, String), layers: Vec<(Mask, Rope)>) -> Self {
        let bias = Bias::of(config.attention_bias);
        Self {
            query_key_value_bias: bias,
            attention_output_bias: bias,
            feed_forward_bias: Bias::Absent,
            activation,
            head_norms: false,
            gemma: false,
            embedding_scale: 1.0,
            scale: None,
            layers,
        }
    }
}

/// Reads the weights.
pub(super) fn load<B: Backend>(config: &Config, family: &Family, parts: &Parts<'_, B>) -> Loaded<B> {
    let builder = Builder { parts, config, family };
    let hidden = config.hidden_size;
    let layers = family.layers.iter().enumerate();
    Ok(Arc::new(PreNorm::<B> {
        words: builder.words()?,
        layers: layers.map(|(index, (mask, rope))| builder.layer(index, *mask, rope)).collect::<Result<_, _>>()?,
        norm: builder.norm("norm")?,
        hidden_size: hidden,
    }))
}

struct Builder<'a, B> {
    parts: &'a Parts<'a, B>,
    config: &'a Config,
    family: &'a Family,
}

impl<B: Backend> Builder<'_, B> {
    fn words(&self) -> Result<B::Embedding, LoadError> {
        let (rows, columns) = (self.config.vocab_size, self.config.hidden_size);
        let mut values = self.parts.tensor(&["embed_tokens.weight"], &[rows, columns])?;
        values.iter_mut().for_each(|value| *value *= self.family.embedding_scale);
        Ok(self.parts.backend.embedding(Matrix { rows, columns, values })?)
    }

    fn layer(&self, index: usize, mask: Mask, rope: &Rope) -> Result<Layer<B>, LoadError> {
        let Self { parts, config, family } = self;
        let prefix = format!("layers.{index}");
        let name = |part: &str| format!("{prefix}.{part}");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let attention = self.attention(&name("self_attn"), mask, rope)?;
        let (queries, context) = (attention.input_width(), attention.output_width());
        let keys = (queries - context) / 2;
        let [query, key, value] = ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj")));
        let activation = parts::activation(family.activation.0, &family.activation.1)?;
        let up = Up::Apart { gate: "gate_proj", up: "up_proj" };
        let gemma_norm = |part: &str| family.gemma.then(|| self.norm(&name(part))).transpose();
        let before_feed_forward = if family.gemma { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        Ok(Layer {
            attention_norm: self.norm(&name("input_layernorm"))?,
            qkv: parts.stacked(
                &[(&query, context), (&key, keys), (&value, keys)],
                hidden,
                family.query_key_value_bias,
            )?,
            attention: parts.backend.attention(attention)?,
            attention_output: parts.linear(
                &name("self_attn.o_proj"),
                Shape { outputs: hidden, inputs: context, bias: family.attention_output_bias },
            )?,
            after_attention: gemma_norm("post_attention_layernorm")?,
            feed_forward_norm: self.norm(&name(before_feed_forward))?,
            feed_forward: FeedForward {
                inner: parts.inner(&name("mlp"), up, activation, (hidden, inner), family.feed_forward_bias)?,
                down: parts.linear(
                    &name("mlp.down_proj"),
                    Shape { outputs: hidden, inputs: inner, bias: family.feed_forward_bias },
                )?,
            },
            after_feed_forward: gemma_norm("post_feedforward_layernorm")?,
        })
    }

    fn attention(&self, name: &str, mask: Mask, rope: &Rope) -> Result<Attention, LoadError> {
        let Self { config, family, .. } = self;
        let (heads, head_size) = (config.num_attention_heads, config.head_size()?);
        let key_value_heads = config.num_key_value_heads.unwrap_or(heads);
        if heads == 0 || key_value_heads == 0 || !heads.is_multiple_of(key_value_heads) {
            let supported = "divisors of num_attention_heads";
            return Err(LoadError::unsupported("num_key_value_heads", &key_value_heads, supported));
        }
        let head_norm = |part: &str| self.norm_weight(&format!("{name}.{part}_norm"), head_size);
        let head_norm = if family.head_norms {
            #[expect(clippy::cast_possible_truncation, reason = "the reference computes with an f32 epsilon as well")]
            let epsilon = config.rms_norm_eps as f32;
            Some(HeadNorm { query: head_norm("q")?, key: head_norm("k")?, epsilon })
        } else {
            None
        };
        // Turned queries and keys are both multiplied with the factor; so their products are, with its square.
        let scale = family.scale.unwrap_or_else(|| (head_size as f64).sqrt().recip()) * rope.attention_factor.powi(2);
        #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
        let scale = scale as f32;
        let rotary = Some(rope.rotary.clone());
        Ok(Attention { key_value_heads, scale, mask, head_norm, rotary, ..Attention::new(heads, head_size) })
    }

    fn norm(&self, name: &str) -> Result<B::Norm, LoadError> {
        let weight = self.norm_weight(name, self.config.hidden_size)?;
        Ok(self.parts.backend.rms_norm(weight, self.config.rms_norm_eps)?)
    }

    fn norm_weight(&self, name: &str, width: usize) -> Result<Vec<f32>, LoadError> {
        let mut weight = self.parts.tensor(&[&format!("{name}.weight")], &[width])?;
        if self.family.gemma {
            weight.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(weight)
    }
}

/// Refuses to let tokens see what follows them by a key that `transformers` knows of other architectures alone.
pub(super) fn refuse_bidirectional_key(config: &Value) -> Result<(), LoadError> {
    parts::refuse_unless(config, "use_bidirectional_attention", &[json!(false)], "false; or is_causal false")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: Value) -> Result<Config, LoadError> {
        let sizes = json!({"vocab_size": 5, "hidden_size": 6, "intermediate_size": 7, "num_hidden_layers": 3,
            "num_attention_heads": 2, "rms_norm_eps": 1e-6});
        Config::read(&parts::merged(sizes, keys), json!({}))
    }

    #[track_caller]
    fn check_mask(keys: Value, full: Mask, sliding: Option<Mask>) {
        let config = config(keys).unwrap();
        assert_eq!(config.mask(LayerType::FullAttention).unwrap(), full);
        assert_eq!(config.mask(LayerType::SlidingAttention).ok(), sliding);
    }

    #[test]
    fn tokens_see_what_precedes_them_unless_the_configuration_says_otherwise() {
        check_mask(json!({}), Mask::CAUSAL, None);
        check_mask(json!({"is_causal": true, "sliding_window": 4}), Mask::CAUSAL, Some(Mask { before: 3, after: 0 }));
        check_mask(json!({"is_causal": false, "sliding_window": 4}), Mask::FULL, Some(Mask { before: 4, after: 4 }));
        check_mask(json!({"sliding_window": 0}), Mask::CAUSAL, None);
        let error = config(json!({"is_causal": null})).unwrap_err().to_string();
        assert!(error.contains("is_causal = null"), "{error}");
    }

    #[test]
    fn layers_are_typed_by_name_or_by_place() {
        let by_place = |layer| if layer == 2 { LayerType::SlidingAttention } else { LayerType::FullAttention };
        let types = |keys| config(keys).and_then(|config| config.layer_types(by_place));
        let [full, sliding] = [LayerType::FullAttention, LayerType::SlidingAttention];
        assert_eq!(types(json!({})).unwrap(), [full, full, sliding]);
        let named = json!({"layer_types": ["sliding_attention", "full_attention", "full_attention"]});
        assert_eq!(types(named).unwrap(), [sliding, full, full]);
        let error = types(json!({"layer_types": ["full_attention"]})).unwrap_err().to_string();
        assert!(error.contains("layer_types = 1 types"), "{error}");
        let error = types(json!({"layer_types": ["chunked_attention", "full_attention", "full_attention"]}))
            .unwrap_err()
            .to_string();
        assert!(error.contains("chunked_attention"), "{error}");
    }

    #[test]
    fn a_key_that_nobody_reads_is_refused() {
        assert!(refuse_bidirectional_key(&json!({"use_bidirectional_attention": false})).is_ok());
        let error = refuse_bidirectional_key(&json!({"use_bidirectional_attention": true})).unwrap_err().to_string();
        assert!(error.contains("use_bidirectional_attention = true"), "{error}");
    }
}
