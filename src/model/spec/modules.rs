//! `modules.json`: what happens to a text, step by step, and the steps' own files.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::Pooling;
use super::error::SpecError;
use super::files::{Module, read_json};

/// The steps of a model.
pub(super) struct Steps {
    /// Directory of the transformer, its tokenizer and its weights.
    pub(super) transformer: PathBuf,
    pub(super) pooling: PoolingStep,
    pub(super) normalize: bool,
}

/// What the pooling step's file says.
pub(super) struct PoolingStep {
    /// The file, for messages.
    pub(super) path: PathBuf,
    pub(super) mode: Pooling,
    /// Whether the prompt's tokens take part.
    pub(super) include_prompt: bool,
    /// Length of the vectors that it expects.
    pub(super) dimension: Option<u64>,
}

/// Reads `modules.json`; `None` when there is none.
pub(super) fn read(directory: &Path) -> Result<Option<Steps>, SpecError> {
    let path = directory.join("modules.json");
    let Some(modules) = read_json::<Vec<Module>>(&path)? else { return Ok(None) };
    let mut modules = modules.iter();

    let first = modules.next().ok_or_else(|| SpecError::invalid(&path, "it lists no module"))?;
    expect_class(first, "Transformer", &path)?;
    let transformer = subdirectory(directory, first, &path)?;

    let Some(second) = modules.next() else {
        return Err(SpecError::unsupported(&path, "a model without a Pooling module"));
    };
    expect_class(second, "Pooling", &path)?;
    let pooling = pooling(&subdirectory(directory, second, &path)?.join("config.json"))?;

    let mut normalize = false;
    for module in modules {
        expect_class(module, "Normalize", &path)?;
        check_normalize(&subdirectory(directory, module, &path)?.join("config.json"))?;
        normalize = true;
    }
    Ok(Some(Steps { transformer, pooling, normalize }))
}

/// The class of a module is the last component of its type; but only the reference library's own classes are known.
fn expect_class(module: &Module, expected: &str, path: &Path) -> Result<(), SpecError> {
    let class = module.class.rsplit('.').next().unwrap_or_default();
    if !module.class.starts_with("sentence_transformers.") || module.class.starts_with("sentence_transformers.sparse") {
        Err(SpecError::unsupported(path, format!("the module type {:?}", module.class)))
    } else if class == expected {
        Ok(())
    } else if ["Transformer", "Pooling", "Normalize"].contains(&class) {
        Err(SpecError::unsupported(path, format!("the module {class} where {expected} is expected")))
    } else {
        Err(SpecError::unsupported(path, format!("the module {class}")))
    }
}

fn subdirectory(directory: &Path, module: &Module, path: &Path) -> Result<PathBuf, SpecError> {
    if Path::new(&module.path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        Ok(directory.join(&module.path))
    } else {
        Err(SpecError::invalid(path, format!("the module path {:?} leaves the directory", module.path)))
    }
}

/// The older keys and the modes that they stand for, in the order in which several modes are joined.
const MODE_KEYS: [(&str, &str); 6] = [
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    ("pooling_mode_weightedmean_tokens", "weightedmean"),
    ("pooling_mode_lasttoken", "lasttoken"),
];

fn pooling(path: &Path) -> Result<PoolingStep, SpecError> {
    let Some(config) = read_json::<Map<String, Value>>(path)? else {
        return Err(SpecError::Missing { path: path.to_owned(), what: "it says how token vectors become one vector" });
    };
    for key in config.keys().filter(|key| key.starts_with("pooling_mode_")) {
        if !MODE_KEYS.iter().any(|(known, _)| known == key) && config[key] != Value::Bool(false) {
            return Err(SpecError::unsupported(path, format!("{key} {}", config[key])));
        }
    }
    let mode = match modes(&config, path)?.as_slice() {
        [mode] if mode == "cls" => Pooling::Cls,
        [mode] if mode == "mean" => Pooling::Mean,
        others => return Err(SpecError::unsupported(path, format!("pooling by {}", others.join(" + ")))),
    };
    let include_prompt = match config.get("include_prompt") {
        None | Some(Value::Bool(true)) => true,
        Some(Value::Bool(false)) => false,
        Some(other) => {
            return Err(SpecError::invalid(path, format!("include_prompt {other} is neither true nor false")));
        }
    };
    let dimension =
        ["embedding_dimension", "word_embedding_dimension"].iter().find_map(|key| config.get(*key)?.as_u64());
    Ok(PoolingStep { path: path.to_owned(), mode, include_prompt, dimension })
}

/// The modes, from the newer key if it is there, else from the older ones; without any, the mean, as in the
/// reference library.
fn modes(config: &Map<String, Value>, path: &Path) -> Result<Vec<String>, SpecError> {
    let invalid = || SpecError::invalid(path, "pooling_mode is neither a name nor a list of names");
    match config.get("pooling_mode") {
        Some(Value::String(mode)) => Ok(vec![mode.clone()]),
        Some(Value::Array(list)) if !list.is_empty() => {
            list.iter().map(|mode| mode.as_str().map(str::to_owned).ok_or_else(invalid)).collect()
        }
        Some(_) => Err(invalid()),
        None => {
            let on = MODE_KEYS.iter().filter(|(key, _)| config.get(*key) == Some(&Value::Bool(true)));
            let modes: Vec<String> = on.map(|(_, mode)| (*mode).to_owned()).collect();
            Ok(if modes.is_empty() { vec!["mean".to_owned()] } else { modes })
        }
    }
}

fn check_normalize(path: &Path) -> Result<(), SpecError> {
    let config = read_json::<Map<String, Value>>(path)?.unwrap_or_default();
    for key in ["module_input_name", "module_output_name"] {
        if let Some(name) = config.get(key).filter(|name| !name.is_null() && *name != "sentence_embedding") {
            return Err(SpecError::unsupported(path, format!("normalising with {key} {name}")));
        }
    }
    Ok(())
}
