//! `models` as a user runs it: on fixtures, and on a machine whose cache is made up.

use std::fs;
use std::path::Path;

use crate::program::{Finished, Program, TINY_MODEL, check_schema, copy_of};
use serde_json::{Value, json};
use tempfile::tempdir;

const ROW: &str = "[[model]]\nname = 'mine'\nhub = 'me/mine'\nrevision = 'main'\narchitecture = 'bert'\n\
                   parameters = 1\nlayers = 1\ndimension = 8\nmax_tokens = 9\n";

/// On a machine without a model, and without a network.
fn models(home: &Path, arguments: &[&str]) -> Program {
    let home = home.to_str().unwrap();
    let program = Program::bare().arguments(&["models"]).arguments(arguments).variable("HOME", home);
    let program = program.variable("XDG_CACHE_HOME", home).variable("HF_HOME", home).variable("HF_HUB_CACHE", "");
    program.variable("HF_ENDPOINT", "http://127.0.0.1:9")
}

fn run(arguments: &[&str]) -> Finished {
    models(tempdir().unwrap().path(), arguments).run()
}

#[track_caller]
fn json(run: &Finished) -> Value {
    let value: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout));
    check_schema("models.schema.json", &value);
    value
}

#[track_caller]
fn check_refused(run: &Finished, exit_code: i32, expected: &[&str]) {
    assert_eq!(run.exit_code, exit_code, "{}\n{}", run.stdout, run.stderr);
    for part in expected {
        assert!(run.stderr.contains(part), "{part:?} is not in {}", run.stderr);
    }
}

fn change_file(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Where the numbers of a tensor end in a safetensors file.
fn end_of_tensor(bytes: &[u8], name: &str) -> usize {
    let header = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let tensors: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    header + usize::try_from(tensors[name]["data_offsets"][1].as_u64().unwrap()).unwrap()
}

#[test]
fn the_list_has_every_row_of_the_registry() {
    let names: Vec<String> = fs::read_to_string("configs/models.toml")
        .unwrap()
        .lines()
        .skip_while(|line| *line != "[[model]]")
        .zip(fs::read_to_string("configs/models.toml").unwrap().lines().skip_while(|line| *line != "[[model]]").skip(1))
        .filter(|(header, _)| *header == "[[model]]")
        .map(|(_, name)| name.strip_prefix("name = ").unwrap().trim_matches('"').to_owned())
        .collect();
    assert!(names.len() > 30, "{names:?}");
    let listed = json(&run(&["list", "--json"]));
    let listed: Vec<&str> =
        listed["models"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(listed, names);
    let table = run(&["list"]);
    assert_eq!(table.exit_code, 0, "{}", table.stderr);
    let first_column: Vec<&str> =
        table.stdout.lines().skip(1).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(first_column, names);
}

#[test]
fn rows_of_a_user_come_first_by_flag_and_by_variable() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("models.toml");
    fs::write(&file, format!("{ROW}{}", ROW.replace("mine", "bge-m3"))).unwrap();
    let path = file.to_str().unwrap();
    let by_flag = models(directory.path(), &["list", "--json", "--models-file", path]).run();
    let by_variable = models(directory.path(), &["list", "--json"]).variable("EMBEDDER_MODELS_FILE", path).run();
    assert_eq!(by_flag.stdout, by_variable.stdout);
    let listed = json(&by_flag);
    let rows = listed["models"].as_array().unwrap();
    assert_eq!((&rows[0]["name"], &rows[0]["file"]), (&json!("mine"), &json!(path)));
    assert_eq!(rows.iter().filter(|row| row["name"] == "bge-m3").count(), 1);
    let shown = json(&models(directory.path(), &["show", "bge-m3", "--json", "--models-file", path]).run());
    assert_eq!((&shown["registry"]["hub"], &shown["files"]), (&json!("me/bge-m3"), &Value::Null));
}

#[test]
fn embedding_knows_the_rows_of_a_user() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("models.toml");
    fs::write(&file, ROW).unwrap();
    let program = Program::new(&directory.path().join("out"))
        .arguments(&["--offline", "--model", "mine"])
        .variable("HF_HOME", directory.path().to_str().unwrap())
        .variable("HF_HUB_CACHE", "");
    // It asks for the repository that the row names, which is not there.
    check_refused(&program.path("--models-file", &file).run(), 5, &["the hub's repository me/mine at main"]);
}

#[test]
fn a_broken_file_of_models_is_a_fault_of_usage_with_its_line() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("models.toml");
    fs::write(&file, format!("{ROW}colour = 'red'\n")).unwrap();
    let path = file.to_str().unwrap();
    let expected = [path, "line 10", "colour"];
    check_refused(&run(&["list", "--models-file", path]), 2, &expected);
    let embedding = Program::tiny(&directory.path().join("out")).path("--models-file", &file).run();
    check_refused(&embedding, 2, &expected);
    let missing = directory.path().join("missing.toml");
    let missing = missing.to_str().unwrap();
    check_refused(&run(&["list", "--models-file", missing]), 2, &[missing, "EMBEDDER_MODELS_FILE"]);
}

#[test]
fn a_directory_is_shown_as_it_describes_itself() {
    let shown = json(&run(&["show", "tests/fixtures/models/bert-bge", "--json"]));
    assert_eq!(shown["registry"], Value::Null);
    let files = &shown["files"];
    assert_eq!((&files["source"], &files["architecture"]), (&json!("local"), &json!("bert")));
    assert_eq!((&files["pooling"], &files["normalize"]), (&json!(["cls"]), &json!(true)));
    assert!(files["prompts"].as_object().unwrap().contains_key("query"), "{files}");
    let text = run(&["show", "tests/fixtures/models/bert-bge"]);
    assert!(text.stdout.contains("pooling           cls"), "{}", text.stdout);
}

#[test]
fn a_known_model_that_is_not_here_is_shown_from_the_registry_and_nothing_is_fetched() {
    let home = tempdir().unwrap();
    let text = models(home.path(), &["show", "nomic-coderank"]).succeed();
    for part in
        ["coderank-embed", "nomic-ai/CodeRankEmbed at 3c4b6080", "not on this machine", "models pull coderank-embed"]
    {
        assert!(text.stdout.contains(part), "{}", text.stdout);
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    check_refused(&run(&["show", "someone/unknown"]), 5, &["someone/unknown is not on this machine", "127.0.0.1:9"]);
    let offline = run(&["show", "someone/unknown", "--offline"]);
    check_refused(&offline, 5, &["someone/unknown is not on this machine", "models pull"]);
}

#[test]
fn an_unknown_name_suggests_those_that_are_like_it() {
    for verb in ["show", "pull", "verify"] {
        check_refused(&run(&[verb, "bge_m3"]), 5, &["did you mean bge-m3?", "models list"]);
    }
}

#[test]
fn pulling_a_directory_says_where_it_is() {
    let pulled = json(&run(&["pull", TINY_MODEL, "--json"]));
    assert_eq!((&pulled["directory"], &pulled["source"]), (&json!(TINY_MODEL), &json!("local")));
    let paths: Vec<&str> =
        pulled["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"model.safetensors") && paths.contains(&"1_Pooling/config.json"), "{paths:?}");
    let text = run(&["pull", TINY_MODEL]);
    assert_eq!(text.stdout.lines().last(), Some(TINY_MODEL));
}

#[test]
fn pulling_what_cannot_be_reached_fails_and_says_what_was_tried() {
    check_refused(&run(&["pull", "bge-m3"]), 5, &["the hub's repository BAAI/bge-m3 at 5617a9f6", "ways out"]);
    check_refused(&run(&["pull", "bge-m3", "--offline"]), 5, &["not asked, because of --offline"]);
}

#[test]
fn a_whole_model_is_verified_with_its_tensors_and_vectors() {
    for model in [TINY_MODEL, "tests/fixtures/models/distilbert-dense", "tests/fixtures/models/qwen3-sharded"] {
        let run = run(&["verify", model, "--json"]);
        assert_eq!(run.exit_code, 0, "{model}: {}", run.stderr);
        let verified = json(&run);
        let reference = &verified["reference"];
        assert!(reference["vectors"].as_u64().unwrap() > 10, "{model}: {reference}");
        assert!(reference["largest_difference"].as_f64().unwrap() < 2e-6, "{model}: {reference}");
        assert_eq!(verified["faults"], json!([]));
    }
    let text = run(&["verify", TINY_MODEL]).stdout;
    for part in ["embeddings.word_embeddings.weight", "sha256", "largest difference", "as it should be"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_changed_byte_in_the_weights_is_found_by_the_vectors() {
    let copy = copy_of(TINY_MODEL);
    change_file(&copy.path().join("model.safetensors"), |bytes| {
        // The sign of one number. The last tensor of the file would not do: it is the pooler's, which nothing reads.
        let end = end_of_tensor(bytes, "encoder.layer.1.output.LayerNorm.weight");
        bytes[end - 1] ^= 0x80;
    });
    let run = run(&["verify", copy.path().to_str().unwrap()]);
    check_refused(&run, 5, &["reference.json", "the vector of text", "differs by"]);
    assert!(run.stdout.contains("fault: "), "{}", run.stdout);
}

#[test]
fn a_changed_byte_in_the_hubs_cache_is_found_by_the_digest() {
    let home = tempdir().unwrap();
    let repository = home.path().join("hub/models--someone--tiny");
    let copy = copy_of(TINY_MODEL);
    // Without vectors to compare with, only the name of the blob tells.
    fs::remove_file(copy.path().join("reference.json")).unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    fs::create_dir_all(repository.join("snapshots")).unwrap();
    fs::create_dir_all(repository.join("blobs")).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), commit).unwrap();
    let snapshot = repository.join("snapshots").join(commit);
    fs::rename(copy.path(), &snapshot).unwrap();
    let weights = fs::read(snapshot.join("model.safetensors")).unwrap();
    let blob = repository.join("blobs").join(embed_collections::domain::Digest::of(&weights).to_string());
    fs::rename(snapshot.join("model.safetensors"), &blob).unwrap();
    std::os::unix::fs::symlink(&blob, snapshot.join("model.safetensors")).unwrap();

    let whole = models(home.path(), &["verify", "someone/tiny", "--json"]).succeed();
    let whole = json(&whole);
    assert_eq!(whole["weights"][0]["checked_against"], "the hub");
    assert_eq!(whole["reference"]["path"], Value::Null);

    change_file(&blob, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let changed = models(home.path(), &["verify", "someone/tiny"]).run();
    check_refused(&changed, 5, &["model.safetensors has the digest", "the hub says"]);
}

#[test]
fn a_tensor_or_a_file_that_is_cut_is_an_error_that_names_it() {
    let copy = copy_of(TINY_MODEL);
    change_file(&copy.path().join("model.safetensors"), |bytes| bytes.truncate(bytes.len() - 1));
    check_refused(&run(&["verify", copy.path().to_str().unwrap()]), 5, &["model.safetensors", "is not a whole"]);

    let copy = copy_of(TINY_MODEL);
    change_file(&copy.path().join("config.json"), |bytes| {
        let mut config: Value = serde_json::from_slice(bytes).unwrap();
        config["intermediate_size"] = json!(config["intermediate_size"].as_u64().unwrap() + 1);
        *bytes = serde_json::to_vec(&config).unwrap();
    });
    check_refused(&run(&["verify", copy.path().to_str().unwrap()]), 5, &["intermediate", "has shape"]);
}

#[test]
fn a_reference_that_cannot_be_compared_with_is_a_fault() {
    let copy = copy_of(TINY_MODEL);
    let directory = copy.path().to_str().unwrap();
    fs::write(copy.path().join("reference.json"), "{").unwrap();
    check_refused(&run(&["verify", directory]), 5, &["reference.json is no reference"]);
    fs::write(copy.path().join("reference.json"), r#"{"cases": [{"name": "only tokens", "texts": ["a"]}]}"#).unwrap();
    check_refused(&run(&["verify", directory]), 5, &["has no vectors of whole texts"]);
    fs::remove_file(copy.path().join("reference.json")).unwrap();
    let without = run(&["verify", directory]);
    assert_eq!(without.exit_code, 0, "{}", without.stderr);
    assert!(without.stdout.contains("no reference.json to compare vectors with"), "{}", without.stdout);
}

#[test]
fn verifying_fetches_nothing() {
    check_refused(&run(&["verify", "bge-m3"]), 5, &["bge-m3 is not on this machine", "models pull bge-m3"]);
}
