//! The JSON files of a model's directory, as they are written.
//!
//! One function a file: it reads, and refuses what nobody implements. Keys that do not change a vector are passed over.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::architecture::{Architecture, PositionTable};
use super::error::SpecError;
use crate::model::tokenizer_files::InputCase;
use crate::model::{pointer, serde_key};

/// `config.json` of the transformer; the architecture reads the rest of it from [`TransformerConfig::raw`].
pub(super) struct TransformerConfig {
    pub(super) raw: Map<String, Value>,
    pub(super) architecture: Architecture,
    /// Width of a token vector.
    pub(super) hidden_size: usize,
    /// The length that the model was made for, in the file's own words.
    pub(super) positions: Option<usize>,
    /// The length that it can take at all, where there is a row for every position.
    pub(super) rows: Option<usize>,
}

pub(super) fn transformer_config(path: &Path) -> Result<TransformerConfig, SpecError> {
    let Some(raw) = read_json::<Map<String, Value>>(path)? else {
        return Err(SpecError::Missing {
            path: path.to_owned(),
            what: "every model has one; is this a model's directory?",
        });
    };
    let architecture = Architecture::of(&raw, path)?;
    for key in ["is_decoder", "add_cross_attention", "is_encoder_decoder", "quantization_config", "pruned_heads"] {
        // Of T5, only the encoder is used.
        if key == "is_encoder_decoder" && architecture == Architecture::T5 {
            continue;
        }
        if let Some(value) = raw.get(key).filter(|value| !is_empty(value)) {
            return Err(SpecError::unsupported(path, format!("{key} {value}")));
        }
    }
    let (keys, default) = architecture.hidden_size();
    let hidden_size = positive(&raw, keys, default, path)?;
    if let Some(other) = keys.iter().find(|key| raw.get(**key).is_some_and(|value| *value != hidden_size)) {
        return Err(SpecError::invalid(path, format!("{} and {other} are not equal", keys[0])));
    }
    let positions = architecture.positions().map(|(keys, default)| positive(&raw, keys, default, path)).transpose()?;
    let rows = match architecture.position_table(&raw) {
        PositionTable::None => None,
        PositionTable::FromZero => positions,
        PositionTable::AfterPadding => {
            let padding = match architecture {
                // Of MPNet, that is not read.
                Architecture::Mpnet => Some(1),
                _ => raw.get("pad_token_id").map_or(Some(1), Value::as_u64),
            };
            let first = padding.and_then(|padding| usize::try_from(padding).ok()?.checked_add(1));
            let rows = positions.zip(first).and_then(|(rows, first)| rows.checked_sub(first));
            let rows = rows.filter(|rows| *rows > 0).ok_or_else(|| {
                let what = "pad_token_id leaves none of its max_position_embeddings";
                SpecError::invalid(path, what)
            })?;
            Some(rows)
        }
    };
    Ok(TransformerConfig { raw, architecture, hidden_size, positions, rows })
}

/// The class that the weights were saved from, where that says that a plain mean over the tokens is not what the
/// model is for: a text generator, a scorer of pairs, one vector a token.
pub(super) fn other_purpose(config: &Map<String, Value>) -> Option<&str> {
    let class = config.get("architectures")?.get(0)?.as_str()?;
    let plain = class.ends_with("Model") && !class.ends_with("LMHeadModel");
    (!plain && !class.ends_with("ForMaskedLM") && !class.ends_with("ForPreTraining")).then_some(class)
}

/// Whether a class that the weights were saved from is one of some.
pub(super) fn has_class(config: &Map<String, Value>, is_one: impl Fn(&str) -> bool) -> bool {
    let classes = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
    classes.filter_map(Value::as_str).any(is_one)
}

/// One entry of `modules.json`.
#[derive(Deserialize)]
pub(super) struct Module {
    pub(super) path: String,
    #[serde(rename = "type")]
    pub(super) class: String,
}

/// What `sentence_bert_config.json` says of the transformer.
#[derive(Default)]
pub(super) struct SentenceConfig {
    pub(super) max_seq_length: Option<u64>,
    pub(super) case: InputCase,
    /// Of these three, only a model that gives vectors of tokens may have one.
    pub(super) document_length: Option<usize>,
    pub(super) query_length: Option<usize>,
    pub(super) query_expansion: Option<Value>,
    /// Those of the three that the file has at all, be it as null.
    pub(super) set: Vec<&'static str>,
}

impl SentenceConfig {
    /// Whether the file has one of the keys of a model that gives vectors of tokens.
    pub(super) fn has(&self, key: &str) -> bool {
        self.set.contains(&key)
    }
}

/// What a model that gives vectors of tokens may say of its texts, in this file or, of `PyLate`, in another.
const OF_TOKENS: [&str; 3] = ["document_length", "query_length", "query_expansion"];

/// What a transformer is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Token vectors that become one.
    Vectors,
    /// Logits over the vocabulary.
    FillMask,
    /// Token vectors that stay.
    Tokens,
}

/// Names under which sentence-transformers looks for the file, in its order.
const SENTENCE_CONFIG_NAMES: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

pub(super) fn sentence_config(directory: &Path, task: Task) -> Result<SentenceConfig, SpecError> {
    for name in SENTENCE_CONFIG_NAMES {
        let path = directory.join(name);
        if let Some(raw) = read_json::<Map<String, Value>>(&path)?.filter(|raw| !raw.is_empty()) {
            return parse_sentence_config(&raw, task, &path);
        }
    }
    Ok(SentenceConfig::default())
}

fn parse_sentence_config(raw: &Map<String, Value>, task: Task, path: &Path) -> Result<SentenceConfig, SpecError> {
    let (task_name, output) = match task {
        Task::FillMask => ("fill-mask", "logits"),
        Task::Vectors | Task::Tokens => ("feature-extraction", "last_hidden_state"),
    };
    let set = OF_TOKENS.into_iter().filter(|key| raw.contains_key(*key)).collect();
    let mut config = SentenceConfig { set, ..SentenceConfig::default() };
    let mut tokenizer_length = None;
    for (key, value) in raw {
        match key.as_str() {
            _ if is_empty(value) => {}
            "max_seq_length" => config.max_seq_length = Some(length(value, key, path)?),
            "do_lower_case" => config.case = InputCase::Lower,
            // Settings of the reference library's own machinery, at the values that ask for nothing.
            "unpad_inputs" => {}
            "transformer_task" if value == task_name => {}
            "module_output_name" if value == "token_embeddings" => {}
            "modality_config" if is_plain_text_modality(value, output) => {}
            "document_length" if task == Task::Tokens => config.document_length = Some(tokens(value, key, path)?),
            "query_length" if task == Task::Tokens => config.query_length = Some(tokens(value, key, path)?),
            "query_expansion" if task == Task::Tokens => config.query_expansion = Some(value.clone()),
            "tokenizer_args" | "processor_kwargs" => tokenizer_length = tokenizer_settings(value, key, path)?,
            "model_args" | "model_kwargs" => model_settings(value, key, path)?,
            "config_args" | "config_kwargs" => config_settings(value, key, path)?,
            _ => return Err(SpecError::unsupported(path, format!("{key} {value}"))),
        }
    }
    // There, the tokenizer's own setting is not replaced by max_seq_length.
    config.max_seq_length = tokenizer_length.or(config.max_seq_length);
    Ok(config)
}

fn tokenizer_settings(value: &Value, key: &str, path: &Path) -> Result<Option<u64>, SpecError> {
    let Some(settings) = value.as_object() else {
        return Err(SpecError::invalid(path, format!("{key} is not an object")));
    };
    let mut limit = None;
    for (name, setting) in settings {
        match name.as_str() {
            "trust_remote_code" | "use_fast" | "padding_side" => {}
            "truncation_side" if setting == "right" => {}
            "model_max_length" => limit = Some(length(setting, name, path)?),
            _ => return Err(SpecError::unsupported(path, format!("{key}.{name} {setting}"))),
        }
    }
    Ok(limit)
}

/// How the reference library is to load and run the layers.
fn model_settings(value: &Value, key: &str, path: &Path) -> Result<(), SpecError> {
    let Some(settings) = value.as_object() else {
        return Err(SpecError::invalid(path, format!("{key} is not an object")));
    };
    for (name, setting) in settings {
        match name.as_str() {
            // By which kernels, with how much memory, and what nothing is made of: the numbers are the same.
            "trust_remote_code"
            | "attn_implementation"
            | "low_cpu_mem_usage"
            | "device_map"
            | "use_safetensors"
            | "add_pooling_layer" => {}
            // That of the computation is a setting of the run; the weights are as they are stored.
            "torch_dtype" | "dtype" if ["float32", "torch.float32", "auto"].iter().any(|dtype| setting == dtype) => {}
            "torch_dtype" | "dtype" => {
                let what =
                    format!("{key}.{name} {setting} (the weights would be rounded; leave it out for those stored)");
                return Err(SpecError::unsupported(path, what));
            }
            _ => return Err(SpecError::unsupported(path, format!("{key}.{name} {setting}"))),
        }
    }
    Ok(())
}

/// What replaces keys of `config.json`: accepted where it says nothing of the layers, or what stands there anyway.
fn config_settings(value: &Value, key: &str, path: &Path) -> Result<(), SpecError> {
    let Some(settings) = value.as_object() else {
        return Err(SpecError::invalid(path, format!("{key} is not an object")));
    };
    let config = read_json::<Map<String, Value>>(&path.with_file_name("config.json"))?.unwrap_or_default();
    for (name, setting) in settings {
        let neutral = ["trust_remote_code", "use_cache", "attn_implementation"].contains(&name.as_str());
        if !neutral && config.get(name) != Some(setting) {
            let what = format!("{key}.{name} {setting} (write it into config.json)");
            return Err(SpecError::unsupported(path, what));
        }
    }
    Ok(())
}

fn is_plain_text_modality(value: &Value, output: &str) -> bool {
    *value == serde_json::json!({"text": {"method": "forward", "method_output_name": output}})
}

/// `config_sentence_transformers.json`.
#[derive(Default, Deserialize)]
pub(super) struct LibraryConfig {
    pub(super) model_type: Option<String>,
    #[serde(default)]
    pub(super) prompts: Option<BTreeMap<String, Option<String>>>,
    pub(super) default_prompt_name: Option<String>,
    /// How many leading components of a vector are kept.
    pub(super) truncate_dim: Option<NonZeroUsize>,
    pub(super) similarity_fn_name: Option<String>,
    /// From here on: what `PyLate` says of a `ColBERT` model.
    #[serde(default, deserialize_with = "present")]
    pub(super) query_prefix: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub(super) document_prefix: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub(super) query_length: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub(super) document_length: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub(super) query_expansion: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub(super) do_query_expansion: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub(super) attend_to_expansion_tokens: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub(super) attend_to_mask_tokens: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub(super) skiplist_words: Option<Value>,
}

/// A value that is there; null is one, and means something else than none.
pub(super) fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl LibraryConfig {
    /// Whether `PyLate` wrote what goes before queries or documents, which it did for `ColBERT` models alone.
    pub(super) fn has_prefixes(&self) -> bool {
        self.query_prefix.is_some() || self.document_prefix.is_some()
    }

    /// Whether there is any of `PyLate`'s keys.
    pub(super) fn is_of_pylate(&self) -> bool {
        let more = [
            &self.query_length,
            &self.document_length,
            &self.query_expansion,
            &self.do_query_expansion,
            &self.attend_to_expansion_tokens,
            &self.attend_to_mask_tokens,
            &self.skiplist_words,
        ];
        self.has_prefixes() || more.into_iter().any(Option::is_some)
    }
}

/// The kinds of models by the names of sentence-transformers' classes.
pub(super) const MODEL_TYPES: [&str; 4] = ["SentenceTransformer", "SparseEncoder", "ColBERT", "MultiVectorEncoder"];

pub(super) fn library_config(path: &Path) -> Result<LibraryConfig, SpecError> {
    let config = read_json::<LibraryConfig>(path)?.unwrap_or_default();
    // There, null is no kind of model at all: modules.json is passed over, and a model made of nothing but config.json.
    if read_json::<Map<String, Value>>(path)?.is_some_and(|raw| raw.get("model_type") == Some(&Value::Null)) {
        let what =
            "model_type null (sentence-transformers passes over modules.json then; leave the key out to have it read)";
        return Err(SpecError::unsupported(path, what));
    }
    match config.model_type.as_deref() {
        Some(other) if !MODEL_TYPES.contains(&other) => {
            Err(SpecError::unsupported(path, format!("a model of the kind {other}")))
        }
        _ => Ok(config),
    }
}

/// `model_max_length` of `tokenizer_config.json`; `None` where there is none, or one so large that it means none.
pub(super) fn tokenizer_max_length(path: &Path) -> Result<Option<u64>, SpecError> {
    let config = read_json::<Map<String, Value>>(path)?.unwrap_or_default();
    match config.get("model_max_length") {
        None | Some(Value::Null) => Ok(None),
        // transformers writes int(1e30) for "no limit".
        Some(value) if value.as_u64().is_none() && value.as_f64().is_some_and(|limit| limit >= 1e18) => Ok(None),
        Some(value) => length(value, "model_max_length", path).map(Some),
    }
}

/// Reads a JSON file; `None` when there is none.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SpecError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SpecError::Read { path: path.to_owned(), source }),
    };
    if pointer::is_one(&bytes) {
        return Err(SpecError::Pointer { path: path.to_owned() });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|source| {
        let path = path.to_owned();
        let object = serde_json::from_slice::<Map<String, Value>>(&bytes).ok();
        match object.and_then(|object| serde_key::find::<T>(&object)) {
            Some(key) => SpecError::Key { path, key, source },
            None => SpecError::Json { path, source },
        }
    })
}

/// Whether a value asks for nothing: null, false, or an empty list, object or text.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn length(value: &Value, key: &str, path: &Path) -> Result<u64, SpecError> {
    // Some files write 512.0.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and within range, as checked")]
    let whole = value.as_f64().filter(|float| float.fract() == 0.0 && (1.0..1e15).contains(float)).map(|it| it as u64);
    whole.ok_or_else(|| SpecError::invalid(path, format!("{key} {value} is not a number of tokens above 0")))
}

pub(super) fn tokens(value: &Value, key: &str, path: &Path) -> Result<usize, SpecError> {
    Ok(usize::try_from(length(value, key, path)?).unwrap_or(usize::MAX))
}

/// The number under the first of some keys that there is.
fn positive(raw: &Map<String, Value>, keys: &[&str], default: usize, path: &Path) -> Result<usize, SpecError> {
    match keys.iter().find_map(|key| Some((key, raw.get(*key)?))) {
        None => Ok(default),
        Some((key, value)) => value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| *number > 0)
            .ok_or_else(|| SpecError::invalid(path, format!("{key} {value} is not a whole number above 0"))),
    }
}
