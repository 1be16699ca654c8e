//! Model architectures, one file each, written once against [`nn::Backend`](crate::nn::Backend).
//!
//! Adding an architecture is one file and one row in [`load`].

mod albert;
mod bert;
mod deberta_v2;
mod decoder;
mod distilbert;
mod electra;
mod gemma3;
mod gte;
mod jina_bert;
mod jina_v3;
mod llama;
mod masked_lm;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod parts;
mod post_norm;
mod pre_norm;
mod qwen2;
mod qwen3;
mod roberta;
mod rope;
mod t5;
mod token_table;

pub use self::masked_lm::MaskedLm;

use std::sync::Arc;

use serde_json::json;

use crate::domain::PackedBatch;
use crate::model::spec::{self, ModelSpec};
use crate::model::weights::{WeightError, Weights};
use crate::nn::{Backend, GpuError, NnError};

/// From token ids to token vectors.
pub trait Architecture<B: Backend>: Send + Sync {
    /// [tokens, hidden] of a batch whose sequences are not empty and no longer than [`Architecture::positions`].
    ///
    /// # Errors
    /// Whatever the backend reports.
    fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError>;

    /// Width of a token vector.
    fn hidden_size(&self) -> usize;

    /// Longest sequence that has positions.
    fn positions(&self) -> usize;
}

/// A model that cannot be built from its files.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A key of `config.json` is missing or of the wrong kind.
    #[error("config.json: {0}")]
    Config(serde_json::Error),
    /// A key of `config.json` has a value of the wrong kind.
    #[error("config.json: {key}: {source}")]
    Key {
        /// The key.
        key: String,
        /// What was expected.
        source: serde_json::Error,
    },
    /// A key of `config.json` asks for something that is not implemented.
    #[error("config.json asks for {key} = {value}, which is not implemented; supported: {supported}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would do.
        supported: &'static str,
    },
    /// A tensor is missing, of the wrong shape or unreadable.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// A static model's `mapping` leads out of its table.
    #[error("the tensor mapping names row {row} of a table of {rows}; fetch the model anew")]
    Mapping {
        /// The row that a token is said to have.
        row: i64,
        /// How many there are.
        rows: usize,
    },
    /// The device does not compute what is asked of it.
    #[error(transparent)]
    Device(#[from] GpuError),
    /// A tensor could not be placed on the device.
    #[error(transparent)]
    Operation(#[from] NnError),
}

/// Builds the architecture that a model's directory names.
///
/// # Errors
/// [`LoadError`].
pub fn load<B: Backend>(
    spec: &ModelSpec,
    weights: &Weights,
    backend: &B,
) -> Result<Arc<dyn Architecture<B>>, LoadError> {
    let config = serde_json::Value::Object(spec.config.clone());
    if !decoder::reads_causality(spec.architecture) {
        parts::refuse_unless(&config, "is_causal", &[json!(false)], "false, for an encoder")?;
    }
    match spec.architecture {
        spec::Architecture::Albert => albert::load(&config, weights, backend),
        spec::Architecture::Bert => bert::load(&config, weights, backend),
        spec::Architecture::DebertaV2 => deberta_v2::load(&config, weights, backend),
        spec::Architecture::DistilBert => distilbert::load(&config, weights, backend),
        spec::Architecture::Electra => electra::load(&config, weights, backend),
        spec::Architecture::Gemma3 => gemma3::load(&config, weights, backend),
        spec::Architecture::Gte => gte::load(&config, weights, backend),
        spec::Architecture::JinaBert => jina_bert::load(&config, weights, backend),
        spec::Architecture::JinaV3 => jina_v3::load(&config, weights, backend),
        spec::Architecture::Llama => llama::load(&config, weights, backend),
        spec::Architecture::Mistral => llama::load_mistral(&config, weights, backend),
        spec::Architecture::ModernBert => modernbert::load(&config, weights, backend),
        spec::Architecture::Mpnet => mpnet::load(&config, weights, backend),
        spec::Architecture::NomicBert => nomic_bert::load(&config, weights, backend),
        spec::Architecture::Qwen2 => qwen2::load(&config, weights, backend),
        spec::Architecture::Qwen3 => qwen3::load(&config, weights, backend),
        spec::Architecture::Roberta => roberta::load(&config, weights, backend),
        spec::Architecture::T5 => t5::load(&config, weights, backend),
        spec::Architecture::Static => token_table::load(spec.hidden_size, weights, backend),
    }
}
