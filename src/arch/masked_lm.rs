//! The head of a masked language model: from hidden states to what SPLADE makes of the logits.
//!
//! A linear layer with activation, a norm, and the table of words as the last layer, with a bias of its own; checked
//! against `transformers` (`BertForMaskedLM`, `RobertaForMaskedLM`, `DistilBertForMaskedLM`). Where the configuration does
//! not say otherwise, the last layer is the table itself, whatever else a checkpoint holds.

use serde_json::Value;

use super::parts::{self, Bias, Parts, Shape};
use super::{LoadError, bert, distilbert};
use crate::domain::{PackedBatch, SparseVector};
use crate::model::spec::{Architecture, ModelSpec, SpladePooling};
use crate::model::weights::Weights;
use crate::nn::{Activation, Awaited, Backend, Epilogue, Matrix, NnError};

/// A head.
pub struct MaskedLm<B: Backend> {
    dense: B::Linear,
    activation: Activation,
    norm: B::Norm,
    /// [vocabulary, hidden].
    decoder: B::Linear,
    pooling: SpladePooling,
}

/// Where a checkpoint has the parts.
struct Names {
    dense: &'static str,
    norm: &'static str,
    decoder: &'static str,
    /// The first that there is.
    bias: &'static [&'static str],
}

const BERT: Names = Names {
    dense: "cls.predictions.transform.dense",
    norm: "cls.predictions.transform.LayerNorm",
    decoder: "cls.predictions.decoder.weight",
    bias: &["cls.predictions.bias", "cls.predictions.decoder.bias"],
};

const ROBERTA: Names = Names {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    decoder: "lm_head.decoder.weight",
    bias: &["lm_head.bias", "lm_head.decoder.bias"],
};

const DISTILBERT: Names = Names {
    dense: "vocab_transform",
    norm: "vocab_layer_norm",
    decoder: "vocab_projector.weight",
    bias: &["vocab_projector.bias"],
};

/// The table of words, under the one name that all these architectures have for it.
const WORDS: &str = "embeddings.word_embeddings.weight";

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
        let (names, activation, epsilon) = match spec.architecture {
            Architecture::Bert => {
                let config: bert::Config = parts::config(&config, bert::Config::defaults())?;
                (BERT, parts::activation("hidden_act", &config.hidden_act)?, config.layer_norm_eps)
            }
            // It has the exact GELU whatever its layers have.
            Architecture::Roberta => {
                let config: bert::Config = parts::config(&config, bert::Config::defaults())?;
                (ROBERTA, Activation::Gelu, config.layer_norm_eps)
            }
            Architecture::DistilBert => (DISTILBERT, distilbert::activation(&config)?, distilbert::EPSILON),
            other => {
                return Err(LoadError::Unsupported {
                    key: "model_type",
                    value: format!("{} with the head of a masked language model", other.as_str()),
                    supported: "bert, roberta, xlm-roberta, camembert and distilbert with such a head",
                });
            }
        };
        let parts = Parts { weights, backend };
        let hidden = spec.hidden_size;
        let tied = config.get("tie_word_embeddings") != Some(&Value::Bool(false));
        let decoder = if tied { WORDS } else { names.decoder };
        let values = parts.tensor(&[decoder], &[vocabulary, hidden])?;
        let bias = parts.tensor(names.bias, &[vocabulary])?;
        Ok(Self {
            dense: parts.linear(names.dense, Shape { outputs: hidden, inputs: hidden, bias: Bias::Present })?,
            activation,
            norm: parts.layer_norm(names.norm, hidden, epsilon)?,
            decoder: backend.linear(Matrix { rows: vocabulary, columns: hidden, values }, Some(bias))?,
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
    ) -> Result<Awaited<Vec<SparseVector>>, NnError> {
        let transformed = backend.apply_linear(&self.dense, hidden, Epilogue::Activation(self.activation))?;
        let normed = backend.apply_norm(&self.norm, &transformed)?;
        backend.weigh_vocabulary(&self.decoder, &normed, self.pooling, batch)
    }
}
