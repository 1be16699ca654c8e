//! `DeBERTa` v2 and v3: BERT whose attention knows no positions but distances, which meet the contents of tokens.
//!
//! He et al. 2020, <https://arxiv.org/abs/2006.03654>, and 2021, <https://arxiv.org/abs/2111.09543>; checked against
//! `transformers` (`DebertaV2Model`). The convolution that the two largest models of v2 have beside their first layer is
//! refused.

use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{self, Bias, Parts, Shape};
use super::post_norm::{
    BERT_LAYER, EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, LayerSizes, Numbering, Projection,
    QueryKeyValue,
};
use super::{LoadError, Loaded, bert};
use crate::domain::PackedBatch;
use crate::model::pooling::Pooling;
use crate::nn::{Attention, Backend, Distances, Epilogue, Matrix, RelativeAttention};

#[derive(Debug, Clone, Deserialize)]
struct Config {
    #[serde(flatten)]
    bert: bert::Config,
    embedding_size: Option<usize>,
    attention_head_size: Option<usize>,
    relative_attention: bool,
    max_relative_positions: i64,
    position_buckets: i64,
    position_biased_input: bool,
    share_att_key: bool,
    pos_att_type: Option<OneOrMore>,
    norm_rel_ebd: String,
}

/// Names, as a list or with bars between them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    Joined(String),
    List(Vec<String>),
}

/// Which of the two meet distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meeting {
    /// Queries meet keys of distances: "c2p".
    queries: bool,
    /// Keys meet queries of distances: "p2c".
    keys: bool,
}

const LAYER: LayerNames = LayerNames {
    query_key_value: QueryKeyValue::Apart([
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
    ]),
    ..BERT_LAYER
};

pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    parts::refuse_unless(raw, "conv_kernel_size", &[json!(0)], "0")?;
    let config: Config = parts::config(raw, defaults())?;
    let bert = &config.bert;
    let (hidden, heads) = (bert.hidden_size, bert.num_attention_heads);
    let head_size = match config.attention_head_size {
        Some(size) => size,
        None => parts::head_size(hidden, heads)?,
    };
    let sizes = LayerSizes { attention: heads * head_size, ..bert.layer_sizes()? };
    let embeddings = embeddings(parts, &config)?;
    let layers = Layer::load_all(parts, "encoder.layer", bert.num_hidden_layers, &LAYER, &sizes)?;
    let attention = attention(parts, &config, head_size)?;
    Ok(bert.encoder(embeddings, layers, attention))
}

fn embeddings<B: Backend>(parts: &Parts<'_, B>, config: &Config) -> Result<Embeddings<B>, LoadError> {
    let hidden = config.bert.hidden_size;
    let width = config.embedding_size.unwrap_or(hidden);
    let sizes = config.bert.embedding_sizes(Numbering::FromZero);
    let positions = sizes.positions.filter(|_| config.position_biased_input);
    let mut embeddings = Embeddings::load(parts, &EmbeddingSizes { positions, width, ..sizes })?;
    if width != hidden {
        let shape = Shape { outputs: hidden, inputs: width, bias: Bias::Absent };
        embeddings.projection = Projection::BeforeNorm(parts.linear("embeddings.embed_proj", shape)?);
    }
    Ok(embeddings)
}

fn attention<B: Backend>(
    parts: &Parts<'_, B>,
    config: &Config,
    head_size: usize,
) -> Result<LayerAttention<B>, LoadError> {
    let heads = config.bert.num_attention_heads;
    let meeting = meeting(config.pos_att_type.as_ref());
    #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
    let scale = 1.0 / ((head_size * (1 + usize::from(meeting.queries) + usize::from(meeting.keys))) as f32).sqrt();
    if !config.relative_attention {
        let attention = Attention { scale, ..Attention::new(heads, head_size) };
        return Ok(LayerAttention::Same(parts.backend.attention(attention)?));
    }
    let distances = distances(config)?;
    let vectors = vectors_of_distances(parts, config, distances)?;
    let layer = |index| {
        let table = |meets: bool, shared: &str, own: &str| -> Result<Option<Matrix>, LoadError> {
            let part = if config.share_att_key { shared } else { own };
            let shape = Shape { outputs: heads * head_size, inputs: config.bert.hidden_size, bias: Bias::Present };
            let name = format!("encoder.layer.{index}.attention.self.{part}");
            meets.then(|| projected(parts, &vectors, &name, shape, distances)).transpose()
        };
        let keys = table(meeting.queries, "key_proj", "pos_key_proj")?;
        let queries = table(meeting.keys, "query_proj", "pos_query_proj")?;
        let attention = RelativeAttention { heads, head_size, scale, keys, queries, distances };
        Ok(parts.backend.relative_attention(attention)?)
    };
    let layers = (0..config.bert.num_hidden_layers).map(layer).collect::<Result<_, LoadError>>()?;
    Ok(LayerAttention::Relative(layers))
}

/// Others are passed over in `transformers` as well.
fn meeting(names: Option<&OneOrMore>) -> Meeting {
    let has = |wanted: &str| match names {
        None => false,
        Some(OneOrMore::Joined(names)) => names.to_lowercase().split('|').any(|name| name.trim() == wanted),
        Some(OneOrMore::List(names)) => names.iter().any(|name| name == wanted),
    };
    Meeting { queries: has("c2p"), keys: has("p2c") }
}

fn distances(config: &Config) -> Result<Distances, LoadError> {
    let positive = |number: i64| usize::try_from(number).ok().filter(|number| *number > 0);
    let max_distance = positive(config.max_relative_positions).unwrap_or(config.bert.max_position_embeddings);
    match positive(config.position_buckets) {
        None => Ok(Distances { span: max_distance, max_distance: None }),
        Some(span) if span >= 2 && max_distance > span / 2 + 1 => {
            Ok(Distances { span, max_distance: Some(max_distance) })
        }
        Some(span) => {
            let supported = "2 and more, up to twice the largest distance";
            Err(LoadError::unsupported("position_buckets", &span, supported))
        }
    }
}

/// [distances, hidden] on the device.
fn vectors_of_distances<B: Backend>(
    parts: &Parts<'_, B>,
    config: &Config,
    distances: Distances,
) -> Result<B::Activations, LoadError> {
    let (backend, hidden) = (parts.backend, config.bert.hidden_size);
    let table = parts.embedding("encoder.rel_embeddings", 2 * distances.span, hidden)?;
    let rows: Vec<u32> = (0..).take(2 * distances.span).collect();
    let vectors = backend.embed(&[(&table, &rows)])?;
    if config.norm_rel_ebd.to_lowercase().split('|').any(|name| name.trim() == "layer_norm") {
        let norm = parts.layer_norm("encoder.LayerNorm", hidden, config.bert.layer_norm_eps)?;
        return Ok(backend.apply_norm(&norm, &vectors)?);
    }
    Ok(vectors)
}

/// What a linear layer makes of the vectors of all distances, on the host.
fn projected<B: Backend>(
    parts: &Parts<'_, B>,
    vectors: &B::Activations,
    name: &str,
    shape: Shape,
    distances: Distances,
) -> Result<Matrix, LoadError> {
    let rows = 2 * distances.span;
    let projected = parts.backend.apply_linear(&parts.linear(name, shape)?, vectors, Epilogue::Bias)?;
    // As many sequences of one token each.
    let each = PackedBatch::new((0..rows).map(|_| &[0][..]));
    let values = parts.backend.pool(&[Pooling::Cls], 0, &projected, &each)?.get()?;
    Ok(Matrix { rows, columns: shape.outputs, values })
}

/// Width of the tables, and of the head of its masked language model, where it is not that of the layers.
pub(super) fn embedding_size(config: &Value) -> Result<Option<usize>, LoadError> {
    let config: Config = parts::config(config, defaults())?;
    Ok(config.embedding_size)
}

/// Those of `DebertaV2Config` in `transformers`.
pub(super) fn defaults() -> Value {
    let own = json!({
        "vocab_size": 128_100,
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "embedding_size": null,
        "attention_head_size": null,
        "relative_attention": false,
        "max_relative_positions": -1,
        "position_buckets": -1,
        "position_biased_input": true,
        "share_att_key": false,
        "pos_att_type": null,
        "norm_rel_ebd": "none",
    });
    parts::merged(bert::Config::defaults(), own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_meets_distances_is_named_in_either_style() {
        let meeting = |names: Value| meeting(serde_json::from_value::<Option<OneOrMore>>(names).unwrap().as_ref());
        let of = |queries, keys| Meeting { queries, keys };
        assert_eq!(meeting(json!(null)), of(false, false));
        assert_eq!(meeting(json!("p2c|c2p")), of(true, true));
        assert_eq!(meeting(json!(" C2P ")), of(true, false));
        assert_eq!(meeting(json!(["p2c"])), of(false, true));
    }
}
