//! `ColBERT`: where its three layouts say what becomes of queries and documents.
//!
//! `PyLate` writes it into `config_sentence_transformers.json`, the original repository into `artifact.metadata`,
//! sentence-transformers since version 6 into the files of the modules. They are read as sentence-transformers'
//! `MultiVectorEncoder` reads them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::after::{AfterPooling, Dense, DenseActivation};
use super::error::SpecError;
use super::files::{LibraryConfig, SentenceConfig, is_empty, read_json};
use super::heads::{Expansion, MultiHead, shape};
use crate::model::tokenizer_files::{TokenizerFiles, Vocabulary};

/// Tokens of a query where nothing is said, as in the paper (Khattab and Zaharia 2020, section 3.2).
const QUERY_LENGTH: usize = 32;

/// All that C calls punctuation.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// How queries are filled up, before the token is known by its number.
struct Filling {
    token: Option<String>,
    length: usize,
    seen: bool,
}

/// A head and the prompts that go with it.
pub(super) type WithPrompts = (MultiHead, BTreeMap<String, String>);

/// The layout of `PyLate`, up to its third version.
pub(super) fn pylate(
    directory: &Path,
    steps: Vec<AfterPooling>,
    hidden_size: usize,
    library: &LibraryConfig,
    mut prompts: BTreeMap<String, String>,
) -> Result<WithPrompts, SpecError> {
    let mut markers = Vec::new();
    for (name, prefix) in [("query", &library.query_prefix), ("document", &library.document_prefix)] {
        if let Some(prefix) = prefix {
            let prompt = prompts.remove(name).unwrap_or_default();
            let rest = prompt.strip_prefix(prefix.as_str()).unwrap_or(&prompt);
            prompts.insert(name.to_owned(), format!("{prefix}{rest}"));
            markers.push(prefix.clone());
        }
    }
    let filling = (library.do_query_expansion != Some(false)).then(|| Filling {
        token: None,
        length: library.query_length.unwrap_or(QUERY_LENGTH),
        seen: library.attend_to_expansion_tokens.or(library.attend_to_mask_tokens).unwrap_or_default(),
    });
    let words = library.skiplist_words.clone().unwrap_or_else(punctuation);
    let query_length = library.query_length.filter(|_| filling.is_none());
    let mut steps = steps;
    steps.push(AfterPooling::Normalize);
    let lengths = (library.document_length, query_length);
    let head = head(directory, steps, hidden_size, markers, &words, lengths, filling)?;
    Ok((head, prompts))
}

/// `artifact.metadata`. Unknown keys say how the model was trained or indexed.
#[derive(Default, Deserialize)]
struct Artifact {
    query_token_id: Option<String>,
    doc_token_id: Option<String>,
    doc_maxlen: Option<usize>,
    query_maxlen: Option<usize>,
    mask_punctuation: Option<bool>,
    attend_to_mask_tokens: Option<bool>,
    similarity: Option<String>,
}

/// The layout of the original repository: one linear layer among the transformer's weights.
pub(super) fn stanford(directory: &Path, weights: &[std::path::PathBuf]) -> Result<WithPrompts, SpecError> {
    let path = directory.join("artifact.metadata");
    let artifact = read_json::<Artifact>(&path)?.unwrap_or_default();
    if let Some(other) = artifact.similarity.as_deref().filter(|similarity| *similarity != "cosine") {
        return Err(SpecError::unsupported(&path, format!("the similarity {other:?}")));
    }
    let marker = |token: Option<String>, default: &str| format!("{} ", token.unwrap_or_else(|| default.to_owned()));
    let query = marker(artifact.query_token_id, "[unused0]");
    let document = marker(artifact.doc_token_id, "[unused1]");
    let file = weights.iter().find_map(|path| shape(path, "linear.weight").ok());
    let (inputs, outputs) = file.ok_or_else(|| SpecError::Missing {
        path: weights.first().cloned().unwrap_or_default(),
        what: "a ColBERT model has a tensor linear.weight, and none of its files does",
    })?;
    let dense = Dense {
        directory: directory.to_owned(),
        weights: Vec::new(),
        inputs,
        outputs,
        bias: false,
        activation: DenseActivation::Identity,
        residual: false,
    };
    let words = if artifact.mask_punctuation == Some(false) { Vec::new() } else { punctuation() };
    let filling = Filling {
        token: None,
        length: artifact.query_maxlen.unwrap_or(QUERY_LENGTH),
        seen: artifact.attend_to_mask_tokens.unwrap_or_default(),
    };
    let steps = vec![AfterPooling::Dense(dense), AfterPooling::Normalize];
    let markers = vec![query.clone(), document.clone()];
    let head = head(directory, steps, inputs, markers, &words, (artifact.doc_maxlen, None), Some(filling))?;
    Ok((head, BTreeMap::from([("query".to_owned(), query), ("document".to_owned(), document)])))
}

/// The layout of sentence-transformers since version 6; `mask` is the directory of its `MultiVectorMask`.
pub(super) fn native(
    directory: &Path,
    steps: Vec<AfterPooling>,
    hidden_size: usize,
    sentence: &SentenceConfig,
    mask: &Path,
) -> Result<MultiHead, SpecError> {
    let path = mask.join("config.json");
    let config = read_json::<Map<String, Value>>(&path)?.unwrap_or_default();
    let words: Vec<String> = match config.get("skiplist_words") {
        None | Some(Value::Null) => Vec::new(),
        Some(words) => serde_json::from_value(words.clone())
            .map_err(|_| SpecError::invalid(&path, "skiplist_words is no list of words"))?,
    };
    if let Some(ids) = config.get("keep_only_token_ids").filter(|ids| !is_empty(ids)) {
        return Err(SpecError::unsupported(&path, format!("keep_only_token_ids {ids}")));
    }
    let documents = serde_json::json!(["document"]);
    if let Some(tasks) = config.get("skiplist_tasks").filter(|tasks| **tasks != documents && **tasks != "document") {
        return Err(SpecError::unsupported(&path, format!("skiplist_tasks {tasks}")));
    }
    let filling = sentence.query_expansion.as_ref().map(|value| filling(value, directory)).transpose()?;
    let lengths = (sentence.document_length, sentence.query_length.filter(|_| filling.is_none()));
    head(directory, steps, hidden_size, Vec::new(), &words, lengths, filling)
}

/// `query_expansion` of sentence-transformers.
fn filling(value: &Value, directory: &Path) -> Result<Filling, SpecError> {
    let path = directory.join("sentence_bert_config.json");
    if value["strategy"] != "fixed" {
        return Err(SpecError::unsupported(&path, format!("query_expansion {value}")));
    }
    let length = value["length"].as_u64().and_then(|length| usize::try_from(length).ok()).filter(|length| *length > 0);
    let length = length.ok_or_else(|| SpecError::invalid(&path, format!("query_expansion {value} has no length")))?;
    Ok(Filling { token: value["token"].as_str().map(str::to_owned), length, seen: value["attend"] == true })
}

fn punctuation() -> Vec<String> {
    PUNCTUATION.chars().map(String::from).collect()
}

fn head(
    directory: &Path,
    steps: Vec<AfterPooling>,
    hidden_size: usize,
    markers: Vec<String>,
    words: &[String],
    (document_length, query_length): (Option<usize>, Option<usize>),
    filling: Option<Filling>,
) -> Result<MultiHead, SpecError> {
    let tokens = Vocabulary::of(&TokenizerFiles::read(directory, false)?)?;
    let unknown = tokens.special("unk_token");
    // A word that is no token is no reason to drop all that are unknown.
    let skipped = words.iter().filter_map(|word| tokens.id(word)).filter(|id| Some(*id) != unknown).collect();
    let expansion = |Filling { token, length, seen }: Filling| {
        let id = match &token {
            Some(token) => tokens.id(token),
            None => tokens.special("mask_token"),
        };
        let no_token = || {
            let what = "queries are filled up with a token that the tokenizer does not have";
            SpecError::invalid(&directory.join("tokenizer_config.json"), what)
        };
        id.map(|token| Expansion { token, length, seen }).ok_or_else(no_token)
    };
    Ok(MultiHead {
        dimension: super::width_after(&steps, hidden_size)?,
        steps,
        left_out: 0,
        skipped,
        markers,
        document_length,
        query_length,
        expansion: filling.map(expansion).transpose()?,
    })
}
