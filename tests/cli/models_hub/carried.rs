//! Models that are carried to a machine without a network.

use std::fs;
use std::path::Path;

use super::{Home, REPOSITORY, json};
use crate::program::{Finished, Program, TINY_MODEL, read_json, read_rows};
use crate::stand_in_hub::Hub;

/// Exports a model, embeds with it and with the copy elsewhere, and compares spaces and vectors.
#[track_caller]
fn check_same(home: &Home, hub: &Hub, name: &str, output_name: &str) {
    let copy = home.path("carried");
    let exported = home.models(hub, &["export", name, "--to", copy.to_str().unwrap(), "--json"]);
    assert_eq!(exported.exit_code, 0, "{}", exported.stderr);
    let exported = json(&exported);
    for file in exported["files"].as_array().unwrap() {
        let path = copy.join(file["path"].as_str().unwrap());
        assert!(!path.is_symlink(), "{}", path.display());
        let bytes = fs::read(&path).unwrap();
        assert_eq!(embed_collections::domain::Digest::of(&bytes).to_string(), file["sha256"].as_str().unwrap());
    }
    let elsewhere = Home::new();
    let run = home.embed("http://127.0.0.1:9", "out", &["--model", name, "--offline"]);
    let carried = elsewhere.embed("http://127.0.0.1:9", "out", &["--model", copy.to_str().unwrap(), "--offline"]);
    assert_eq!((run.exit_code, carried.exit_code), (0, 0), "{}\n{}", run.stderr, carried.stderr);
    let spaces = |path: &Path| read_json(&path.join("manifest.json"))["vector_space"].clone();
    for collection in ["field-guide", "polyglot", "tidepool"] {
        let [here, there] = [
            home.path("out").join(collection).join(output_name),
            elsewhere.path("out").join(collection).join("carried"),
        ];
        assert_eq!(spaces(&here), exported["vector_space"]);
        assert_eq!(spaces(&here), spaces(&there));
        assert_eq!(read_rows(&here), read_rows(&there));
    }
}

#[test]
fn a_directory_is_the_same_model_elsewhere() {
    check_same(&Home::new(), &Hub::empty(), TINY_MODEL, "bert-minilm");
}

#[test]
fn a_model_of_the_hub_is_the_same_elsewhere_and_only_what_is_read_is_carried() {
    let (home, hub) = (Home::new(), Hub::serving("bert-minilm"));
    check_same(&home, &hub, REPOSITORY, "tiny-bert");
    let mut names: Vec<String> =
        fs::read_dir(home.path("carried")).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = "1_Pooling config.json config_sentence_transformers.json model.safetensors modules.json \
                    sentence_bert_config.json special_tokens_map.json tokenizer.json tokenizer_config.json";
    assert_eq!(names, expected.split(' ').collect::<Vec<_>>());
}

/// Needs the default model, which other tests fetch as well.
#[test]
fn a_model_of_a_package_can_be_carried() {
    let target = tempfile::tempdir().unwrap();
    let copy = target.path().join("copy");
    let arguments = ["models", "export", "all-MiniLM-L6-v2", "--to", copy.to_str().unwrap()];
    let run = Program::bare().arguments(&arguments).succeed();
    assert!(run.stdout.contains("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors"));
    assert_eq!(run.stdout.lines().last(), copy.to_str());
    assert!(!copy.join(".complete.json").exists());
}

#[test]
fn what_is_there_is_not_replaced_unasked() {
    let home = Home::new();
    let target = home.path("target");
    let export = |model: &str, more: &[&str]| -> Finished {
        home.models(&Hub::empty(), &[&["export", model, "--to", target.to_str().unwrap()], more].concat())
    };
    assert_eq!(export(TINY_MODEL, &[]).exit_code, 0);
    let again = export("tests/fixtures/models/bert-bge", &[]);
    assert_eq!(again.exit_code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("is not empty") && again.stderr.contains("--overwrite"), "{}", again.stderr);
    assert_eq!(export("tests/fixtures/models/bert-bge", &["--overwrite"]).exit_code, 0);
    let weights = |directory: &Path| fs::read(directory.join("model.safetensors")).unwrap();
    assert!(weights(&target) == weights(Path::new("tests/fixtures/models/bert-bge")));
    // A model that cannot be used is not written, and what is there stays.
    let broken = home.path("broken");
    crate::stand_in_hub::copy_directory(Path::new(TINY_MODEL), &broken);
    fs::write(broken.join("1_Pooling/config.json"), "{").unwrap();
    assert_eq!(export(broken.to_str().unwrap(), &["--overwrite"]).exit_code, 5);
    assert!(weights(&target) == weights(Path::new("tests/fixtures/models/bert-bge")));
}
