//! The tokenizer that a directory's files make together, against that of transformers.
//!
//! `tests/fixtures/tokenizers.json` (made by `tests/scripts/make_tokenizers.py`) holds small directories of every class that
//! is built anew, with the tokens that transformers gives for some texts, whole and cut. `TOKENIZER_REFERENCE=FILE` takes
//! another file, one case a line, whose `directory` may lie anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use embed_collections::model::tokenizer_files::TokenizerFiles;
use embed_collections::tokenize::Tokenizer;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Case {
    name: String,
    /// Files by name; a text stands as it is, anything else as JSON.
    #[serde(default)]
    files: Map<String, Value>,
    directory: Option<PathBuf>,
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
    let files = match TokenizerFiles::read(directory, false) {
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

#[test]
fn the_tokens_are_those_of_transformers() {
    let text = fs::read_to_string("tests/fixtures/tokenizers.json").unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in &case.files {
            let content = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
            fs::write(directory.path().join(name), content).unwrap();
        }
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
