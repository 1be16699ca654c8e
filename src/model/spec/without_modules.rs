//! Directories without `modules.json`, as sentence-transformers reads them.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::{Map, Value};

use super::after::width_after;
use super::error::SpecError;
use super::files::{self, SentenceConfig};
use super::first::{vocabulary, with_transformer};
use super::heads::{SparseHead, SpladeActivation, SpladePooling, SpladeStrategy};
use super::modules::PoolingStep;
use super::{ModelSpec, colbert};
use crate::domain::VectorKind;
use crate::model::pooling::Pooling;

/// What sentence-transformers makes of a directory without `modules.json`.
pub(super) fn read(directory: &Path) -> Result<ModelSpec, SpecError> {
    refuse_chat(directory)?;
    let note = format!(
        "{} has no modules.json: dense vectors are the mean over the tokens and are not normalised, as in sentence-transformers",
        directory.display()
    );
    let path = directory.join("config.json");
    if files::has_class(&files::transformer_config(&path)?.raw, |class| class == "HF_ColBERT") {
        return stanford(directory);
    }
    let pooling = PoolingStep { path, modes: vec![Pooling::Mean], include_prompt: true, dimension: None };
    let spec = with_transformer(directory, &SentenceConfig::default(), &pooling, vec![note])?;
    if let Some(class) = files::other_purpose(&spec.config) {
        return Err(SpecError::unsupported(&pooling.path, format!("the architecture {class} without a modules.json")));
    }
    let colbert = directory.join("artifact.metadata");
    if colbert.exists() {
        return Err(SpecError::unsupported(&colbert, "a ColBERT model whose config.json does not name HF_ColBERT"));
    }
    if spec.architecture.has_masked_lm() && files::has_class(&spec.config, |class| class.ends_with("ForMaskedLM")) {
        return Ok(plain_masked_lm(spec));
    }
    Ok(spec)
}

/// A masked language model without files of sentence-transformers is what the user takes it for: its
/// `SentenceTransformer` gives the mean over the tokens, its `SparseEncoder` SPLADE's weights. Where the name says SPLADE,
/// those are meant.
fn plain_masked_lm(spec: ModelSpec) -> ModelSpec {
    let directory = spec.directory.canonicalize().unwrap_or_else(|_| spec.directory.clone());
    // Of what is around it, nothing counts; but a snapshot in the hub's cache is called after its commit.
    let snapshots = directory.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
    let named = snapshots.and_then(Path::parent).unwrap_or(&directory).file_name().and_then(OsStr::to_str);
    let origin = spec.config.get("_name_or_path").and_then(Value::as_str);
    let origin = origin.and_then(|origin| origin.trim_end_matches('/').rsplit('/').next());
    let named_splade = [named, origin].into_iter().flatten().any(|name| name.to_lowercase().contains("splade"));
    let pooling = SpladePooling { strategy: SpladeStrategy::Max, activation: SpladeActivation::Relu };
    let vocabulary = vocabulary(&spec.config);
    let sparse = Some(SparseHead::MaskedLm { pooling, vocabulary });
    let default_kind = if named_splade { VectorKind::Sparse } else { VectorKind::Dense };
    let mut notes = spec.notes;
    let place = directory.display();
    notes.push(if named_splade {
        format!(
            "{place} is a masked language model called SPLADE: its weights are what it gives unless --emit says dense"
        )
    } else {
        format!("{place} is a masked language model: --emit sparse gives SPLADE's weights")
    });
    ModelSpec { sparse, default_kind, notes, ..spec }
}

/// `ColBERT` in the layout of its first authors.
fn stanford(directory: &Path) -> Result<ModelSpec, SpecError> {
    let pooling = PoolingStep::none(directory);
    let spec = with_transformer(directory, &SentenceConfig::default(), &pooling, Vec::new())?;
    let (head, prompts) = colbert::stanford(directory, &spec.weights)?;
    let path = directory.join("config.json");
    if width_after(&head.steps, spec.hidden_size)? != head.dimension {
        return Err(SpecError::invalid(&path, "hidden_size is not that of linear.weight"));
    }
    Ok(ModelSpec { prompts, ..spec.with_tokens(head) })
}

/// Without a `modules.json`, the reference library takes a model with a chat template for one that is spoken to. With
/// one, it leaves the template alone unless `sentence_bert_config.json` says otherwise, which is refused there.
fn refuse_chat(directory: &Path) -> Result<(), SpecError> {
    let config = directory.join("tokenizer_config.json");
    let key = files::read_json::<Map<String, Value>>(&config)?.unwrap_or_default().remove("chat_template");
    let more = directory.join("additional_chat_templates");
    let file = [directory.join("chat_template.jinja"), more].into_iter().find(|path| path.exists());
    let found = key.filter(|template| !template.is_null()).map(|_| config);
    let Some(path) = file.or(found) else { return Ok(()) };
    let what = "a chat template without a modules.json (sentence-transformers puts every text through it; to embed texts \
                as they are, remove it or add a modules.json)";
    Err(SpecError::unsupported(&path, what))
}
