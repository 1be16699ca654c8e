//! Model architectures, one file each, written once against [`nn::Backend`](crate::nn::Backend).
//!
//! Adding an architecture is one file and one row in [`load`].

mod albert;
mod architecture;
mod bert;
mod deberta_v2;
mod decoder;
mod distilbert;
mod electra;
mod error;
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

pub use self::architecture::{Architecture, Loaded};
pub use self::error::LoadError;
pub use self::masked_lm::MaskedLm;

use serde_json::json;

use self::parts::Parts;
use crate::model::spec::{self, ModelSpec};
use crate::model::weights::Weights;
use crate::nn::Backend;

/// Builds the architecture that a model's directory names.
///
/// # Errors
/// [`LoadError`].
pub fn load<B: Backend>(spec: &ModelSpec, weights: &Weights, backend: &B) -> Loaded<B> {
    let config = serde_json::Value::Object(spec.config.clone());
    if !decoder::reads_causality(spec.architecture) {
        parts::refuse_unless(&config, "is_causal", &[json!(false)], "false, for an encoder")?;
    }
    let parts = Parts { weights, backend };
    match spec.architecture {
        spec::Architecture::Albert => albert::load(&config, &parts),
        spec::Architecture::Bert => bert::load(&config, &parts),
        spec::Architecture::DebertaV2 => deberta_v2::load(&config, &parts),
        spec::Architecture::DistilBert => distilbert::load(&config, &parts),
        spec::Architecture::Electra => electra::load(&config, &parts),
        spec::Architecture::Gemma3 => gemma3::load(&config, &parts),
        spec::Architecture::Gte => gte::load(&config, &parts),
        spec::Architecture::JinaBert => jina_bert::load(&config, &parts),
        spec::Architecture::JinaV3 => jina_v3::load(&config, &parts),
        spec::Architecture::Llama => llama::load(&config, &parts),
        spec::Architecture::Mistral => llama::load_mistral(&config, &parts),
        spec::Architecture::ModernBert => modernbert::load(&config, &parts),
        spec::Architecture::Mpnet => mpnet::load(&config, &parts),
        spec::Architecture::NomicBert => nomic_bert::load(&config, &parts),
        spec::Architecture::Qwen2 => qwen2::load(&config, &parts),
        spec::Architecture::Qwen3 => qwen3::load(&config, &parts),
        spec::Architecture::Roberta => roberta::load(&config, &parts),
        spec::Architecture::T5 => t5::load(&config, &parts),
        spec::Architecture::Static => token_table::load(spec.hidden_size, &parts),
    }
}
