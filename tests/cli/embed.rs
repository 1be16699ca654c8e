//! The main job, run as a user runs it, with a tiny model that is part of the repository.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::program::{OutputRow, Program, TINY_MODEL, assert_same, check_schema, read_json, read_jsonl, rows_of, tree};
use serde_json::{Value, json};
use tempfile::tempdir;

const COLLECTIONS: [&str; 4] = ["field-guide", "polyglot", "qa-corpus", "tidepool"];

#[test]
fn a_run_embeds_every_chunk_in_order_and_accounts_for_it() {
    let output = tempdir().unwrap();
    let run = Program::tiny(output.path()).arguments(&["--format", "jsonl,parquet,arrow,npy"]).succeed();
    assert!(run.stdout.contains(&format!("results are in {}", output.path().display())), "{}", run.stdout);

    let summary = read_json(&output.path().join("run-summary.json"));
    check_schema("run-summary.schema.json", &summary);
    assert_eq!(summary["status"], "done");
    assert_eq!(summary["models_executed"], json!(["bert-minilm"]));
    let mut vectors = 0;
    for (index, collection) in COLLECTIONS.into_iter().enumerate() {
        let rows = rows_of(output.path(), collection);
        let ledger = read_jsonl(&output.path().join(collection).join("chunks.jsonl"));
        assert_eq!(rows.len(), ledger.len());
        for (row, (written, chunk)) in rows.iter().zip(&ledger).enumerate() {
            assert_eq!(written.row, row as u64);
            assert_eq!(chunk["id"], written.id);
            assert_eq!(chunk["status"], written.status);
            assert_eq!(written.vector.is_some(), ["ok", "truncated"].contains(&written.status.as_str()));
            vectors += u64::from(written.vector.is_some());
            check_schema("chunks.schema.json", chunk);
            check_schema("row.schema.json", &serde_json::to_value(RowAsJson(written)).unwrap());
        }
        check_schema(
            "manifest.schema.json",
            &read_json(&output.path().join(collection).join("bert-minilm/manifest.json")),
        );
        let counted = &summary["collections"][index];
        assert_eq!(counted["name"], collection);
        assert_eq!(counted["chunks"], rows.len());
        for status in ["ok", "truncated", "empty", "failed"] {
            assert_eq!(
                counted[status],
                rows.iter().filter(|row| row.status == status).count(),
                "{collection} {status}"
            );
        }
    }
    assert_eq!(summary["total_embeddings_generated"], vectors);

    let events = read_jsonl(&output.path().join("events.jsonl"));
    let types: Vec<&str> = events.iter().map(|event| event["event_type"].as_str().unwrap()).collect();
    assert_eq!((types[0], types[types.len() - 1]), ("run_started", "run_finished"));
    let position = |wanted: &str| types.iter().position(|found| *found == wanted).unwrap();
    assert!(position("acquire") < position("model_loaded") && position("model_loaded") < position("release"));
}

/// A row as the schema sees it.
struct RowAsJson<'a>(&'a OutputRow);

impl serde::Serialize for RowAsJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let OutputRow { id, row, vector, tokens, status, text_sha256 } = self.0;
        json!({ "id": id, "row": row, "vector": vector, "tokens": tokens, "status": status, "text_sha256": text_sha256 })
            .serialize(serializer)
    }
}

#[test]
fn shards_threads_and_batches_change_nothing() {
    let reference = tempdir().unwrap();
    Program::tiny(reference.path()).succeed();
    for settings in [
        &["--shard-rows", "5", "--threads", "3", "--batch-tokens", "40"][..],
        &["--shard-rows", "1", "--threads", "1", "--batch-size", "1"],
        &["--shard-rows", "4000", "--threads", "2", "--batch-tokens", "100000"],
    ] {
        let output = tempdir().unwrap();
        Program::tiny(output.path()).arguments(settings).succeed();
        for collection in COLLECTIONS {
            let (expected, found) = (rows_of(reference.path(), collection), rows_of(output.path(), collection));
            assert_eq!(found.len(), expected.len());
            for (expected, found) in expected.iter().zip(found) {
                let without_vector = |row: &OutputRow| OutputRow { vector: None, ..row.clone() };
                assert_eq!(without_vector(&found), without_vector(expected), "{settings:?}");
                let pairs = expected.vector.iter().flatten().zip(found.vector.iter().flatten());
                let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(difference < 1e-6, "{settings:?}, {collection} {}: {difference:e}", found.id);
                assert_eq!(found.vector.is_some(), expected.vector.is_some());
            }
        }
    }
}

#[test]
fn of_broken_input_only_the_broken_is_lost() {
    let input = tempdir().unwrap();
    let write = |path: &str, bytes: &[u8]| {
        let path = input.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    fs::create_dir(input.path().join("nothing-here")).unwrap();
    write("a/1_chunks.json", br#"[{"text": "before the fault"}, {"text": oops}, {"text": "after the fault"}]"#);
    write("a/2_chunks.json", br#"[{"text": "in a file that"}, {"text": "breaks off he"#);
    write("a/3_chunks.json", br#"["only a string", {"text": ""}, {"text": " \n\t"}, {"no": "text"}, 7]"#);
    write("a/4_chunks.json", format!(r#"[{{"text": "{}"}}]"#, "long text ".repeat(20_000)).as_bytes());
    #[cfg(unix)]
    std::os::unix::fs::symlink("missing/target", input.path().join("a/5_chunks.json")).unwrap();

    let output = tempdir().unwrap();
    let run = Program::bare()
        .arguments(&["--model", TINY_MODEL, "--offline"])
        .path("--chunked-dir", input.path())
        .path("--output-dir", output.path())
        .run();
    assert_eq!(run.exit_code, 3, "{}", run.stderr);
    let rows = rows_of(output.path(), "a");
    let statuses: Vec<(&str, &str)> = rows.iter().map(|row| (row.id.as_str(), row.status.as_str())).collect();
    assert_eq!(
        statuses,
        [
            ("1_chunks.json#0", "ok"),
            ("1_chunks.json#1", "failed"),
            ("1_chunks.json#2", "ok"),
            ("2_chunks.json#0", "ok"),
            ("3_chunks.json#0", "ok"),
            ("3_chunks.json#1", "empty"),
            ("3_chunks.json#2", "empty"),
            ("3_chunks.json#3", "failed"),
            ("3_chunks.json#4", "failed"),
            ("4_chunks.json#0", "truncated"),
        ]
    );
    assert_eq!(rows[9].tokens, 80, "the model's limit");

    let summary = read_json(&output.path().join("run-summary.json"));
    check_schema("run-summary.schema.json", &summary);
    assert_eq!(summary["exit_code"], 3);
    assert_eq!(summary["empty_directories"].as_array().unwrap().len(), 1);
    assert_eq!(summary["collections"][0]["failed"], 3);
    assert!(summary["collections"][0]["tokens_truncated"].as_u64().unwrap() > 39_000);
    for (file, place) in [
        ("1_chunks.json", json!({"line": 1, "index": 1})),
        ("2_chunks.json", json!({"line": 1})),
        ("3_chunks.json", json!({"index": 3})),
        ("3_chunks.json", json!({"index": 4})),
        ("5_chunks.json", json!({})),
    ] {
        let errors = summary["collections"][0]["loading_errors"].as_array().unwrap();
        let told = errors.iter().any(|error| {
            error["path"].as_str().unwrap().ends_with(file)
                && place.as_object().unwrap().iter().all(|(key, value)| error[key] == *value)
        });
        assert!(told, "{file} {place} is not in {errors:#?}");
        assert!(run.stderr.contains(file), "{}", run.stderr);
    }
}

#[test]
fn the_collection_of_faults_is_embedded_as_far_as_it_goes() {
    let output = tempdir().unwrap();
    let run = Program::bare()
        .arguments(&["--model", TINY_MODEL, "--offline", "--chunked-dir", "tests/data/Broken"])
        .path("--output-dir", output.path())
        .run();
    assert_eq!(run.exit_code, 3, "{}", run.stderr);
    let summary = read_json(&output.path().join("run-summary.json"));
    check_schema("run-summary.schema.json", &summary);
    for collection in summary["collections"].as_array().unwrap() {
        let name = collection["name"].as_str().unwrap();
        let rows = rows_of(output.path(), name);
        assert_eq!(collection["chunks"], rows.len(), "{name}");
        let mut ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rows.len(), "ids of {name} are unique");
    }
}

#[test]
fn a_finished_output_is_kept_and_another_model_or_limit_is_refused() {
    let output = tempdir().unwrap();
    Program::tiny(output.path()).succeed();
    let before = tree(output.path());

    Program::tiny(output.path()).succeed();
    assert_same(&tree(output.path()), &before);
    let summary = read_json(&output.path().join("run-summary.json"));
    assert_eq!(summary["total_embeddings_generated"], 0);
    assert_eq!(summary["collections"][0]["kept"], summary["collections"][0]["chunks"]);

    Program::tiny(output.path()).arguments(&["--max-length", "40"]).fail(8, &["max_length", "--overwrite"]);
    Program::tiny(output.path()).variable("EMBEDDER_RESUME", "0").fail(8, &[]);
    assert_same(&tree(output.path()), &before);

    Program::tiny(output.path()).arguments(&["--max-length", "40", "--overwrite"]).succeed();
    assert!(rows_of(output.path(), "tidepool").iter().all(|row| row.tokens <= 40));
}

#[test]
fn a_changed_input_is_refused() {
    let (input, output) = (tempdir().unwrap(), tempdir().unwrap());
    let file = input.path().join("c/x.json");
    fs::create_dir(input.path().join("c")).unwrap();
    let program = |text: &str| {
        fs::write(&file, text).unwrap();
        Program::bare()
            .arguments(&["--model", TINY_MODEL, "--offline", "--shard-rows", "2"])
            .path("--chunked-dir", input.path())
            .path("--output-dir", output.path())
    };
    program(r#"["one", "two", "three"]"#).succeed();
    let before = tree(output.path());
    for changed in [
        r#"["one", "TWO", "three"]"#,
        r#"["one", "two", "three", "four"]"#,
        r#"["one", "two"]"#,
        r#"["one", "two", {"text": "three", "metadata": {"page": 1}}]"#,
    ] {
        program(changed).fail(8, &["--overwrite"]);
        assert_same(&tree(output.path()), &before);
    }
}

/// One collection of many short chunks, so that a run takes a while.
fn many_chunks(directory: &Path, chunks: usize) {
    fs::create_dir_all(directory.join("many")).unwrap();
    let mut file = std::io::BufWriter::new(fs::File::create(directory.join("many/m.jsonl")).unwrap());
    for number in 0..chunks {
        let text =
            format!("Chunk number {number} tells of {} and of little else.", ["tides", "reeds", "clouds"][number % 3]);
        writeln!(file, "{}", json!({ "text": text, "metadata": { "chunk_id": format!("c{number}") } })).unwrap();
    }
}

#[cfg(unix)]
#[track_caller]
fn check_stop(signal: &str, exit_code: i32) {
    let (input, whole, output) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    many_chunks(input.path(), 20_000);
    let program = |output: &Path| {
        Program::bare()
            .arguments(&["--model", TINY_MODEL, "--offline", "--shard-rows", "100", "--format", "jsonl,npy"])
            .path("--chunked-dir", input.path())
            .path("--output-dir", output)
    };
    program(whole.path()).succeed();

    let child = program(output.path()).start();
    let first_shard = output.path().join("many/bert-minilm/part-00000.npy");
    let start = Instant::now();
    while !first_shard.exists() {
        assert!(start.elapsed() < Duration::from_mins(1), "no shard appears");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let stopped = child.wait_with_output().unwrap();
    assert_eq!(stopped.status.code(), Some(exit_code), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert!(String::from_utf8_lossy(&stopped.stdout).contains("the same command goes on"));
    let summary = read_json(&output.path().join("run-summary.json"));
    check_schema("run-summary.schema.json", &summary);
    assert_eq!(summary["status"], "stopped");
    let kept = summary["collections"][0]["chunks"].as_u64().unwrap();
    assert!((100..20_000).contains(&kept) && kept.is_multiple_of(100), "{kept} rows are committed");

    program(output.path()).succeed();
    assert_eq!(read_json(&output.path().join("run-summary.json"))["collections"][0]["kept"], kept);
    assert_same(&tree(output.path()), &tree(whole.path()));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_commits_and_goes_on_later() {
    check_stop("-INT", 130);
}

#[cfg(unix)]
#[test]
fn a_terminated_run_commits_and_goes_on_later() {
    check_stop("-TERM", 143);
}

#[test]
fn the_time_limit_stops_like_a_signal() {
    let (input, output) = (tempdir().unwrap(), tempdir().unwrap());
    many_chunks(input.path(), 200_000);
    let run = Program::bare()
        .arguments(&["--model", TINY_MODEL, "--offline", "--max-duration", "1s"])
        .path("--chunked-dir", input.path())
        .path("--output-dir", output.path())
        .run();
    assert_eq!(run.exit_code, 143, "{}", run.stderr);
    assert!(run.stderr.contains("time limit"), "{}", run.stderr);
}

#[test]
fn two_runs_into_one_directory_are_refused() {
    let (input, output) = (tempdir().unwrap(), tempdir().unwrap());
    many_chunks(input.path(), 100_000);
    let program = || {
        Program::bare()
            .arguments(&["--model", TINY_MODEL, "--offline"])
            .path("--chunked-dir", input.path())
            .path("--output-dir", output.path())
    };
    let mut first = program().start();
    while !output.path().join("events.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let second = program().run();
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(second.exit_code, 9, "{}", second.stderr);
    assert!(second.stderr.contains(output.path().to_str().unwrap()), "{}", second.stderr);
}

#[track_caller]
fn check_refusal(program: Program, exit_code: i32, message: &[&str]) {
    assert_eq!(program.fail(exit_code, message).stdout, "");
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let output = tempdir().unwrap();
    let tiny = || Program::tiny(output.path());
    check_refusal(tiny().variable("EMBEDDER_BATCHSIZE", "3"), 2, &["EMBEDDER_BATCHSIZE", "EMBEDDER_BATCH_SIZE"]);
    check_refusal(tiny().arguments(&["--shard-rows", "0"]), 2, &["--shard-rows", "at least 1"]);
    check_refusal(tiny().arguments(&["--prompt", "x", "--prompt-name", "y"]), 2, &["--prompt", "--prompt-name"]);
    check_refusal(tiny().arguments(&["--max-length", "81"]), 2, &["--max-length", "80"]);
    check_refusal(tiny().arguments(&["--truncate-dim", "33"]), 2, &["--truncate-dim", "32"]);
    check_refusal(tiny().arguments(&["--prompt-name", "nonsense"]), 5, &["nonsense"]);
    check_refusal(tiny().arguments(&["--collections", "tidepool", "reef"]), 4, &["reef", "field-guide"]);
    let missing = output.path().join("missing");
    check_refusal(Program::bare().path("--chunked-dir", &missing), 4, &[missing.to_str().unwrap()]);
    check_refusal(
        Program::new(output.path()).arguments(&["--model", "no-such-model", "--offline"]),
        5,
        &["no-such-model"],
    );
    check_refusal(
        Program::bare().arguments(&["--chunked-dir", "tests/data/Chunked", "--output-dir", "Cargo.toml/x"]),
        9,
        &["Cargo.toml"],
    );
}

#[test]
fn a_failed_run_says_so_in_its_summary() {
    let output = tempdir().unwrap();
    let run = Program::tiny(output.path()).arguments(&["--prompt-name", "nonsense"]).run();
    assert_eq!(run.exit_code, 5);
    let summary = read_json(&output.path().join("run-summary.json"));
    check_schema("run-summary.schema.json", &summary);
    assert_eq!((&summary["status"], &summary["exit_code"]), (&json!("failed"), &json!(5)));
    assert!(summary["error"].as_str().unwrap().contains("nonsense"));
}

#[test]
fn progress_and_log_leave_standard_output_alone() {
    let output = tempdir().unwrap();
    let run = Program::tiny(output.path()).arguments(&["--progress", "json", "--log-format", "json"]).succeed();
    for line in run.stderr.lines() {
        let value: Result<Value, _> = serde_json::from_str(line);
        assert!(value.is_ok(), "{line}");
    }
    assert!(run.stdout.lines().all(|line| !line.starts_with('{')), "{}", run.stdout);
}

#[test]
fn a_part_of_the_dimensions_is_cut_and_normalised_again() {
    let (whole, part) = (tempdir().unwrap(), tempdir().unwrap());
    Program::tiny(whole.path()).succeed();
    Program::tiny(part.path()).arguments(&["--truncate-dim", "8"]).succeed();
    for (whole, part) in rows_of(whole.path(), "tidepool").iter().zip(rows_of(part.path(), "tidepool")) {
        let (whole, part) = (whole.vector.as_ref().unwrap(), part.vector.unwrap());
        let length = whole[..8].iter().map(|x| x * x).sum::<f32>().sqrt();
        assert_eq!(part.len(), 8);
        for (component, expected) in part.iter().zip(whole) {
            assert!((component - expected / length).abs() < 1e-6);
        }
    }
}
