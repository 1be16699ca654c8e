//! The head of a masked language model: from hidden states to what SPLADE makes of the logits.
//!
//! A linear layer with activation, a norm, and the table of words as the last layer, with a bias of its own; checked
//! against `transformers` (`BertForMaskedLM` and its like). Where a checkpoint holds no last layer of its own, that is the
//! table of words, unless the configuration says that the two are not tied. So it is with its bias, which older files have
//! under another name.

use serde_json::{Value, json};

use super::parts::{self, Bias, Parts};
use super::{LoadError, albert, bert, deberta_v2, distilbert, electra, gte, modernbert};
use crate::domain::{PackedBatch, SparseVector};
use crate::model::spec::{Architecture, ModelSpec, SpladePooling};
use crate::model::weights::Weights;
use crate::nn::{Activation, Backend, Epilogue, Matrix, NnError, Pending};

/// A head.
pub struct MaskedLm<B: Backend> {
    dense: B::Linear,
    activation: Activation,
    norm: B::Norm,
    /// [vocabulary, width].
    decoder: B::Linear,
    pooling: SpladePooling,
}

/// What differs between architectures.
struct Shape {
    names: Names,
    /// Of the norm's input, and of the table of words.
    width: usize,
    activation: Activation,
    epsilon: f64,
    dense_bias: Bias,
    norm_bias: Bias,
    decoder_bias: Bias,
}

/// Where a checkpoint has the parts.
struct Names {
    words: &'static str,
    dense: &'static str,
    norm: &'static str,
    decoder: &'static str,
    bias: &'static str,
    /// What the bias is tied to, where it is tied.
    tied_bias: &'static str,
}

const BERT: Names = Names {
    words: "embeddings.word_embeddings.weight",
    dense: "cls.predictions.transform.dense",
    norm: "cls.predictions.transform.LayerNorm",
    decoder: "cls.predictions.decoder.weight",
    bias: "cls.predictions.decoder.bias",
    tied_bias: "cls.predictions.bias",
};

const ROBERTA: Names = Names {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    decoder: "lm_head.decoder.weight",
    bias: "lm_head.decoder.bias",
    tied_bias: "lm_head.bias",
    ..BERT
};

const DISTILBERT: Names = Names {
    dense: "vocab_transform",
    norm: "vocab_layer_norm",
    decoder: "vocab_projector.weight",
    bias: "vocab_projector.bias",
    tied_bias: "vocab_projector.bias",
    ..BERT
};

const ELECTRA: Names = Names {
    dense: "generator_predictions.dense",
    norm: "generator_predictions.LayerNorm",
    decoder: "generator_lm_head.weight",
    bias: "generator_lm_head.bias",
    tied_bias: "generator_lm_head.bias",
    ..BERT
};

const GTE: Names = Names { norm: "lm_head.norm", ..ROBERTA };

const ALBERT: Names = Names {
    dense: "predictions.dense",
    norm: "predictions.LayerNorm",
    decoder: "predictions.decoder.weight",
    bias: "predictions.decoder.bias",
    tied_bias: "predictions.bias",
    ..BERT
};

const MODERNBERT: Names = Names {
    words: "embeddings.tok_embeddings.weight",
    dense: "head.dense",
    norm: "head.norm",
    decoder: "decoder.weight",
    bias: "decoder.bias",
    tied_bias: "decoder.bias",
};

impl Shape {
    fn of(spec: &ModelSpec, config: &Value) -> Result<Self, LoadError> {
        // These have the exact GELU whatever their layers have.
        let of_bert = |names, own_activation: bool, defaults| -> Result<Self, LoadError> {
            let bert: bert::Config = parts::config(config, defaults)?;
            let activation = if own_activation { Activation::Gelu } else { bert.activation()? };
            Ok(Self::full(names, bert.hidden_size, activation, bert.layer_norm_eps))
        };
        match spec.architecture {
            Architecture::Bert => of_bert(BERT, false, bert::Config::defaults()),
            Architecture::Roberta | Architecture::Mpnet => of_bert(ROBERTA, true, bert::Config::defaults()),
            // Both layouts have the exact GELU, one of them by way of hidden_act.
            Architecture::Gte => {
                parts::refuse_unless(config, "hidden_act", &[json!("gelu")], "gelu, where there is such a head")?;
                of_bert(GTE, true, gte::defaults())
            }
            Architecture::DebertaV2 => {
                parts::refuse_unless(config, "legacy", &[json!(true)], "true, where there is such a head")?;
                let head = of_bert(BERT, false, deberta_v2::defaults())?;
                Ok(Self { width: deberta_v2::embedding_size(config)?.unwrap_or(head.width), ..head })
            }
            Architecture::Electra => {
                let width = electra::embedding_size(config)?;
                Ok(Self { width, ..of_bert(ELECTRA, true, electra::defaults())? })
            }
            Architecture::Albert => {
                let width = albert::embedding_size(config)?;
                Ok(Self { width, ..of_bert(ALBERT, false, albert::defaults())? })
            }
            Architecture::DistilBert => {
                let activation = distilbert::activation(config)?;
                Ok(Self::full(DISTILBERT, spec.hidden_size, activation, distilbert::EPSILON))
            }
            Architecture::ModernBert => {
                let head: modernbert::Head = parts::config(config, modernbert::Head::defaults())?;
                let activation = parts::activation("classifier_activation", &head.classifier_activation)?;
                Ok(Self {
                    dense_bias: Bias::of(head.classifier_bias),
                    norm_bias: Bias::of(head.norm_bias),
                    decoder_bias: Bias::of(head.decoder_bias),
                    ..Self::full(MODERNBERT, spec.hidden_size, activation, head.norm_eps)
                })
            }
            other => Err(LoadError::Unsupported {
                key: "model_type",
                value: format!("{} with the head of a masked language model", other.as_str()),
                supported: "bert, roberta, xlm-roberta, camembert, mpnet, electra, albert, deberta-v2, distilbert, gte and \
                            modernbert with such a head",
            }),
        }
    }

    /// One as wide as the layers, with every bias.
    fn full(names: Names, width: usize, activation: Activation, epsilon: f64) -> Self {
        let [dense_bias, norm_bias, decoder_bias] = [Bias::Present; 3];
        Self { names, width, activation, epsilon, dense_bias, norm_bias, decoder_bias }
    }
}

impl<B: Backend> MaskedLm<B> {
    /// Reads the head of a model.
    ///
    /// # Errors
    /// When the architecture has none that is implemented, or a tensor is missing or of the wrong shape.
    pub fn load(
        spec: &ModelSpec,
        pooling: SpladePooling,
        vocabulary: usize,
        weights: &Weights,
        backend: &B,
    ) -> Result<Self, LoadError> {
        let config = Value::Object(spec.config.clone());
        let Shape { names, width, activation, epsilon, dense_bias, norm_bias, decoder_bias } =
            Shape::of(spec, &config)?;
        let parts = Parts { weights, backend };
        let tied = config.get("tie_word_embeddings") != Some(&Value::Bool(false));
        let own_or_tied = |own: &'static str, other: &'static str, shape: &[usize]| {
            let names: &[&str] = if tied { &[own, other] } else { &[own] };
            parts.tensor(names, shape)
        };
        let values = own_or_tied(names.decoder, names.words, &[vocabulary, width])?;
        let bias = || own_or_tied(names.bias, names.tied_bias, &[vocabulary]);
        let bias = (decoder_bias == Bias::Present).then(bias).transpose()?;
        let dense = parts::Shape { outputs: width, inputs: spec.hidden_size, bias: dense_bias };
        Ok(Self {
            dense: parts.linear(names.dense, dense)?,
            activation,
            norm: parts.norm(names.norm, width, epsilon, norm_bias)?,
            decoder: backend.linear(Matrix { rows: vocabulary, columns: width, values }, bias)?,
            pooling,
        })
    }

    /// One sparse vector a sequence of [tokens, hidden].
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn forward(
        &self,
        backend: &B,
        hidden: &B::Activations,
        batch: &PackedBatch,
    ) -> Result<Pending<Vec<SparseVector>>, NnError> {
        let transformed = backend.apply_linear(&self.dense, hidden, Epilogue::Activation(self.activation))?;
        let normed = backend.apply_norm(&self.norm, &transformed)?;
        backend.weigh_vocabulary(&self.decoder, &normed, self.pooling, batch)
    }
}
