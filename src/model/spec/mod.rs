//! `ModelSpec`: all that a model's directory says about how a text becomes a vector.
//!
//! Written to agree with what sentence-transformers does with the same directory. What it would do and this program
//! does not is an error here, before any weight is read.

mod after;
mod architecture;
mod error;
mod files;
mod modules;
mod prompt;
#[cfg(test)]
mod tests;
mod tokenizer;
mod weight_files;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use self::after::{AfterPooling, Dense, DenseActivation};
pub use self::architecture::Architecture;
pub use self::error::SpecError;
use self::files::{LibraryConfig, SentenceConfig, TransformerConfig};
use self::modules::{First, PoolingStep};
pub use self::prompt::{Prompt, PromptChoice, PromptOrigin};
use super::weights::{WeightError, Weights};
use crate::domain::{Digest, DigestReader};
pub use crate::nn::Pooling;

/// What a model's directory says.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The directory that was read.
    pub directory: PathBuf,
    /// The architecture.
    pub architecture: Architecture,
    /// `config.json`, whole; the architecture takes its sizes and its activation from it.
    pub config: Map<String, Value>,
    /// Width of a token vector.
    pub hidden_size: usize,
    /// How token vectors become one; several are joined in this order.
    pub pooling: Vec<Pooling>,
    /// What happens to the joined vector before it may be cut.
    pub after_pooling: Vec<AfterPooling>,
    /// Whether the vector is scaled to unit length at the end.
    pub normalize: bool,
    /// Length of a vector.
    pub dimension: usize,
    /// Longest sequence in tokens, special tokens and prompt included; never more than there are positions.
    pub max_length: usize,
    /// Whether the prompt's tokens are pooled.
    pub include_prompt: bool,
    /// Prompts by name; a text may be empty.
    pub prompts: BTreeMap<String, String>,
    /// The prompt that applies where no other does.
    pub default_prompt_name: Option<String>,
    /// How vectors are to be compared, as the directory says ("cosine", "dot", …).
    pub similarity: Option<String>,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Whether its special tokens go around every text.
    pub special_tokens: bool,
    /// Weight files of the transformer, in the order of their names.
    pub weights: Vec<PathBuf>,
    /// What a user should know about how the directory was understood.
    pub notes: Vec<String>,
}

impl ModelSpec {
    /// Reads a model's directory.
    ///
    /// # Errors
    /// When a file is missing or broken, or asks for something that is not implemented.
    pub fn read(directory: &Path) -> Result<Self, SpecError> {
        let Some(steps) = modules::read(directory)? else {
            // The reference library looks at none of its own files when there is no modules.json.
            return plain(directory);
        };
        let library_path = directory.join("config_sentence_transformers.json");
        let library = files::library_config(&library_path)?;
        let (prompts, default_prompt_name) = prompts(&library, &library_path)?;
        let mut spec = match steps.kind {
            First::Transformer(ref pooling) => {
                let sentence = files::sentence_config(&steps.first)?;
                with_transformer(&steps.first, &sentence, pooling, Vec::new())?
            }
            First::Static => with_table(&steps.first)?,
        };
        directory.clone_into(&mut spec.directory);
        spec.finish_with(steps.after)?;
        Ok(Self { prompts, default_prompt_name, similarity: library.similarity_fn_name, ..spec })
    }

    /// The names of the poolings, as outputs give them.
    pub fn pooling_names(&self) -> String {
        self.pooling.iter().map(|mode| mode.as_str()).collect::<Vec<_>>().join(" + ")
    }

    /// Takes the steps after pooling, whose sizes must fit each other.
    fn finish_with(&mut self, mut after: Vec<AfterPooling>) -> Result<(), SpecError> {
        while after.last() == Some(&AfterPooling::Normalize) {
            after.pop();
            self.normalize = true;
        }
        for step in &after {
            if let AfterPooling::Dense(dense) = step {
                if dense.inputs != self.dimension {
                    let what = format!("it takes vectors of {}, but gets some of {}", dense.inputs, self.dimension);
                    return Err(SpecError::invalid(&dense.directory.join("config.json"), what));
                }
                self.dimension = dense.outputs;
            }
        }
        self.after_pooling = after;
        Ok(())
    }

    /// The prompt that goes before every text. Without a choice, the first of `document`, `passage` and `corpus`
    /// that the directory has, else its default prompt, else none.
    ///
    /// # Errors
    /// When the model has no prompt of that name.
    pub fn prompt(&self, choice: &PromptChoice) -> Result<Prompt, SpecError> {
        prompt::choose(choice, &self.prompts, self.default_prompt_name.as_deref()).map_err(|name| {
            SpecError::UnknownPrompt {
                directory: self.directory.clone(),
                name: name.to_owned(),
                known: self.prompts.keys().cloned().collect(),
            }
        })
    }

    /// Digest of `tokenizer.json`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn tokenizer_digest(&self) -> Result<Digest, SpecError> {
        let digest = std::fs::File::open(&self.tokenizer).and_then(DigestReader::drain);
        let (digest, _) = digest.map_err(|source| SpecError::Read { path: self.tokenizer.clone(), source })?;
        Ok(digest)
    }
}

/// A directory that begins with a transformer: all but what comes after pooling, and the prompts.
fn with_transformer(
    transformer: &Path,
    sentence: &SentenceConfig,
    pooling: &PoolingStep,
    mut notes: Vec<String>,
) -> Result<ModelSpec, SpecError> {
    refuse_adapter(transformer)?;
    let config = files::transformer_config(&transformer.join("config.json"))?;
    if let Some(dimension) = pooling.dimension.filter(|dimension| *dimension != config.hidden_size as u64) {
        let what = format!("it pools vectors of {dimension}, but hidden_size in config.json is {}", config.hidden_size);
        return Err(SpecError::invalid(&pooling.path, what));
    }
    Ok(ModelSpec {
        directory: transformer.to_owned(),
        architecture: config.architecture,
        hidden_size: config.hidden_size,
        pooling: pooling.modes.clone(),
        after_pooling: Vec::new(),
        normalize: false,
        dimension: config.hidden_size * pooling.modes.len(),
        max_length: max_length(sentence, &config, transformer, &mut notes)?,
        include_prompt: pooling.include_prompt,
        prompts: BTreeMap::new(),
        default_prompt_name: None,
        similarity: None,
        tokenizer: tokenizer::find(transformer, sentence.do_lower_case)?,
        special_tokens: true,
        weights: weight_files::find(transformer)?,
        config: config.raw,
        notes,
    })
}

/// A directory that begins with a table of vectors. Its sizes stand in no file but that of the weights.
fn with_table(directory: &Path) -> Result<ModelSpec, SpecError> {
    let weights = weight_files::find(directory)?;
    let width = table_width(&weights).map_err(|source| SpecError::Weights { source: Box::new(source) })?;
    let tokenizer = tokenizer::find(directory, false)?;
    let mut notes = Vec::new();
    let max_length = tokenizer::own_limit(&tokenizer)?.unwrap_or_else(|| {
        notes.push(format!(
            "a table of vectors sees texts of any length; {} is cut at {LENGTH_WITHOUT_LIMIT} tokens",
            directory.display()
        ));
        LENGTH_WITHOUT_LIMIT
    });
    Ok(ModelSpec {
        directory: directory.to_owned(),
        architecture: Architecture::Static,
        hidden_size: width,
        pooling: vec![Pooling::Mean],
        after_pooling: Vec::new(),
        normalize: false,
        dimension: width,
        max_length,
        include_prompt: true,
        prompts: BTreeMap::new(),
        default_prompt_name: None,
        similarity: None,
        tokenizer,
        special_tokens: false,
        weights,
        config: Map::new(),
        notes,
    })
}

/// Width of a static model's table, under the names of sentence-transformers and of `model2vec`.
fn table_width(paths: &[PathBuf]) -> Result<usize, WeightError> {
    let weights = Weights::open(paths)?;
    let name = if weights.contains("embedding.weight") { "embedding.weight" } else { "embeddings" };
    let table = weights.tensor(name)?;
    match table.shape[..] {
        [_, width] if width > 0 => Ok(width),
        _ => table.expect_shape(&[0, 0]).map(|_| 0),
    }
}

/// What sentence-transformers makes of a directory without `modules.json`.
fn plain(directory: &Path) -> Result<ModelSpec, SpecError> {
    let note = format!(
        "{} has no modules.json: vectors are the mean over the tokens and are not normalised, as in sentence-transformers",
        directory.display()
    );
    let path = directory.join("config.json");
    let pooling = PoolingStep { path, modes: vec![Pooling::Mean], include_prompt: true, dimension: None };
    let spec = with_transformer(directory, &SentenceConfig::default(), &pooling, vec![note])?;
    if let Some(class) = files::other_purpose(&spec.config) {
        return Err(SpecError::unsupported(&pooling.path, format!("the architecture {class} without a modules.json")));
    }
    let colbert = directory.join("artifact.metadata");
    if colbert.exists() {
        return Err(SpecError::unsupported(&colbert, "a ColBERT model"));
    }
    Ok(spec)
}

fn refuse_adapter(transformer: &Path) -> Result<(), SpecError> {
    let path = transformer.join("adapter_config.json");
    if path.exists() { Err(SpecError::unsupported(&path, "an adapter")) } else { Ok(()) }
}

/// The limit of a model whose files name none. The reference library cuts no text then; here every limit is a number,
/// because memory is planned by it.
const LENGTH_WITHOUT_LIMIT: usize = 32_768;

/// `max_seq_length`, else the smaller of the tokenizer's limit and the number of positions; never more than there are
/// rows for positions.
fn max_length(
    sentence: &SentenceConfig,
    config: &TransformerConfig,
    transformer: &Path,
    notes: &mut Vec<String>,
) -> Result<usize, SpecError> {
    let whole = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
    if let Some(limit) = sentence.max_seq_length.map(whole) {
        return Ok(match config.rows.filter(|rows| limit > *rows) {
            Some(rows) => {
                notes.push(format!(
                    "{} asks for texts of {limit} tokens, but the model has only {rows} positions, which is the limit",
                    transformer.display()
                ));
                rows
            }
            None => limit,
        });
    }
    let tokenizer = files::tokenizer_max_length(&transformer.join("tokenizer_config.json"))?.map(whole);
    let limit = [tokenizer, config.positions, config.rows].into_iter().flatten().min();
    Ok(limit.unwrap_or_else(|| {
        notes.push(format!(
            "{} names no limit for the length of a text: {LENGTH_WITHOUT_LIMIT} tokens are the limit",
            transformer.display()
        ));
        LENGTH_WITHOUT_LIMIT
    }))
}

fn prompts(library: &LibraryConfig, path: &Path) -> Result<(BTreeMap<String, String>, Option<String>), SpecError> {
    let prompts: BTreeMap<String, String> = library
        .prompts
        .clone()
        .unwrap_or_default()
        .into_iter()
        .map(|(name, text)| (name, text.unwrap_or_default()))
        .collect();
    let default = library.default_prompt_name.clone().filter(|name| !name.is_empty());
    match default {
        // The reference library gives every model an empty prompt of these names.
        Some(name) if !prompts.contains_key(&name) && (name == "query" || name == "document") => Ok((prompts, None)),
        Some(name) if !prompts.contains_key(&name) => {
            Err(SpecError::invalid(path, format!("default_prompt_name {name:?} is not one of its prompts")))
        }
        default => Ok((prompts, default)),
    }
}
