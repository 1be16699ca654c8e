//! The tokenizer, as far as it decides whether a model can be used. Reading text is another module's work.

use std::path::Path;

use serde_json::{Map, Value};

use super::architecture::Architecture;
use super::error::SpecError;
use super::files::read_json;
use crate::model::tokenizer_files::{InputCase, TokenizerFiles};

/// The tokenizer of a transformer.
pub(super) fn find(directory: &Path, case: InputCase, architecture: Architecture) -> Result<TokenizerFiles, SpecError> {
    let files = TokenizerFiles::read(directory, case)?;
    if files.second_types && has_types(architecture) {
        let what = "a template that gives tokens of a single text the type_id 1";
        return Err(SpecError::unsupported(&files.path, what));
    }
    Ok(files)
}

/// Whether layers take the types of tokens.
fn has_types(architecture: Architecture) -> bool {
    match architecture {
        Architecture::Bert
        | Architecture::Roberta
        | Architecture::Electra
        | Architecture::Albert
        | Architecture::DebertaV2
        | Architecture::NomicBert
        | Architecture::Gte
        | Architecture::JinaV3
        | Architecture::JinaBert => true,
        Architecture::DistilBert
        | Architecture::Mpnet
        | Architecture::ModernBert
        | Architecture::Qwen2
        | Architecture::Qwen3
        | Architecture::Mistral
        | Architecture::Llama
        | Architecture::Gemma3
        | Architecture::T5
        | Architecture::Static => false,
    }
}

/// The length at which `tokenizer.json` itself cuts a text. Of a static model, and of no other, the reference library
/// leaves that as it is.
pub(super) fn own_limit(path: &Path) -> Result<Option<usize>, SpecError> {
    let tokenizer = read_json::<Map<String, Value>>(path)?.unwrap_or_default();
    let Some(truncation) = tokenizer.get("truncation").filter(|truncation| !truncation.is_null()) else {
        return Ok(None);
    };
    let limit = truncation["max_length"].as_u64().and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.ok_or_else(|| SpecError::invalid(path, "its truncation names no max_length"))?;
    Ok(Some(limit))
}
