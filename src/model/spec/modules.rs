//! `modules.json`: what happens to a text, step by step, and the steps' own files.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::after::{self, AfterPooling};
use super::error::SpecError;
use super::files::{LibraryConfig, Module, read_json};
use super::heads::splade_pooling;
use super::router::{self, Route};
use crate::model::pooling::{Pooling, SpladePooling};

/// The steps of a model.
pub(super) struct Steps {
    /// Directory of the first step, its tokenizer and its weights.
    pub(super) first: PathBuf,
    pub(super) kind: First,
    /// What comes then, in order.
    pub(super) after: Vec<AfterPooling>,
    /// The way through a model that has several.
    pub(super) route: Option<Route>,
}

/// What a model begins with.
pub(super) enum First {
    /// A transformer and how its vectors become one.
    Transformer(PoolingStep),
    /// A transformer with the head of a masked language model, and how its logits become weights of the vocabulary.
    MaskedLm(SpladePooling),
    /// A transformer whose vectors stay apart; the directory of the module that says which count, if there is one.
    Tokens(Option<PathBuf>),
    /// A table of vectors, whose mean is the result.
    Static,
}

/// What a step works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VectorsOf {
    /// The vector of a text.
    Text,
    /// The vectors of its tokens.
    Tokens,
}

/// What the pooling step's file says.
pub(super) struct PoolingStep {
    /// The file, for messages.
    pub(super) path: PathBuf,
    /// Several are joined in this order.
    pub(super) modes: Vec<Pooling>,
    /// Whether the prompt's tokens take part.
    pub(super) include_prompt: bool,
    /// Length of the vectors that it expects.
    pub(super) dimension: Option<u64>,
}

impl PoolingStep {
    /// For a model whose token vectors do not become one.
    pub(super) fn none(directory: &Path) -> Self {
        Self { path: directory.join("config.json"), modes: Vec::new(), include_prompt: true, dimension: None }
    }
}

/// Reads `modules.json`; `None` when there is none. `library` says what kind of model it is.
pub(super) fn read(directory: &Path, library: &LibraryConfig) -> Result<Option<Steps>, SpecError> {
    let path = directory.join("modules.json");
    let Some(mut modules) = read_json::<Vec<Module>>(&path)? else { return Ok(None) };
    let route = match modules.first() {
        // `Asym` is what it was called before.
        Some(first) if matches!(class(first, &path)?, "Router" | "Asym") => {
            let (route, of_route) = router::read(&subdirectory(directory, first, &path)?, &first.path)?;
            modules.splice(..1, of_route);
            Some(route)
        }
        _ => None,
    };
    let model_type = kind_of(&modules, library, &path)?;
    let mut modules = modules.iter();

    let first = modules.next().ok_or_else(|| SpecError::invalid(&path, "it lists no module"))?;
    let first_directory = subdirectory(directory, first, &path)?;
    let kind = match (class(first, &path)?, model_type) {
        ("StaticEmbedding", _) => First::Static,
        ("Transformer", Some("ColBERT" | "MultiVectorEncoder")) => {
            let steps = tokens(directory, first_directory, modules.as_slice(), &path)?;
            return Ok(Some(Steps { route, ..steps }));
        }
        ("MLMTransformer", _) | ("Transformer", Some("SparseEncoder")) => {
            let second = modules.next().map(|second| Ok((class(second, &path)?, second))).transpose()?;
            match second {
                Some(("SpladePooling", second)) => {
                    First::MaskedLm(splade_pooling(&subdirectory(directory, second, &path)?)?)
                }
                Some((other, _)) => return Err(misplaced(other, "SpladePooling", &path)),
                None => return Err(SpecError::unsupported(&path, "a masked language model without SpladePooling")),
            }
        }
        ("Transformer", _) => {
            let Some(second) = modules.next() else {
                return Err(SpecError::unsupported(&path, "a model without a Pooling module"));
            };
            match class(second, &path)? {
                "Pooling" => First::Transformer(pooling(&subdirectory(directory, second, &path)?.join("config.json"))?),
                other => return Err(misplaced(other, "Pooling", &path)),
            }
        }
        (other, _) => return Err(misplaced(other, "Transformer", &path)),
    };

    let mut after = Vec::new();
    for module in modules {
        let step = subdirectory(directory, module, &path)?;
        match class(module, &path)? {
            "Normalize" => {
                refuse_other_vectors(&step.join("config.json"), VectorsOf::Text)?;
                after.push(AfterPooling::Normalize);
            }
            "Dense" => after.push(AfterPooling::Dense(after::dense(&step, VectorsOf::Text)?)),
            // It does something only while a model is trained.
            "Dropout" => {}
            other => return Err(misplaced(other, "Dense or Normalize", &path)),
        }
    }
    Ok(Some(Steps { first: first_directory, kind, after, route }))
}

/// The library's name for the kind of a model. `PyLate` saves some `ColBERT` models without it, or with another: they
/// have its prefixes, and a layer after the transformer where others have a pooling.
fn kind_of<'a>(modules: &[Module], library: &'a LibraryConfig, path: &Path) -> Result<Option<&'a str>, SpecError> {
    let named = library.model_type.as_deref();
    if !library.has_prefixes() || named.is_some_and(|name| name != "SentenceTransformer") {
        return Ok(named);
    }
    let classes: Vec<&str> = modules.iter().map(|module| class(module, path)).collect::<Result<_, _>>()?;
    let is_colbert = classes.get(..2) == Some(&["Transformer", "Dense"]) && !classes.contains(&"Pooling");
    Ok(if is_colbert { Some("ColBERT") } else { named })
}

/// The steps of a model that gives vectors of tokens: layers, which tokens count, scaling.
fn tokens(directory: &Path, first: PathBuf, modules: &[Module], path: &Path) -> Result<Steps, SpecError> {
    let (mut after, mut mask) = (Vec::new(), None);
    for module in modules {
        let step = subdirectory(directory, module, path)?;
        match class(module, path)? {
            "Dense" => after.push(AfterPooling::Dense(after::dense(&step, VectorsOf::Tokens)?)),
            "Normalize" => {
                refuse_other_vectors(&step.join("config.json"), VectorsOf::Tokens)?;
                after.push(AfterPooling::Normalize);
            }
            "MultiVectorMask" if mask.is_none() => mask = Some(step),
            "Dropout" => {}
            other => return Err(misplaced(other, "Dense, MultiVectorMask or Normalize", path)),
        }
    }
    Ok(Steps { first, kind: First::Tokens(mask), after, route: None })
}

/// The class of a module is the last component of its type; but only the reference library's own classes are known, and
/// one of `PyLate` that is the same as one of them.
fn class<'a>(module: &'a Module, path: &Path) -> Result<&'a str, SpecError> {
    if module.class == "pylate.models.Dense.Dense" {
        return Ok("Dense");
    }
    if !module.class.starts_with("sentence_transformers.") {
        return Err(SpecError::unsupported(path, format!("the module type {:?}", module.class)));
    }
    Ok(module.class.rsplit('.').next().unwrap_or_default())
}

fn misplaced(class: &str, expected: &str, path: &Path) -> SpecError {
    if ["Transformer", "StaticEmbedding", "Pooling", "Dense", "Normalize"].contains(&class) {
        SpecError::unsupported(path, format!("the module {class} where {expected} is expected"))
    } else {
        SpecError::unsupported(path, format!("the module {class}"))
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
const MODE_KEYS: [(&str, Pooling); 6] = [
    ("pooling_mode_cls_token", Pooling::Cls),
    ("pooling_mode_max_tokens", Pooling::Max),
    ("pooling_mode_mean_tokens", Pooling::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
    ("pooling_mode_lasttoken", Pooling::LastToken),
];

fn pooling(path: &Path) -> Result<PoolingStep, SpecError> {
    let Some(config) = read_json::<Map<String, Value>>(path)? else {
        return Err(SpecError::Missing { path: path.to_owned(), what: "it says how token vectors become one vector" });
    };
    for key in config.keys().filter(|key| key.starts_with("pooling_mode_")) {
        let value = &config[key];
        if !MODE_KEYS.iter().any(|(known, _)| known == key) && *value != Value::Bool(false) {
            return Err(SpecError::unsupported(path, format!("{key} {value}")));
        }
        if !value.is_boolean() {
            return Err(SpecError::invalid(path, format!("{key} {value} is neither true nor false")));
        }
    }
    let modes = modes(&config, path)?;
    let include_prompt = match config.get("include_prompt") {
        None | Some(Value::Bool(true)) => true,
        Some(Value::Bool(false)) => false,
        Some(other) => {
            return Err(SpecError::invalid(path, format!("include_prompt {other} is neither true nor false")));
        }
    };
    let dimension =
        ["embedding_dimension", "word_embedding_dimension"].iter().find_map(|key| config.get(*key)?.as_u64());
    Ok(PoolingStep { path: path.to_owned(), modes, include_prompt, dimension })
}

/// The modes: from the newer key if it is there, in its own order, else from the older ones; without any, the mean, as
/// in the reference library.
fn modes(config: &Map<String, Value>, path: &Path) -> Result<Vec<Pooling>, SpecError> {
    let named = |value: &Value| match value.as_str() {
        Some(name) => Pooling::ALL
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| SpecError::unsupported(path, format!("pooling by {name}"))),
        None => Err(SpecError::invalid(path, "pooling_mode is neither a name nor a list of names")),
    };
    match config.get("pooling_mode") {
        Some(Value::Array(list)) if !list.is_empty() => list.iter().map(named).collect(),
        Some(value) => Ok(vec![named(value)?]),
        None => {
            let on = MODE_KEYS.iter().filter(|(key, _)| config.get(*key) == Some(&Value::Bool(true)));
            let modes: Vec<Pooling> = on.map(|(_, mode)| *mode).collect();
            Ok(if modes.is_empty() { vec![Pooling::Mean] } else { modes })
        }
    }
}

/// Refuses a step that works on anything but these vectors. Old files do not say on what, and mean those.
pub(super) fn refuse_other_vectors(path: &Path, of: VectorsOf) -> Result<Map<String, Value>, SpecError> {
    let expected = match of {
        VectorsOf::Text => "sentence_embedding",
        VectorsOf::Tokens => "token_embeddings",
    };
    let config = read_json::<Map<String, Value>>(path)?.unwrap_or_default();
    for key in ["module_input_name", "module_output_name"] {
        if let Some(name) = config.get(key).filter(|name| !name.is_null() && *name != expected) {
            return Err(SpecError::unsupported(path, format!("a step with {key} {name}")));
        }
    }
    Ok(config)
}
