//! What decides which tokens come out, and the digest of it.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A directory with a tokenizer that its class builds anew.
fn directory(class: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let base = Path::new("tests/fixtures/models/bert-minilm");
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(base.join(name), directory.path().join(name)).unwrap();
    }
    fs::write(directory.path().join("tokenizer_config.json"), json!({"tokenizer_class": class}).to_string()).unwrap();
    directory
}

fn change(directory: &TempDir, name: &str, change: impl FnOnce(&mut Value)) {
    let path = directory.path().join(name);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, serde_json::to_string_pretty(&value).unwrap()).unwrap();
}

/// Whether a change of a file leaves the digest as it is.
#[track_caller]
fn check(class: &str, name: &str, same: bool, with: impl FnOnce(&mut Value)) {
    let directory = directory(class);
    let digest = || TokenizerFiles::read(directory.path(), InputCase::AsIs).unwrap().digest().unwrap();
    let before = digest();
    change(&directory, name, with);
    assert_eq!(before == digest(), same);
}

const GENERIC: &str = "PreTrainedTokenizerFast";

#[test]
fn the_spelling_of_files_is_not_in_the_digest() {
    check(GENERIC, "tokenizer.json", true, |_| {});
    check(GENERIC, "tokenizer.json", true, |file| {
        file["truncation"] = json!({"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0});
    });
    check(GENERIC, "tokenizer.json", true, |file| file["decoder"] = Value::Null);
    check(GENERIC, "tokenizer_config.json", true, |keys| keys["do_lower_case"] = json!(false));
    check("BertTokenizer", "tokenizer.json", true, |file| file["normalizer"]["lowercase"] = json!(false));
}

#[test]
fn what_decides_which_tokens_come_out_is_in_the_digest() {
    check(GENERIC, "tokenizer.json", false, |file| file["normalizer"]["lowercase"] = json!(false));
    check(GENERIC, "tokenizer.json", false, |file| file["model"]["vocab"]["never"] = json!(7000));
    check(GENERIC, "tokenizer_config.json", false, |keys| keys["truncation_side"] = json!("left"));
    check(GENERIC, "tokenizer_config.json", false, |keys| keys["split_special_tokens"] = json!(true));
    check(GENERIC, "tokenizer_config.json", false, |keys| keys["extra_special_tokens"] = json!(["tide"]));
    check("BertTokenizer", "tokenizer_config.json", false, |keys| keys["strip_accents"] = json!(false));
    check("BertTokenizer", "tokenizer_config.json", false, |keys| keys["tokenize_chinese_chars"] = json!(false));
}

#[test]
fn a_class_with_a_normaliser_of_its_own_says_so() {
    let notes = |directory: &TempDir| TokenizerFiles::read(directory.path(), InputCase::AsIs).unwrap().notes;
    let bert = directory("BertTokenizer");
    assert_eq!(notes(&bert), [] as [String; 0]);
    change(&bert, "tokenizer.json", |file| file["normalizer"]["lowercase"] = json!(false));
    assert!(notes(&bert)[0].contains("normalizer") && notes(&bert)[0].contains("tokenizer.json"), "{:?}", notes(&bert));
}

#[test]
fn lower_casing_comes_first_where_the_tokenizer_keeps_upper_case() {
    let generic = directory(GENERIC);
    change(&generic, "tokenizer.json", |file| file["normalizer"]["lowercase"] = json!(false));
    let tokens = |text: &str, case| {
        let files = TokenizerFiles::read(generic.path(), case).unwrap();
        files.build().unwrap().encode(text, true).unwrap().get_ids().to_vec()
    };
    assert_ne!(tokens("Harbour", InputCase::AsIs), tokens("harbour", InputCase::AsIs));
    assert_eq!(tokens("Harbour", InputCase::Lower), tokens("harbour", InputCase::AsIs));
}

#[test]
fn special_tokens_have_the_names_of_their_class_where_no_file_names_them() {
    let bert = directory("BertTokenizer");
    let vocabulary = |directory: &TempDir| {
        Vocabulary::of(&TokenizerFiles::read(directory.path(), InputCase::AsIs).unwrap()).unwrap()
    };
    let found = vocabulary(&bert);
    for (purpose, token) in [("cls_token", "[CLS]"), ("pad_token", "[PAD]"), ("unk_token", "[UNK]")] {
        assert!(found.special(purpose).is_some() && found.special(purpose) == found.id(token), "{purpose}");
    }
    assert_eq!(vocabulary(&directory(GENERIC)).special("cls_token"), None);
    change(&bert, "tokenizer_config.json", |keys| keys["extra_special_tokens"] = json!(["<one>", "<two>"]));
    let built = TokenizerFiles::read(bert.path(), InputCase::AsIs).unwrap().build().unwrap();
    assert!(built.token_to_id("<two>").is_some());
    assert_eq!(vocabulary(&bert).id("<two>"), built.token_to_id("<two>"));
}
