//! What a model gives besides one vector of a text, or in its place: weights of a vocabulary, vectors of tokens.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::after::{AfterPooling, Dense, DenseActivation};
use super::error::SpecError;
use super::files::read_json;
pub use crate::model::pooling::{SpladeActivation, SpladePooling, SpladeStrategy};
use crate::model::tokenizer_files::{InputCase, TokenizerFiles, Vocabulary};
use crate::model::weights::Weights;

/// How a sparse vector comes about.
#[derive(Debug, Clone, PartialEq)]
pub enum SparseHead {
    /// SPLADE: the head of a masked language model gives every token's weights of the whole vocabulary.
    MaskedLm {
        /// How they become those of the text.
        pooling: SpladePooling,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// bge-m3: a linear layer gives each token one weight, and the largest of equal tokens counts.
    TokenWeights {
        /// Its file: `weight` of [1, hidden] and `bias` of `[1]`.
        weights: PathBuf,
        /// Tokens that have none.
        dropped: Vec<u32>,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
}

impl SparseHead {
    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::MaskedLm { vocabulary, .. } | Self::TokenWeights { vocabulary, .. } => *vocabulary,
        }
    }
}

/// How the vectors of tokens come about.
#[derive(Debug, Clone, PartialEq)]
pub struct MultiHead {
    /// What happens to each token's hidden state. A [`Dense`] without weight files has its tensors in the transformer's.
    pub steps: Vec<AfterPooling>,
    /// Length of a vector.
    pub dimension: usize,
    /// How many leading tokens have none.
    pub left_out: usize,
    /// Tokens that have none in documents: punctuation.
    pub skipped: Vec<u32>,
    /// Whether they have none in queries either.
    pub skips_in_queries: bool,
    /// Prompts that are one token each, whatever the tokenizer makes of their characters.
    pub markers: Vec<String>,
    /// Longest document in tokens, if the model says.
    pub document_length: Option<usize>,
    /// Longest query in tokens, if the model says.
    pub query_length: Option<usize>,
    /// What fills queries up.
    pub expansion: Option<Expansion>,
}

/// Queries are made as long as this: each filling token brings a vector of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expansion {
    /// The token, as a rule `[MASK]`.
    pub token: u32,
    /// Tokens of every query, or of every short one.
    pub length: usize,
    /// Whether longer queries are cut to that.
    pub cuts: bool,
    /// Whether other tokens see it.
    pub seen: bool,
}

/// What a text is to a model that treats queries and documents differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TextRole {
    /// What is searched.
    #[default]
    Document,
    /// What is searched for.
    Query,
}

/// Reads the file of a `SpladePooling` module.
pub(super) fn splade_pooling(directory: &Path) -> Result<SpladePooling, SpecError> {
    let path = directory.join("config.json");
    let config = read_json::<Map<String, Value>>(&path)?.unwrap_or_default();
    let text = |key: &str, default: &'static str| match config.get(key) {
        None => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(SpecError::invalid(&path, format!("{key} {other} is no name"))),
    };
    let strategy = match text("pooling_strategy", "max")?.as_str() {
        "max" => SpladeStrategy::Max,
        "sum" => SpladeStrategy::Sum,
        other => return Err(SpecError::unsupported(&path, format!("the pooling_strategy {other:?}"))),
    };
    let activation = match text("activation_function", "relu")?.as_str() {
        "relu" => SpladeActivation::Relu,
        "log1p_relu" => SpladeActivation::Log1pRelu,
        other => return Err(SpecError::unsupported(&path, format!("the activation_function {other:?}"))),
    };
    Ok(SpladePooling { strategy, activation })
}

/// The heads of bge-m3, where their files are there.
pub(super) fn of_bge_m3(
    directory: &Path,
    hidden_size: usize,
    vocabulary: usize,
) -> Result<(Option<SparseHead>, Option<MultiHead>), SpecError> {
    let sparse_path = directory.join("sparse_linear.pt");
    let sparse = if sparse_path.is_file() {
        let tokens = Vocabulary::of(&TokenizerFiles::read(directory, InputCase::AsIs)?)?;
        refuse_other_width(&sparse_path, shape(&sparse_path, "weight")?, hidden_size, Some(1))?;
        let dropped = ["cls_token", "eos_token", "pad_token", "unk_token"];
        let dropped: Vec<u32> = dropped.into_iter().filter_map(|name| tokens.special(name)).collect();
        if tokens.special("cls_token").is_none() && tokens.special("eos_token").is_none() {
            let what =
                "it names neither cls_token nor eos_token, and the tokens around a text must get no weight; add them";
            return Err(SpecError::invalid(&directory.join("tokenizer_config.json"), what));
        }
        Some(SparseHead::TokenWeights { weights: sparse_path, dropped, vocabulary })
    } else {
        None
    };
    let multi_path = directory.join("colbert_linear.pt");
    let multi = if multi_path.is_file() {
        let (inputs, outputs) = shape(&multi_path, "weight")?;
        refuse_other_width(&multi_path, (inputs, outputs), hidden_size, None)?;
        let dense = Dense {
            directory: directory.to_owned(),
            weights: vec![multi_path],
            inputs,
            outputs,
            bias: true,
            activation: DenseActivation::Identity,
            residual: false,
        };
        Some(MultiHead {
            steps: vec![AfterPooling::Dense(dense), AfterPooling::Normalize],
            dimension: outputs,
            left_out: 1,
            skipped: Vec::new(),
            skips_in_queries: false,
            markers: Vec::new(),
            document_length: None,
            query_length: None,
            expansion: None,
        })
    } else {
        None
    };
    Ok((sparse, multi))
}

/// Refuses a layer that does not take what the transformer gives, or does not give as many numbers as it must.
fn refuse_other_width(
    path: &Path,
    (inputs, outputs): (usize, usize),
    hidden_size: usize,
    expected: Option<usize>,
) -> Result<(), SpecError> {
    if inputs != hidden_size {
        let what = format!("its weight takes vectors of {inputs}, but hidden_size in config.json is {hidden_size}");
        return Err(SpecError::invalid(path, what));
    }
    match expected.filter(|expected| *expected != outputs) {
        Some(expected) => {
            Err(SpecError::invalid(path, format!("its weight gives {outputs} numbers instead of {expected}")))
        }
        None => Ok(()),
    }
}

/// Inputs and outputs of a linear layer, which no configuration tells.
pub(super) fn shape(path: &Path, tensor: &str) -> Result<(usize, usize), SpecError> {
    let wrong = |source| SpecError::Weights { source: Box::new(source) };
    let weights = Weights::open(&[path.to_owned()]).map_err(wrong)?;
    let weight = weights.tensor(tensor).map_err(wrong)?;
    match weight.shape[..] {
        [outputs, inputs] if outputs > 0 && inputs > 0 => Ok((inputs, outputs)),
        _ => Err(weight.expect_shape(&[0, 0]).err().map_or_else(|| SpecError::invalid(path, "it is empty"), wrong)),
    }
}
