//! `ModelSpec`: all that a model's directory says about how a text becomes a vector.
//!
//! Written to agree with what sentence-transformers does with the same directory. What it would do and this program
//! does not is an error here, before any weight is read.

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

pub use self::architecture::Architecture;
pub use self::error::SpecError;
use self::files::{LibraryConfig, SentenceConfig, TransformerConfig};
use self::modules::{PoolingStep, Steps};
pub use self::prompt::{Prompt, PromptChoice, PromptOrigin};
use crate::domain::{Digest, DigestReader};

/// How token vectors become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// The mean over all tokens, special ones and the prompt included.
    Mean,
}

impl Pooling {
    /// The name in the pooling module's file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
        }
    }
}

/// What a model's directory says.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The directory that was read.
    pub directory: PathBuf,
    /// The architecture.
    pub architecture: Architecture,
    /// `config.json`, whole; the architecture takes its sizes and its activation from it.
    pub config: Map<String, Value>,
    /// How token vectors become one.
    pub pooling: Pooling,
    /// Whether the vector is scaled to unit length.
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
    /// Safetensors files, in the order of their names.
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
        let mut notes = Vec::new();
        let (steps, sentence, library) = match modules::read(directory)? {
            Some(steps) => {
                let sentence = files::sentence_config(&steps.transformer)?;
                let library = files::library_config(&directory.join("config_sentence_transformers.json"))?;
                (Some(steps), sentence, library)
            }
            // The reference library looks at neither file when there is no modules.json.
            None => (None, SentenceConfig::default(), LibraryConfig::default()),
        };
        let transformer = steps.as_ref().map_or(directory, |steps| &steps.transformer).to_owned();
        refuse_adapter(&transformer)?;
        let config = files::transformer_config(&transformer.join("config.json"))?;
        let Steps { pooling, normalize, .. } = match steps {
            Some(steps) => steps,
            None => steps_of_plain_directory(&transformer, &config.raw, &mut notes)?,
        };
        if let Some(dimension) = pooling.dimension.filter(|dimension| *dimension != config.hidden_size as u64) {
            let what =
                format!("it pools vectors of {dimension}, but hidden_size in config.json is {}", config.hidden_size);
            return Err(SpecError::invalid(&pooling.path, what));
        }
        let tokenizer = tokenizer::find(&transformer, sentence.do_lower_case)?;
        let (prompts, default_prompt_name) = prompts(&library, directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            architecture: config.architecture,
            pooling: pooling.mode,
            normalize,
            dimension: config.hidden_size,
            max_length: max_length(&sentence, &config, &transformer, &mut notes)?,
            include_prompt: pooling.include_prompt,
            prompts,
            default_prompt_name,
            similarity: library.similarity_fn_name,
            tokenizer,
            weights: weight_files::find(&transformer)?,
            config: config.raw,
            notes,
        })
    }

    /// The prompt that goes before every text. Without a choice, the first of `document`, `passage` and `corpus`
    /// that the directory has, else its default prompt, else none.
    ///
    /// # Errors
    /// When the model has no prompt of that name, or cannot leave the prompt out of the pooling as its directory asks.
    pub fn prompt(&self, choice: &PromptChoice) -> Result<Prompt, SpecError> {
        let prompt = prompt::choose(choice, &self.prompts, self.default_prompt_name.as_deref()).map_err(|name| {
            SpecError::UnknownPrompt {
                directory: self.directory.clone(),
                name: name.to_owned(),
                known: self.prompts.keys().cloned().collect(),
            }
        })?;
        if !self.include_prompt && !prompt.text.is_empty() {
            let what = format!("include_prompt false (leaving the prompt {:?} out of the pooling)", prompt.text);
            return Err(SpecError::unsupported(&self.directory.join("modules.json"), what));
        }
        Ok(prompt)
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

/// What sentence-transformers makes of a directory without `modules.json`.
fn steps_of_plain_directory(
    directory: &Path,
    config: &Map<String, Value>,
    notes: &mut Vec<String>,
) -> Result<Steps, SpecError> {
    let path = directory.join("config.json");
    if let Some(class) = files::other_purpose(config) {
        return Err(SpecError::unsupported(&path, format!("the architecture {class} without a modules.json")));
    }
    let colbert = directory.join("artifact.metadata");
    if colbert.exists() {
        return Err(SpecError::unsupported(&colbert, "a ColBERT model"));
    }
    notes.push(format!(
        "{} has no modules.json: vectors are the mean over the tokens and are not normalised, as in sentence-transformers",
        directory.display()
    ));
    let pooling = PoolingStep { path, mode: Pooling::Mean, include_prompt: true, dimension: None };
    Ok(Steps { transformer: directory.to_owned(), pooling, normalize: false })
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

fn prompts(library: &LibraryConfig, directory: &Path) -> Result<(BTreeMap<String, String>, Option<String>), SpecError> {
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
        Some(name) if !prompts.contains_key(&name) => Err(SpecError::invalid(
            &directory.join("config_sentence_transformers.json"),
            format!("default_prompt_name {name:?} is not one of its prompts"),
        )),
        default => Ok((prompts, default)),
    }
}
