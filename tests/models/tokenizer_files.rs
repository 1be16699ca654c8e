//! The tokenizer that a directory's files make together, against that of transformers.
//!
//! `tests/fixtures/tokenizers.json` (made by `tests/scripts/make_tokenizers.py`) holds changes to small models, with the
//! tokens that transformers then gives for some texts, whole and cut. `TOKENIZER_REFERENCE=FILE` takes another file, one
//! case a line, whose `directory` may lie anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use embed_collections::model::tokenizer_files::{InputCase, TokenizerFiles};
use embed_collections::prepare::Tokenizer;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Cases {
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// A directory of `tests/fixtures/models`.
    #[serde(default)]
    base: String,
    /// What is changed in it: keys of an object, a text as a whole file, null for no such key or file.
    #[serde(default)]
    files: Map<String, Value>,
    directory: Option<PathBuf>,
    #[serde(default)]
    texts: Vec<String>,
    /// None where transformers gives none.
    whole: Option<Vec<Vec<u32>>>,
    cut: Option<Vec<Vec<u32>>>,
}

/// Where texts are cut in `cut`.
const CUT: usize = 8;

fn tokens(files: &TokenizerFiles, limit: usize, texts: &[String]) -> Result<Vec<Vec<u32>>, String> {
    let tokenizer = Tokenizer::from_files(files, limit, String::new()).map_err(|error| error.to_string())?;
    let ids = |text: &String| Ok(tokenizer.encode(text).map_err(|error| error.to_string())?.ids);
    texts.iter().map(ids).collect()
}

enum Outcome {
    Equal,
    Refused(String),
    Other(String),
}

fn compare(case: &Case, directory: &Path) -> Outcome {
    let files = match TokenizerFiles::read(directory, InputCase::AsIs) {
        Ok(files) => files,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    for (limit, expected) in [(1 << 20, &case.whole), (CUT, &case.cut)] {
        let Some(expected) = expected else { continue };
        match tokens(&files, limit, &case.texts) {
            Err(error) => return Outcome::Refused(error),
            Ok(found) => {
                for ((found, expected), text) in found.iter().zip(expected).zip(&case.texts) {
                    if found != expected {
                        return Outcome::Other(format!("{text:?} at {limit}: {found:?} instead of {expected:?}"));
                    }
                }
            }
        }
    }
    Outcome::Equal
}

/// Writes the tokenizer of a case, and no weights.
fn write(case: &Case, directory: &Path) {
    let base = Path::new("tests/fixtures/models").join(&case.base);
    let names = ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
    for name in names.into_iter().filter(|name| base.join(name).exists()) {
        fs::copy(base.join(name), directory.join(name)).unwrap();
    }
    for (name, content) in &case.files {
        let path = directory.join(name);
        match content {
            Value::Null => fs::remove_file(path).unwrap(),
            Value::String(text) => fs::write(path, text).unwrap(),
            change => {
                let old = fs::read(&path).map(|bytes| serde_json::from_slice(&bytes).unwrap());
                let mut new: Map<String, Value> = old.unwrap_or_default();
                new.extend(change.as_object().unwrap().clone());
                new.retain(|_, value| !value.is_null());
                fs::write(path, Value::Object(new).to_string()).unwrap();
            }
        }
    }
}

#[test]
fn the_tokens_are_those_of_transformers() {
    let text = fs::read_to_string("tests/fixtures/tokenizers.json").unwrap();
    let Cases { texts, cases } = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let case = Case { texts: texts.clone(), ..case };
        let directory = tempfile::tempdir().unwrap();
        write(&case, directory.path());
        match (compare(&case, directory.path()), &case.whole) {
            (Outcome::Equal, Some(_)) | (Outcome::Refused(_), None) => {}
            (Outcome::Equal, None) => panic!("{}: transformers refuses it", case.name),
            (Outcome::Refused(what) | Outcome::Other(what), _) => panic!("{}: {what}", case.name),
        }
    }
}

#[test]
fn the_tokens_of_other_directories_are_those_of_transformers() {
    let Some(path) = std::env::var_os("TOKENIZER_REFERENCE") else { return };
    let (mut equal, mut refused, mut other) = (0, 0, 0);
    for line in fs::read_to_string(path).unwrap().lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let outcome = compare(&case, case.directory.as_deref().unwrap());
        let known = case.whole.is_some();
        match outcome {
            Outcome::Equal if known => equal += 1,
            Outcome::Equal => println!("taken, which transformers refuses: {}", case.name),
            Outcome::Refused(what) => {
                refused += 1;
                println!("refused{}: {}: {what}", if known { "" } else { " too" }, case.name);
            }
            Outcome::Other(what) => {
                other += 1;
                println!("OTHER: {}: {what}", case.name);
            }
        }
    }
    println!("{equal} equal, {refused} refused, {other} other");
    assert_eq!(other, 0);
}
