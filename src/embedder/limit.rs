//! Where a model's limit on the length of a text comes from, for whoever wants more.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::model::spec::ModelSpec;

/// The file and the key that a limit stands under, and how many positions the layers have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitOrigin {
    place: Option<(PathBuf, &'static str)>,
    /// More than the limit, which the key could be raised to.
    positions: Option<u64>,
}

/// Where limits stand, in the order in which they are looked for.
const KEYS: [&str; 6] = [
    "/max_seq_length",
    "/document_length",
    "/query_length",
    "/tokenizer_args/model_max_length",
    "/processor_kwargs/model_max_length",
    "/model_max_length",
];

impl LimitOrigin {
    /// Looks into the model's files for what says so.
    pub(super) fn of(spec: &ModelSpec, limit: usize) -> Self {
        let directory = spec.tokenizer.path.parent().unwrap_or(&spec.directory);
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(directory).into_iter().flatten().flatten().map(|it| it.path()).collect();
        files.retain(|path| is_sentence_config(path));
        files.sort();
        files.push(directory.join("tokenizer_config.json"));
        let is_general = limit == spec.max_length;
        let limit = limit as u64;
        let stands =
            |path: &Path, key: &str| read(path).is_some_and(|json| json.pointer(key).and_then(number) == Some(limit));
        let place = files.iter().find_map(|path| {
            let key = KEYS.iter().find(|key| stands(path, key))?;
            Some((path.clone(), *key))
        });
        let positions = spec.config.get("max_position_embeddings").and_then(number);
        let config =
            || positions.filter(|_| is_general).map(|_| (directory.join("config.json"), "/max_position_embeddings"));
        let raisable = place.as_ref().is_some_and(|(path, _)| is_sentence_config(path));
        Self { place: place.or_else(config), positions: positions.filter(|positions| raisable && *positions > limit) }
    }
}

impl fmt::Display for LimitOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some((path, key)) => {
                write!(f, "{} in {}", key.trim_start_matches('/').replace('/', "."), path.display())?;
            }
            None => f.write_str("none of its files names more")?,
        }
        match self.positions {
            Some(positions) => write!(
                f,
                "; its layers have {positions} positions: to use more of them, copy the model with `embed-collections models \
                 export`, raise that number in the copy, and pass the copy as --model"
            ),
            None => Ok(()),
        }
    }
}

/// The files that sentence-transformers reads a limit from.
fn is_sentence_config(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("sentence_") && name.ends_with("_config.json")
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Some files write 512.0.
fn number(value: &Value) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and within range, as checked")]
    value.as_f64().filter(|float| float.fract() == 0.0 && (1.0..1e15).contains(float)).map(|it| it as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(model: &str, expected: &[&str], positions: Option<u64>) {
        let spec = ModelSpec::read(&Path::new("tests/fixtures/models").join(model)).unwrap();
        let origin = LimitOrigin::of(&spec, spec.max_length);
        let text = origin.to_string();
        expected.iter().for_each(|part| assert!(text.contains(part), "{text}"));
        assert_eq!(origin.positions, positions, "{text}");
    }

    #[test]
    fn a_limit_is_found_where_it_stands() {
        check(
            "bert-minilm",
            &["max_seq_length in ", "sentence_bert_config.json", "96 positions", "models export"],
            Some(96),
        );
        check("bert-plain", &["model_max_length in ", "tokenizer_config.json"], None);
    }
}
