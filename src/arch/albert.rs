//! ALBERT: BERT with narrow embeddings and few layers that run many times.
//!
//! Lan et al. 2019, <https://arxiv.org/abs/1909.11942>; checked against `transformers` (`AlbertModel`).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Bias, Parts, Shape, Up};
use super::post_norm::{
    EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, Numbering, Projection, QueryKeyValue,
};
use super::{LoadError, Loaded, bert};
use crate::nn::Backend;

#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(flatten)]
    bert: bert::Config,
    embedding_size: usize,
    num_hidden_groups: usize,
    /// Layers of a group.
    inner_group_num: usize,
}

const LAYER: LayerNames = LayerNames {
    query_key_value: QueryKeyValue::Apart(["attention.query", "attention.key", "attention.value"]),
    attention_output: "attention.dense",
    attention_norm: "attention.LayerNorm",
    up: Up::Plain("ffn"),
    down: "ffn_output",
    output_norm: "full_layer_layer_norm",
};

pub(super) fn load<B: Backend>(config: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let Config { bert: config, embedding_size, num_hidden_groups, inner_group_num } =
        parts::config(config, defaults())?;
    let sizes = config.layer_sizes()?;
    let embedding_sizes = EmbeddingSizes {
        width: embedding_size,
        norm_width: embedding_size,
        ..config.embedding_sizes(Numbering::FromZero)
    };
    let mut embeddings = Embeddings::load(parts, &embedding_sizes)?;
    let projection = Shape { outputs: config.hidden_size, inputs: embedding_size, bias: Bias::Present };
    embeddings.projection = Projection::AfterNorm(parts.linear("encoder.embedding_hidden_mapping_in", projection)?);
    let group = |group| -> Result<Vec<Arc<Layer<B>>>, LoadError> {
        let name = |index| format!("encoder.albert_layer_groups.{group}.albert_layers.{index}");
        (0..inner_group_num).map(|index| Layer::load(parts, &name(index), &LAYER, &sizes).map(Arc::new)).collect()
    };
    let groups = (0..num_hidden_groups).map(group).collect::<Result<Vec<_>, _>>()?;
    if groups.is_empty() {
        return Err(LoadError::unsupported("num_hidden_groups", &0, "1 and more"));
    }
    let layers =
        (0..config.num_hidden_layers).map(|layer| &groups[group_of(layer, config.num_hidden_layers, groups.len())]);
    let layers = layers.flatten().cloned().collect();
    let attention = LayerAttention::Same(parts.backend.attention(config.attention()?)?);
    Ok(config.encoder(embeddings, layers, attention))
}

/// Which of some groups a layer belongs to, divided and rounded down as in `transformers`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number, rounded down")]
fn group_of(layer: usize, layers: usize, groups: usize) -> usize {
    (layer as f64 / (layers as f64 / groups as f64)) as usize
}

/// Width of the tables, and of the head of its masked language model.
pub(super) fn embedding_size(config: &Value) -> Result<usize, LoadError> {
    let config: Config = parts::config(config, defaults())?;
    Ok(config.embedding_size)
}

/// Those of `AlbertConfig` in `transformers`.
pub(super) fn defaults() -> Value {
    let own = json!({
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
        "num_hidden_groups": 1,
        "inner_group_num": 1,
    });
    parts::merged(bert::Config::defaults(), own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_divided_among_the_groups_in_order() {
        let groups = |layers, groups| (0..layers).map(|layer| group_of(layer, layers, groups)).collect::<Vec<_>>();
        assert_eq!(groups(4, 1), [0, 0, 0, 0]);
        assert_eq!(groups(4, 2), [0, 0, 1, 1]);
        assert_eq!(groups(5, 2), [0, 0, 0, 1, 1]);
        assert_eq!(groups(3, 3), [0, 1, 2]);
    }
}
