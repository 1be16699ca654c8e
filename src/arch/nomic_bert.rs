//! Nomic's BERT: rotary positions and gated feed-forward layers, without most biases.
//!
//! Nussbaum et al. 2024, <https://arxiv.org/abs/2402.01613>; checked against `transformers` (`NomicBertModel`). The
//! names of tensors are those of Nomic's own code. The configuration has the keys of that code, those of `transformers`,
//! or both, where the latter count.

use serde_json::{Map, Value, json};

use super::parts::{self, Bias, Parts, Up};
use super::post_norm::{
    Biases, EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, LayerSizes, Numbering, QueryKeyValue,
};
use super::{LoadError, Loaded, bert, rope};
use crate::model::weights::Weights;
use crate::nn::{Attention, Backend, Pairing};

/// Keys of Nomic's own code and those of `transformers` for the same.
const OTHER_KEYS: [(&str, &str); 7] = [
    ("n_embd", "hidden_size"),
    ("n_head", "num_attention_heads"),
    ("n_layer", "num_hidden_layers"),
    ("n_inner", "intermediate_size"),
    ("n_positions", "max_position_embeddings"),
    ("layer_norm_epsilon", "layer_norm_eps"),
    ("rotary_emb_base", "rope_theta"),
];

const LAYER: LayerNames = LayerNames {
    query_key_value: QueryKeyValue::Stacked("attn.Wqkv"),
    attention_output: "attn.out_proj",
    attention_norm: "norm1",
    up: Up::Apart { gate: "mlp.fc12", up: "mlp.fc11" },
    down: "mlp.fc2",
    output_norm: "norm2",
};

pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    refuse_what_is_not_implemented(raw)?;
    let raw = &with_keys_of_transformers(raw);
    let (act, up) = activation(raw)?;
    let config: bert::Config = parts::config(&parts::merged(raw.clone(), json!({"hidden_act": act})), defaults())?;
    let head_size = parts::own_head_size(raw, config.hidden_size, config.num_attention_heads)?;
    // Where nothing is said, Nomic's own code has biases, and `transformers` has none.
    let own_keys = raw.get("n_embd").is_some();
    let bias = |key: &str| Bias::of(raw.get(key).and_then(Value::as_bool).unwrap_or(own_keys));
    let sizes = LayerSizes {
        attention: config.num_attention_heads * head_size,
        biases: Biases {
            query_key_value: bias("qkv_proj_bias"),
            attention_output: bias("qkv_proj_bias"),
            up: bias("mlp_fc1_bias"),
            down: bias("mlp_fc2_bias"),
        },
        ..config.layer_sizes()?
    };
    let names = LayerNames { up, ..LAYER };
    let embedding_sizes = EmbeddingSizes {
        vocabulary: vocabulary(raw, &config, parts.weights)?,
        positions: None,
        norm: "emb_ln",
        ..config.embedding_sizes(Numbering::FromZero)
    };
    let mut rope = rope::read_with_base(raw, head_size, 1000.0)?;
    if raw.get("rotary_emb_interleaved") == Some(&Value::Bool(true)) {
        rope.rotary.pairing = Pairing::Interleaved;
    }
    let attention = rope.turning(Attention::new(config.num_attention_heads, head_size));
    let embeddings = Embeddings::load(parts, &embedding_sizes)?;
    let layers = Layer::load_all(parts, "encoder.layers", config.num_hidden_layers, &names, &sizes)?;
    let attention = LayerAttention::Same(parts.backend.attention(attention)?);
    Ok(config.encoder(embeddings, layers, attention))
}

fn refuse_what_is_not_implemented(raw: &Value) -> Result<(), LoadError> {
    for key in ["prenorm", "use_rms_norm", "causal", "parallel_block"] {
        parts::refuse_unless(raw, key, &[json!(false)], "false")?;
    }
    for key in ["rotary_emb_scale_base", "rotary_scaling_factor"] {
        parts::refuse_unless(raw, key, &[], "null")?;
    }
    parts::refuse_unless(raw, "scale_attn_weights", &[json!(true)], "true")?;
    parts::refuse_unless(raw, "rotary_emb_fraction", &[json!(1), json!(1.0)], "1.0")?;
    parts::refuse_unless(raw, "num_experts", &[json!(0)], "0")
}

fn with_keys_of_transformers(raw: &Value) -> Value {
    let renamed = OTHER_KEYS.iter().filter_map(|(own, key)| {
        let value = raw.get(own).filter(|value| !value.is_null())?;
        Some(((*key).to_owned(), value.clone()))
    });
    let mut renamed: Map<_, _> = renamed.collect();
    if let (Some(width), None) = (raw.get("n_embd").and_then(Value::as_u64), renamed.get("intermediate_size")) {
        renamed.insert("intermediate_size".to_owned(), json!(width.saturating_mul(4)));
    }
    parts::merged(Value::Object(renamed), raw.clone())
}

/// The activation, and whether there is a gate.
fn activation(raw: &Value) -> Result<(String, Up), LoadError> {
    if let Some(Value::String(name)) = raw.get("hidden_act") {
        return Ok((name.clone(), LAYER.up));
    }
    match raw.get("activation_function") {
        None => Ok(("silu".to_owned(), LAYER.up)),
        Some(name) if name == "swiglu" => Ok(("silu".to_owned(), LAYER.up)),
        Some(name) if name == "geglu" => Ok(("gelu".to_owned(), LAYER.up)),
        Some(name) if name == "gelu" => Ok(("gelu".to_owned(), Up::Plain("mlp.fc1"))),
        Some(name) => Err(LoadError::unsupported("activation_function", name, "swiglu, geglu, gelu")),
    }
}

/// Rows of the table of words: Nomic's own code rounds their number up.
fn vocabulary(raw: &Value, config: &bert::Config, weights: &Weights) -> Result<usize, LoadError> {
    let multiple = raw.get("pad_vocab_size_multiple").and_then(Value::as_u64).and_then(|it| usize::try_from(it).ok());
    let rounded = config.vocab_size.next_multiple_of(multiple.unwrap_or(1).max(1));
    let stored = weights.tensor("embeddings.word_embeddings.weight")?.shape;
    Ok(if stored.first() == Some(&rounded) { rounded } else { config.vocab_size })
}

/// Those of `NomicBertConfig` in `transformers`.
fn defaults() -> Value {
    parts::merged(bert::Config::defaults(), json!({"vocab_size": 30528, "max_position_embeddings": 2048}))
}
