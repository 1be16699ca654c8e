//! The first module of a model: a transformer or a table of vectors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::architecture::Architecture;
use super::error::SpecError;
use super::files::{self, SentenceConfig, TransformerConfig};
use super::modules::PoolingStep;
use super::{ModelSpec, tokenizer, weight_files};
use crate::domain::VectorKind;
use crate::model::pooling::Pooling;
use crate::model::tokenizer_files::TokenizerFiles;
use crate::model::weights::{WeightError, Weights};

/// What every first module has.
struct FirstModule {
    architecture: Architecture,
    hidden_size: usize,
    pooling: Vec<Pooling>,
    max_length: usize,
    tokenizer: TokenizerFiles,
    weights: Vec<PathBuf>,
}

impl FirstModule {
    /// A model of this module and nothing else.
    fn alone(self, directory: &Path) -> ModelSpec {
        let Self { architecture, hidden_size, pooling, max_length, tokenizer, weights } = self;
        ModelSpec {
            directory: directory.to_owned(),
            architecture,
            config: Map::new(),
            hidden_size,
            dimension: hidden_size * pooling.len(),
            pooling,
            after_pooling: Vec::new(),
            normalize: false,
            truncate_dim: None,
            sparse: None,
            multi: None,
            default_kind: VectorKind::Dense,
            max_length,
            positions: None,
            include_prompt: true,
            prompts: BTreeMap::new(),
            default_prompt_name: None,
            similarity: None,
            tokenizer,
            special_tokens: false,
            weights,
            route: None,
            notes: Vec::new(),
        }
    }
}

/// A directory that begins with a transformer: all but what comes after pooling, and the prompts.
pub(super) fn with_transformer(
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
    let tokenizer = tokenizer::find(transformer, sentence.case, config.architecture)?;
    let max_length = max_length(sentence, &config, transformer, &mut notes)?;
    notes.extend(tokenizer.notes.iter().cloned());
    let first = FirstModule {
        architecture: config.architecture,
        hidden_size: config.hidden_size,
        pooling: pooling.modes.clone(),
        max_length,
        tokenizer,
        weights: weight_files::find(transformer)?,
    };
    Ok(ModelSpec {
        positions: config.rows,
        include_prompt: pooling.include_prompt,
        special_tokens: true,
        config: config.raw,
        notes,
        ..first.alone(transformer)
    })
}

/// A directory that begins with a table of vectors. Its sizes stand in no file but that of the weights.
pub(super) fn with_table(directory: &Path) -> Result<ModelSpec, SpecError> {
    let weights = weight_files::find(directory)?;
    let width = table_width(&weights).map_err(|source| SpecError::Weights { source: Box::new(source) })?;
    let tokenizer = TokenizerFiles::as_it_is(&directory.join("tokenizer.json"))?;
    let mut notes = Vec::new();
    let max_length = tokenizer::own_limit(&tokenizer.path)?.unwrap_or_else(|| {
        notes.push(format!(
            "a table of vectors sees texts of any length; {} is cut at {LENGTH_WITHOUT_LIMIT} tokens",
            directory.display()
        ));
        LENGTH_WITHOUT_LIMIT
    });
    let (architecture, pooling) = (Architecture::Static, vec![Pooling::Mean]);
    let first = FirstModule { architecture, hidden_size: width, pooling, max_length, tokenizer, weights };
    Ok(ModelSpec { notes, ..first.alone(directory) })
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

/// The number of tokens that a `config.json` tells of; 0 where it does not, which no tensor has.
pub(super) fn vocabulary(config: &Map<String, Value>) -> usize {
    let size = config.get("vocab_size").and_then(Value::as_u64).unwrap_or(30_522);
    usize::try_from(size).unwrap_or(usize::MAX)
}
