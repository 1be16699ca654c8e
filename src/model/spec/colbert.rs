//! `ColBERT`: where its three layouts say what becomes of queries and documents.
//!
//! `PyLate` writes it into `config_sentence_transformers.json`, the original repository into `artifact.metadata`,
//! sentence-transformers since version 6 into the files of the modules. They are read as sentence-transformers'
//! `MultiVectorEncoder` reads them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::after::{AfterPooling, Dense, DenseActivation, width_after};
use super::error::SpecError;
use super::files::{LibraryConfig, SentenceConfig, is_empty, present, read_json, tokens};
use super::heads::{Expansion, MultiHead, shape};
use crate::model::tokenizer_files::{InputCase, TokenizerFiles, Vocabulary};

/// Tokens of a query where nothing is said, as in the paper (Khattab and Zaharia 2020, section 3.2).
const QUERY_LENGTH: usize = 32;

/// All that C calls punctuation.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// How queries are filled up, before the token is known by its number.
struct Filling {
    token: Option<String>,
    length: usize,
    /// Whether longer queries are cut.
    cuts: bool,
    seen: bool,
}

/// What is said of the lengths of texts.
struct Lengths {
    document: Option<usize>,
    query: Option<usize>,
    filling: Option<Filling>,
}

/// Which tokens have no vector.
struct Skipped {
    words: Vec<String>,
    in_queries: bool,
}

/// A head and the prompts that go with it.
pub(super) type WithPrompts = (MultiHead, BTreeMap<String, String>);

/// The layout of `PyLate`, up to its third version. The transformer's own file goes before `library`, which is at `path`.
pub(super) fn pylate(
    directory: &Path,
    steps: Vec<AfterPooling>,
    hidden_size: usize,
    sentence: &SentenceConfig,
    (library, path): (&LibraryConfig, &Path),
    mut prompts: BTreeMap<String, String>,
) -> Result<WithPrompts, SpecError> {
    let mut markers = Vec::new();
    for (name, prefix) in [("query", &library.query_prefix), ("document", &library.document_prefix)] {
        let prefix = match prefix {
            None => continue,
            Some(Value::Null) => "",
            Some(Value::String(prefix)) => prefix,
            Some(other) => return Err(SpecError::invalid(path, format!("{name}_prefix {other} is no text"))),
        };
        let prompt = prompts.remove(name).unwrap_or_default();
        let rest = prompt.strip_prefix(prefix).unwrap_or(&prompt);
        prompts.insert(name.to_owned(), format!("{prefix}{rest}"));
        markers.extend((!prefix.is_empty()).then(|| prefix.to_owned()));
    }
    let number = |key: &str, value: Option<&Value>| match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => tokens(value, key, path).map(Some),
    };
    let query_length = number("query_length", library.query_length.as_ref())?;
    let of_library = match &library.query_expansion {
        Some(Value::Null) => None,
        Some(value) => Some(filling(value, path)?),
        None if !library.is_of_pylate() || library.do_query_expansion == Some(Value::Bool(false)) => None,
        None => {
            // One that is null is set, and the other does not count.
            let attend = library.attend_to_expansion_tokens.as_ref().or(library.attend_to_mask_tokens.as_ref());
            Some(Filling {
                token: None,
                length: query_length.unwrap_or(QUERY_LENGTH),
                cuts: true,
                seen: attend.is_some_and(|attend| !is_empty(attend) && *attend != 0),
            })
        }
    };
    // Where the length is that of filled queries, it is no other.
    let is_of_filling = of_library.is_some() && library.query_expansion.is_none();
    let own = own_lengths(sentence, directory)?;
    let lengths = Lengths {
        document: if sentence.has("document_length") {
            own.document
        } else {
            number("document_length", library.document_length.as_ref())?
        },
        query: if sentence.has("query_length") { own.query } else { query_length.filter(|_| !is_of_filling) },
        filling: if sentence.has("query_expansion") { own.filling } else { of_library },
    };
    let words = match &library.skiplist_words {
        None | Some(Value::Null) => punctuation(),
        Some(words) => words_of(words, path)?,
    };
    let mut steps = steps;
    steps.push(AfterPooling::Normalize);
    let skipped = Skipped { words, in_queries: false };
    let head = head(directory, steps, hidden_size, markers, &skipped, lengths)?;
    Ok((head, prompts))
}

/// `artifact.metadata`. Unknown keys say how the model was trained or indexed.
#[derive(Default, Deserialize)]
struct Artifact {
    query_token_id: Option<String>,
    doc_token_id: Option<String>,
    doc_maxlen: Option<usize>,
    query_maxlen: Option<usize>,
    #[serde(default, deserialize_with = "present")]
    mask_punctuation: Option<Value>,
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
    // Null is set, and is not true.
    let masks = artifact.mask_punctuation.is_none_or(|mask| !is_empty(&mask) && mask != 0);
    let skipped = Skipped { words: if masks { punctuation() } else { Vec::new() }, in_queries: false };
    let filling = Filling {
        token: None,
        length: artifact.query_maxlen.filter(|length| *length > 0).unwrap_or(QUERY_LENGTH),
        cuts: true,
        seen: artifact.attend_to_mask_tokens.unwrap_or_default(),
    };
    let steps = vec![AfterPooling::Dense(dense), AfterPooling::Normalize];
    let markers = vec![query.clone(), document.clone()];
    let lengths = Lengths { document: artifact.doc_maxlen, query: None, filling: Some(filling) };
    let head = head(directory, steps, inputs, markers, &skipped, lengths)?;
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
    let words = match config.get("skiplist_words") {
        None | Some(Value::Null) => Vec::new(),
        Some(words) => words_of(words, &path)?,
    };
    if let Some(ids) = config.get("keep_only_token_ids").filter(|ids| !is_empty(ids)) {
        return Err(SpecError::unsupported(&path, format!("keep_only_token_ids {ids}")));
    }
    let tasks = match config.get("skiplist_tasks") {
        None | Some(Value::Null) => vec!["document"],
        Some(Value::Array(tasks)) => tasks.iter().map(|task| task.as_str().unwrap_or_default()).collect(),
        Some(task) => vec![task.as_str().unwrap_or_default()],
    };
    if !tasks.contains(&"document") && !words.is_empty() {
        return Err(SpecError::unsupported(&path, format!("skiplist_tasks {tasks:?}")));
    }
    let skipped = Skipped { words, in_queries: tasks.contains(&"query") };
    head(directory, steps, hidden_size, Vec::new(), &skipped, own_lengths(sentence, directory)?)
}

/// What the transformer's own file says.
fn own_lengths(sentence: &SentenceConfig, directory: &Path) -> Result<Lengths, SpecError> {
    let path = directory.join("sentence_bert_config.json");
    Ok(Lengths {
        document: sentence.document_length,
        query: sentence.query_length,
        filling: sentence.query_expansion.as_ref().map(|value| filling(value, &path)).transpose()?,
    })
}

/// `query_expansion` of sentence-transformers.
fn filling(value: &Value, path: &Path) -> Result<Filling, SpecError> {
    let cuts = match value["strategy"].as_str() {
        Some("fixed") => true,
        Some("min") => false,
        _ => return Err(SpecError::unsupported(path, format!("query_expansion {value}"))),
    };
    let length = value["length"].as_u64().and_then(|length| usize::try_from(length).ok()).filter(|length| *length > 0);
    let length = length.ok_or_else(|| SpecError::invalid(path, format!("query_expansion {value} has no length")))?;
    Ok(Filling { token: value["token"].as_str().map(str::to_owned), length, cuts, seen: value["attend"] == true })
}

fn words_of(value: &Value, path: &Path) -> Result<Vec<String>, SpecError> {
    serde_json::from_value(value.clone()).map_err(|_| SpecError::invalid(path, "skiplist_words is no list of words"))
}

fn punctuation() -> Vec<String> {
    PUNCTUATION.chars().map(String::from).collect()
}

fn head(
    directory: &Path,
    steps: Vec<AfterPooling>,
    hidden_size: usize,
    markers: Vec<String>,
    skipped: &Skipped,
    lengths: Lengths,
) -> Result<MultiHead, SpecError> {
    let Lengths { document, query, filling } = lengths;
    let vocabulary = Vocabulary::of(&TokenizerFiles::read(directory, InputCase::AsIs)?)?;
    // A word that is no token is none that is unknown.
    let skipped_ids = skipped.words.iter().filter_map(|word| vocabulary.id(word)).collect();
    if let (Some(query), Some(Filling { length, .. })) = (query, &filling)
        && query < *length
    {
        let what = format!("query_length {query} is less than the {length} tokens that queries are filled up to");
        return Err(SpecError::invalid(&directory.join("sentence_bert_config.json"), what));
    }
    let expansion = |Filling { token, length, cuts, seen }: Filling| {
        let id = match &token {
            Some(token) => vocabulary.id(token),
            None => vocabulary.special("mask_token"),
        };
        let no_token = || {
            let what = "queries are filled up with a token that the tokenizer does not have";
            SpecError::invalid(&directory.join("tokenizer_config.json"), what)
        };
        id.map(|token| Expansion { token, length, cuts, seen }).ok_or_else(no_token)
    };
    Ok(MultiHead {
        dimension: width_after(&steps, hidden_size)?,
        steps,
        left_out: 0,
        skipped: skipped_ids,
        skips_in_queries: skipped.in_queries,
        markers,
        document_length: document,
        query_length: query,
        expansion: filling.map(expansion).transpose()?,
    })
}
