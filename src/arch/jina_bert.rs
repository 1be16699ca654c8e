//! jina-embeddings-v2: BERT without positions, whose attention prefers near tokens, with gated feed-forward layers.
//!
//! Günther et al. 2023, <https://arxiv.org/abs/2310.19923>: `ALiBi` in both directions (Press et al. 2021,
//! <https://arxiv.org/abs/2108.12409>) and GLU variants (Shazeer 2020, <https://arxiv.org/abs/2002.05202>). Checked against
//! a forward pass written from these papers; `transformers` has no such model.

use serde_json::{Value, json};

use super::parts::{self, Bias, Parts, Up};
use super::post_norm::{
    BERT_LAYER, Biases, EmbeddingSizes, Embeddings, Layer, LayerAttention, LayerNames, LayerSizes, Numbering,
};
use super::{LoadError, Loaded, bert};
use crate::nn::{Activation, Attention, Backend, PositionBias};

const GATED_LAYER: LayerNames =
    LayerNames { up: Up::GateFirst("mlp.gated_layers"), down: "mlp.wo", output_norm: "mlp.layernorm", ..BERT_LAYER };

pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    parts::refuse_unless(raw, "position_embedding_type", &[json!("alibi")], "alibi")?;
    let config: bert::Config = parts::config(raw, bert::Config::defaults())?;
    let gated = Biases { up: Bias::Absent, ..Biases::ALL };
    let plain = config.layer_sizes()?;
    let (names, sizes) = match raw.get("feed_forward_type").and_then(Value::as_str).unwrap_or("original") {
        "original" => (BERT_LAYER, plain),
        "geglu" => (GATED_LAYER, LayerSizes { activation: Activation::Gelu, biases: gated, ..plain }),
        "reglu" => (GATED_LAYER, LayerSizes { activation: Activation::Relu, biases: gated, ..plain }),
        other => {
            return Err(LoadError::unsupported("feed_forward_type", &other, "original, geglu, reglu"));
        }
    };
    let position_bias = Some(PositionBias::Slopes(slopes(config.num_attention_heads)));
    let embedding_sizes = EmbeddingSizes { positions: None, ..config.embedding_sizes(Numbering::FromZero) };
    let embeddings = Embeddings::load(parts, &embedding_sizes)?;
    let layers = Layer::load_all(parts, "encoder.layer", config.num_hidden_layers, &names, &sizes)?;
    let attention = LayerAttention::Same(parts.backend.attention(Attention { position_bias, ..config.attention()? })?);
    Ok(config.encoder(embeddings, layers, attention))
}

/// A slope for each head, as the authors of `ALiBi` choose them: for a power of 2 the powers of 2^(-8 / heads), else those
/// of the next lower power of 2 and then every second one of the next higher.
fn slopes(heads: usize) -> Vec<f32> {
    let powers = |heads: usize| (1..=heads).map(move |power| (-8.0 * power as f64 / heads as f64).exp2());
    if heads == 0 {
        return Vec::new();
    }
    let lower = 1 << heads.ilog2();
    #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
    powers(lower).chain(powers(2 * lower).step_by(2).take(heads - lower)).map(|slope| slope as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        // Press et al., section 3: 1/2, 1/4, …, 1/256 for 8 heads.
        assert_eq!(slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.031_25, 0.015_625, 0.007_812_5, 0.003_906_25]);
        assert_eq!(slopes(4), [0.25, 0.0625, 0.015_625, 0.003_906_25]);
        assert_eq!(slopes(6), [0.25, 0.0625, 0.015_625, 0.003_906_25, 0.5, 0.125]);
        assert!(slopes(0).is_empty());
    }
}
