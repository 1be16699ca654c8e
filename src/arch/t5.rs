//! The encoder half of T5: relative position biases, scores that are not scaled.
//!
//! Raffel et al. 2020, <https://arxiv.org/abs/1910.10683>; checked against `transformers` (`T5EncoderModel`).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Bias, Parts, Shape, Up};
use super::pre_norm::{Layer, PreNorm};
use super::{LoadError, Loaded};
use crate::nn::{Activation, Attention, Backend, FeedForward, Matrix, PositionBias};

#[derive(Debug, Clone, Deserialize)]
struct Config {
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_heads: usize,
    relative_attention_num_buckets: usize,
    relative_attention_max_distance: usize,
    layer_norm_epsilon: f64,
    feed_forward_proj: String,
}

pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let config: Config = parts::config(raw, defaults())?;
    let (up, activation) = feed_forward(&config.feed_forward_proj)?;
    refuse_other_feed_forward(raw, up, activation)?;
    let (hidden, inner, context) = (config.d_model, config.d_ff, config.num_heads * config.d_kv);
    let norm = |name: &str| -> Result<B::Norm, LoadError> {
        let weight = parts.tensor(&[&format!("encoder.{name}.weight")], &[hidden])?;
        Ok(parts.backend.rms_norm(weight, config.layer_norm_epsilon)?)
    };
    // The first layer's biases are those of all.
    let attention = attention(&config, parts)?;
    let layer = |index| {
        let name = |part: &str| format!("encoder.block.{index}.layer.{part}");
        let [query, key, value] = ["q", "k", "v"].map(|part| name(&format!("0.SelfAttention.{part}")));
        let dense = name("1.DenseReluDense");
        Ok(Layer {
            attention_norm: norm(&format!("block.{index}.layer.0.layer_norm"))?,
            qkv: parts.stacked(&[(&query, context), (&key, context), (&value, context)], hidden, Bias::Absent)?,
            attention: parts.backend.attention(attention.clone())?,
            attention_output: parts
                .linear(&name("0.SelfAttention.o"), Shape { outputs: hidden, inputs: context, bias: Bias::Absent })?,
            after_attention: None,
            feed_forward_norm: norm(&format!("block.{index}.layer.1.layer_norm"))?,
            feed_forward: FeedForward {
                inner: parts.inner(&dense, up, activation, (hidden, inner), Bias::Absent)?,
                down: parts
                    .linear(&format!("{dense}.wo"), Shape { outputs: hidden, inputs: inner, bias: Bias::Absent })?,
            },
            after_feed_forward: None,
        })
    };
    // Usually one table; the encoder's own counts.
    let words = parts.tensor(&["encoder.embed_tokens.weight", "shared.weight"], &[config.vocab_size, hidden])?;
    Ok(Arc::new(PreNorm::<B> {
        words: parts.backend.embedding(Matrix { rows: config.vocab_size, columns: hidden, values: words })?,
        layers: (0..config.num_layers).map(layer).collect::<Result<_, LoadError>>()?,
        norm: norm("final_layer_norm")?,
        hidden_size: hidden,
    }))
}

/// `relu` and the like, or `gated-` and the name of an activation.
fn feed_forward(projection: &str) -> Result<(Up, Activation), LoadError> {
    let gated = Up::Apart { gate: "wi_0", up: "wi_1" };
    match projection.strip_prefix("gated-") {
        // Of all activations, this one is called by another's name.
        Some("gelu") => Ok((gated, Activation::GeluTanh)),
        Some(name) => Ok((gated, parts::activation("feed_forward_proj", name)?)),
        None => Ok((Up::Plain("wi"), parts::activation("feed_forward_proj", projection)?)),
    }
}

/// Refuses keys that say the same in other words, where they say something else.
fn refuse_other_feed_forward(raw: &Value, up: Up, activation: Activation) -> Result<(), LoadError> {
    let is_gated = matches!(up, Up::Apart { .. });
    parts::refuse_unless(raw, "is_gated_act", &[json!(is_gated)], "what feed_forward_proj says")?;
    match raw.get("dense_act_fn") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(name)) if parts::activation("dense_act_fn", name)? == activation => Ok(()),
        Some(other) => Err(LoadError::unsupported("dense_act_fn", other, "what feed_forward_proj says")),
    }
}

fn attention<B: Backend>(config: &Config, parts: &Parts<'_, B>) -> Result<Attention, LoadError> {
    let (heads, head_size) = (config.num_heads, config.d_kv);
    let (buckets, max_distance) = (config.relative_attention_num_buckets, config.relative_attention_max_distance);
    let unsupported = |key, value, supported| Err(LoadError::unsupported(key, &value, supported));
    if heads == 0 || head_size == 0 {
        return unsupported(if heads == 0 { "num_heads" } else { "d_kv" }, 0, "numbers above 0");
    }
    if buckets == 0 || !buckets.is_multiple_of(4) {
        return unsupported("relative_attention_num_buckets", buckets, "multiples of 4");
    }
    if max_distance <= buckets / 4 {
        let supported = "more than a quarter of relative_attention_num_buckets";
        return unsupported("relative_attention_max_distance", max_distance, supported);
    }
    let name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    let values = parts.tensor(&[name], &[buckets, heads])?;
    let table = Matrix { rows: buckets, columns: heads, values };
    let position_bias = Some(PositionBias::Buckets { table, max_distance });
    Ok(Attention { scale: 1.0, position_bias, ..Attention::new(heads, head_size) })
}

/// Those of `T5Config`.
fn defaults() -> Value {
    json!({
        "vocab_size": 32_128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projection_names_gate_and_activation() {
        let read = |projection| {
            let (up, activation) = feed_forward(projection).unwrap();
            (matches!(up, Up::Apart { .. }), activation)
        };
        assert_eq!(read("relu"), (false, Activation::Relu));
        assert_eq!(read("gelu"), (false, Activation::Gelu));
        assert_eq!(read("gated-gelu"), (true, Activation::GeluTanh));
        assert_eq!(read("gated-silu"), (true, Activation::Silu));
        let other = |raw| refuse_other_feed_forward(&raw, Up::Plain("wi"), Activation::Relu);
        assert!(other(json!({"dense_act_fn": "relu", "is_gated_act": false})).is_ok());
        assert!(other(json!({"dense_act_fn": "silu"})).unwrap_err().to_string().contains("dense_act_fn = \"silu\""));
        assert!(other(json!({"is_gated_act": true})).unwrap_err().to_string().contains("is_gated_act = true"));
        let error = feed_forward("gated-mish").unwrap_err().to_string();
        assert!(error.contains("feed_forward_proj = mish"), "{error}");
    }
}
