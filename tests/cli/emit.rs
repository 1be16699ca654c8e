//! Kinds of vectors beside dense ones, as a user asks for them and finds them.

use std::fs;
use std::path::Path;

use crate::program::{Finished, Program, check_schema, read_json, read_jsonl, read_rows, tree};
use serde_json::{Value, json};
use tempfile::tempdir;

const MODELS: &str = "tests/fixtures/models";

fn run(output: &Path, model: &str, arguments: &[&str]) -> Finished {
    let model = format!("{MODELS}/{model}");
    Program::new(output).arguments(&["--model", &model, "--offline"]).arguments(arguments).run()
}

#[track_caller]
fn rows(output: &Path, model: &str) -> Vec<Value> {
    let rows: Vec<Value> = ["field-guide", "polyglot", "qa-corpus", "tidepool"]
        .iter()
        .flat_map(|collection| {
            let directory = output.join(collection).join(model);
            check_schema("manifest.schema.json", &read_json(&directory.join("manifest.json")));
            read_jsonl(&directory.join("part-00000.jsonl"))
        })
        .collect();
    assert_eq!(rows.len(), 94);
    rows.iter().for_each(|row| check_schema("row.schema.json", row));
    rows
}

fn summary(output: &Path) -> Value {
    let summary = read_json(&output.join("run-summary.json"));
    check_schema("run-summary.schema.json", &summary);
    summary
}

#[test]
fn a_model_with_three_heads_gives_what_is_asked_for_in_one_pass() {
    let (dense, all) = (tempdir().unwrap(), tempdir().unwrap());
    assert_eq!(run(dense.path(), "xlmr-bin-heads", &[]).exit_code, 0);
    let finished =
        run(all.path(), "xlmr-bin-heads", &["--emit", "dense,sparse,multi", "--format", "jsonl,npy,parquet"]);
    assert_eq!(finished.exit_code, 0, "{}", finished.stderr);
    let (dense_rows, all_rows) = (rows(dense.path(), "xlmr-bin-heads"), rows(all.path(), "xlmr-bin-heads"));
    let mut weighed = 0;
    for (dense, all) in dense_rows.iter().zip(&all_rows) {
        assert_eq!(dense["vector"], all["vector"], "the other heads change nothing");
        assert!(dense.get("sparse").is_none() && dense.get("multi").is_none(), "{dense}");
        if all["vector"].is_array() {
            // One vector a token but the first.
            assert_eq!(all["multi"].as_array().unwrap().len() as u64, all["tokens"].as_u64().unwrap() - 1);
            weighed += usize::from(all["sparse"]["indices"] != json!([]));
        }
    }
    assert!(weighed > 10, "{weighed} rows have weights");
    let (dense, all) = (summary(dense.path()), summary(all.path()));
    assert_eq!(dense["passes"][0]["emit"], json!(["dense"]));
    assert_eq!(all["passes"][0]["emit"], json!(["dense", "sparse", "multi"]));
    assert_ne!(dense["passes"][0]["vector_space"], all["passes"][0]["vector_space"]);
    assert_eq!(all["passes"][0]["weights_sha256"].as_array().unwrap().len(), 3);
}

#[test]
fn models_give_what_they_are_for_unless_told_otherwise() {
    let output = tempdir().unwrap();
    for (model, kind) in [("splade-mlm", "sparse"), ("colbert-pylate", "multi"), ("colbert-stanford", "multi")] {
        let finished = run(output.path(), model, &[]);
        assert_eq!(finished.exit_code, 0, "{}", finished.stderr);
        for row in rows(output.path(), model) {
            assert!(row.get("vector").is_none(), "{row}");
            let has_vector = ["ok", "truncated"].contains(&row["status"].as_str().unwrap());
            assert_eq!(row[kind].is_null(), !has_vector, "{row}");
        }
        assert_eq!(summary(output.path())["passes"][0]["emit"], json!([kind]));
    }
}

#[test]
fn queries_are_refused_where_they_take_another_way_than_documents() {
    let output = tempdir().unwrap();
    let finished = run(output.path(), "splade-router", &[]);
    assert_eq!(finished.exit_code, 0, "{}", finished.stderr);
    let finished = run(output.path(), "splade-router", &["--prompt-name", "query"]);
    assert_eq!(finished.exit_code, 5, "{}", finished.stderr);
    for part in ["router_config.json", "queries", "\"query\""] {
        assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr);
    }
}

#[test]
fn queries_of_a_colbert_are_filled_up() {
    let output = tempdir().unwrap();
    let finished = run(output.path(), "colbert-pylate", &["--prompt-name", "query"]);
    assert_eq!(finished.exit_code, 0, "{}", finished.stderr);
    let rows = rows(output.path(), "colbert-pylate");
    let counts: Vec<usize> = rows.iter().filter_map(|row| Some(row["multi"].as_array()?.len())).collect();
    assert!(!counts.is_empty() && counts.iter().all(|count| *count == 11), "{counts:?}");
}

#[test]
fn what_a_model_cannot_give_is_an_error_that_says_what_it_can() {
    let output = tempdir().unwrap();
    let finished = run(output.path(), "splade-mlm", &["--emit", "sparse,dense"]);
    assert_eq!(finished.exit_code, 5, "{}", finished.stderr);
    for part in ["splade-mlm gives no dense vectors", "--emit", "it gives sparse"] {
        assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr);
    }
    let finished = run(output.path(), "splade-mlm", &["--emit", "colour"]);
    assert_eq!(finished.exit_code, 2, "{}", finished.stderr);
    let finished = run(output.path(), "splade-mlm", &["--truncate-dim", "8"]);
    assert_eq!(finished.exit_code, 2, "{}", finished.stderr);
    assert!(finished.stderr.contains("--truncate-dim"), "{}", finished.stderr);
}

#[test]
fn other_kinds_than_before_are_refused_and_the_same_go_on() {
    let output = tempdir().unwrap();
    assert_eq!(run(output.path(), "xlmr-bin-heads", &["--emit", "sparse"]).exit_code, 0);
    let before = tree(output.path());
    let finished = run(output.path(), "xlmr-bin-heads", &["--emit", "sparse,multi"]);
    assert_eq!(finished.exit_code, 8, "{}", finished.stderr);
    assert!(finished.stderr.contains("emit is sparse, not sparse,multi"), "{}", finished.stderr);
    let finished = run(output.path(), "xlmr-bin-heads", &["--emit", "sparse"]);
    assert_eq!(finished.exit_code, 0, "{}", finished.stderr);
    assert!(tree(output.path()) == before, "nothing is embedded again");
}

#[test]
fn members_without_dense_vectors_are_not_fused_and_turns_make_no_difference() {
    let (rotate, exclusive) = (tempdir().unwrap(), tempdir().unwrap());
    let models = ["bert-minilm", "splade-mlm", "colbert-pylate"].map(|model| format!("{MODELS}/{model}"));
    let leases = tempdir().unwrap();
    for (output, strategy) in [(&rotate, "rotate"), (&exclusive, "exclusive")] {
        let finished = Program::new(output.path())
            .arguments(&["--offline", "--shard-rows", "7", "--strategy", strategy, "--ensemble-models"])
            .arguments(&models.each_ref().map(String::as_str))
            .path("--lease-dir", leases.path())
            .succeed();
        assert!(finished.stderr.contains("splade-mlm gives no dense vectors"), "{}", finished.stderr);
    }
    assert!(tree(rotate.path()) == tree(exclusive.path()));
    assert!(!rotate.path().join("tidepool/fused").exists());
    assert!(fs::exists(rotate.path().join("tidepool/splade-mlm/part-00001.jsonl")).unwrap());
    assert!(read_rows(&rotate.path().join("tidepool/bert-minilm")).iter().any(|row| row.vector.is_some()));
}

#[test]
fn commands_about_models_know_all_kinds() {
    for model in [
        "splade-mlm",
        "splade-modernbert",
        "splade-router",
        "colbert-pylate",
        "colbert-modernbert",
        "colbert-stanford",
        "xlmr-bin-heads",
    ] {
        let directory = format!("{MODELS}/{model}");
        let finished = Program::bare().arguments(&["models", "verify", &directory, "--json"]).run();
        assert_eq!(finished.exit_code, 0, "{model}: {}", finished.stderr);
        let verified: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert!(verified["reference"]["vectors"].as_u64().unwrap() > 0, "{model}: {verified}");
        let finished = Program::bare().arguments(&["models", "show", &directory]).run();
        assert!(finished.stdout.contains("gives"), "{model}: {}", finished.stdout);
    }
}
