//! Outputs that are brought up to an input that has changed, and vectors that runs share: always with the bytes that a run
//! leaves which began with nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::program::{Program, TINY_MODEL, assert_same, check_schema, read_json, read_jsonl, rows_of, tree};

/// A model, shards of a few rows, two formats.
fn program(input: &Path, output: &Path) -> Program {
    let program = Program::between(input, output).arguments(&["--model", TINY_MODEL]);
    program.arguments(&["--shard-rows", "8", "--format", "jsonl,parquet"])
}

/// Writes a collection of chunks with these ids and texts.
fn write(input: &Path, chunks: &[(&str, &str)]) {
    fs::create_dir_all(input.join("c")).unwrap();
    let chunk = |(id, text): &(&str, &str)| json!({"id": id, "text": text, "metadata": {"of": id}});
    fs::write(input.join("c/x.json"), Value::from(chunks.iter().map(chunk).collect::<Vec<_>>()).to_string()).unwrap();
}

/// So many chunks, some of them with the same text.
fn chunks(count: usize) -> Vec<(String, String)> {
    (0..count).map(|index| (format!("id{index}"), format!("a text about the number {}", index % 37))).collect()
}

fn borrowed(chunks: &[(String, String)]) -> Vec<(&str, &str)> {
    chunks.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect()
}

fn pass(output: &Path) -> Value {
    let summary = read_json(&output.join("run-summary.json"));
    check_schema("run-summary.schema.json", &summary);
    summary["passes"][0].clone()
}

/// All but what only an incremental run leaves.
fn vectors(output: &Path) -> Vec<(String, Vec<u8>)> {
    tree(output).into_iter().filter(|(path, _)| !path.ends_with("removed.jsonl")).collect()
}

#[track_caller]
fn assert_as_fresh(input: &Path, output: &Path) {
    let fresh = tempdir().unwrap();
    program(input, fresh.path()).succeed();
    assert_same(&vectors(output), &vectors(fresh.path()));
}

#[test]
fn what_is_new_or_changed_is_embedded_and_the_rest_is_kept() {
    let (input, output) = (tempdir().unwrap(), tempdir().unwrap());
    let mut all = chunks(40);
    write(input.path(), &borrowed(&all));
    program(input.path(), output.path()).arguments(&["--incremental"]).succeed();
    assert_eq!(pass(output.path())["rows_known"], 0);

    // The first goes, the twelfth changes, two are new, one of them in front.
    all.remove(0);
    all[11].1 = "another text".into();
    all.insert(0, ("before".into(), "a text that nobody has seen".into()));
    all.push(("behind".into(), "a text about the number 3".into()));
    write(input.path(), &borrowed(&all));
    program(input.path(), output.path()).fail(8, &["--incremental"]);
    program(input.path(), output.path()).arguments(&["--incremental"]).succeed();
    assert_as_fresh(input.path(), output.path());
    let (summary, pass) = (read_json(&output.path().join("run-summary.json")), pass(output.path()));
    assert_eq!((&pass["rows"], &pass["rows_known"]), (&json!(2), &json!(39)), "{pass}");
    let changes = json!({"kept": 38, "changed": 1, "new": 2, "removed": 1});
    assert_eq!(summary["collections"][0]["changes"], changes);
    let removed = || read_jsonl(&output.path().join("c/removed.jsonl"));
    assert_eq!(removed().iter().map(|row| row["id"].clone()).collect::<Vec<_>>(), ["id0"]);
    check_schema("removed.schema.json", &removed()[0]);

    // Nothing has changed, and nothing does.
    let before = tree(output.path());
    program(input.path(), output.path()).arguments(&["--incremental"]).succeed();
    assert_same(&tree(output.path()), &before);

    // What was removed comes back, and another goes.
    all[0] = ("id0".into(), "a text about the number 0".into());
    write(input.path(), &borrowed(&all));
    program(input.path(), output.path()).arguments(&["--incremental"]).succeed();
    assert_as_fresh(input.path(), output.path());
    assert_eq!(removed().iter().map(|row| row["id"].clone()).collect::<Vec<_>>(), ["before"]);
}

#[test]
fn metadata_formats_and_shards_change_without_a_vector_being_computed() {
    let (input, output) = (tempdir().unwrap(), tempdir().unwrap());
    let all = chunks(20);
    write(input.path(), &borrowed(&all));
    program(input.path(), output.path()).succeed();
    let text = fs::read_to_string(input.path().join("c/x.json")).unwrap();
    fs::write(input.path().join("c/x.json"), text.replace("\"of\"", "\"from\"")).unwrap();
    program(input.path(), output.path()).arguments(&["--incremental"]).succeed();
    assert_as_fresh(input.path(), output.path());
    assert_eq!(pass(output.path())["batches"], 0);

    let other = |output: &Path| {
        let program = Program::between(input.path(), output).arguments(&["--model", TINY_MODEL]);
        program.arguments(&["--shard-rows", "7", "--format", "arrow"])
    };
    other(output.path()).fail(8, &[]);
    other(output.path()).arguments(&["--incremental"]).succeed();
    let fresh = tempdir().unwrap();
    other(fresh.path()).succeed();
    assert_same(&vectors(output.path()), &vectors(fresh.path()));
    assert_eq!(pass(output.path())["batches"], 0);

    other(output.path()).arguments(&["--incremental", "--max-length", "20"]).fail(8, &["max_length"]);
    other(output.path()).arguments(&["--incremental", "--overwrite"]).fail(2, &[]);
}

#[test]
fn an_ensemble_is_brought_up_to_its_input_and_fused_again() {
    let (input, output, fresh) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    let run = |output: &Path, more: &[&str]| {
        let models = ["--ensemble-models", "tests/fixtures/models/bert-minilm", "tests/fixtures/models/mpnet-bias"];
        let leases = output.with_extension("leases");
        let program = Program::between(input.path(), output).arguments(&["--exclusive-ensemble", "--fusion", "concat"]);
        program.arguments(&models).arguments(more).variable("EMBED_LEASE_DIR", leases.to_str().unwrap()).succeed();
    };
    let mut all = chunks(30);
    write(input.path(), &borrowed(&all));
    run(output.path(), &[]);
    all.swap(3, 25);
    all.push(("new".into(), "new".into()));
    write(input.path(), &borrowed(&all));
    run(output.path(), &["--incremental"]);
    run(fresh.path(), &[]);
    assert_same(&vectors(output.path()), &vectors(fresh.path()));
    let summary = read_json(&output.path().join("run-summary.json"));
    for pass in summary["passes"].as_array().unwrap() {
        assert_eq!((&pass["rows"], &pass["rows_known"]), (&json!(1), &json!(30)), "{pass}");
    }
}

#[test]
fn equal_texts_of_a_shard_are_embedded_once_and_fail_together() {
    let (input, output) = (tempdir().unwrap(), tempdir().unwrap());
    write(input.path(), &[("a", "one"), ("b", "two"), ("c", "one"), ("d", ""), ("e", "one")]);
    program(input.path(), output.path()).succeed();
    let pass = pass(output.path());
    assert_eq!((&pass["rows"], &pass["rows_repeated"]), (&json!(2), &json!(2)));
    let rows = rows_of(output.path(), "c");
    assert!(rows[0].vector.is_some() && rows[0].vector == rows[2].vector && rows[0].vector == rows[4].vector);
    assert_ne!(rows[0].vector, rows[1].vector);
    assert_eq!(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
    assert_eq!(rows[2].tokens, rows[0].tokens);
}

#[test]
fn a_cache_serves_every_collection_and_every_later_run() {
    let (input, cache) = (tempdir().unwrap(), tempdir().unwrap());
    let (first, second, third) = (tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap());
    write(input.path(), &borrowed(&chunks(80)));
    fs::create_dir_all(input.path().join("d")).unwrap();
    fs::copy(input.path().join("c/x.json"), input.path().join("d/x.json")).unwrap();
    let with_cache = |output: &Path| program(input.path(), output).path("--cache-dir", cache.path());
    with_cache(first.path()).succeed();
    let done = pass(first.path());
    assert_eq!(done["rows"], 37, "each text is embedded once: {done}");
    assert_eq!(done["rows_known"].as_u64().unwrap() + done["rows_repeated"].as_u64().unwrap(), 160 - 37);
    with_cache(second.path()).succeed();
    assert_eq!((&pass(second.path())["rows"], &pass(second.path())["rows_known"]), (&json!(0), &json!(160)));
    program(input.path(), third.path()).succeed();
    assert!(vectors(first.path()) == vectors(third.path()) && vectors(second.path()) == vectors(third.path()));

    // Another model, length or prompt is another space.
    with_cache(tempdir().unwrap().path()).arguments(&["--max-length", "5"]).succeed();
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2);

    // What is damaged is told of and computed again.
    let space = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path()).find(|space| {
        fs::read_dir(space).unwrap().count() > 1 && space.to_str().unwrap().contains(third_space(third.path()).as_str())
    });
    for entry in fs::read_dir(space.unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let fourth = tempdir().unwrap();
    let finished = with_cache(fourth.path()).succeed();
    assert!(finished.stderr.contains(".arrow"), "{}", finished.stderr);
    assert_same(&vectors(fourth.path()), &vectors(third.path()));
}

fn third_space(output: &Path) -> String {
    read_json(&output.join("c/bert-minilm/manifest.json"))["vector_space"].as_str().unwrap().to_owned()
}

#[test]
fn a_cache_that_cannot_be_written_harms_nothing() {
    let (input, output) = (tempdir().unwrap(), tempdir().unwrap());
    write(input.path(), &borrowed(&chunks(20)));
    let file = input.path().join("not-a-directory");
    fs::write(&file, "").unwrap();
    let finished = program(input.path(), output.path()).path("--cache-dir", &file).succeed();
    assert!(finished.stderr.contains("not-a-directory"), "{}", finished.stderr);
    assert_as_fresh(input.path(), output.path());
}

#[test]
fn an_incremental_run_that_is_killed_again_and_again_ends_like_one_that_is_not() {
    let (input, output) = (tempdir().unwrap(), tempdir().unwrap());
    let mut all = chunks(600);
    for (index, (_, text)) in all.iter_mut().enumerate() {
        *text = format!("{text} and {index}");
    }
    write(input.path(), &borrowed(&all));
    program(input.path(), output.path()).succeed();
    for (index, (_, text)) in all.iter_mut().enumerate().filter(|(index, _)| index % 3 == 0) {
        *text = format!("{text}, changed {index}");
    }
    all.remove(17);
    write(input.path(), &borrowed(&all));
    let mut kills = 0;
    for milliseconds in (0..).map(|kill| 15 + 9 * kill) {
        let mut child = program(input.path(), output.path()).arguments(&["--incremental"]).start();
        std::thread::sleep(Duration::from_millis(milliseconds));
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0));
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills > 3, "{kills} kills");
    assert_as_fresh(input.path(), output.path());
    assert_eq!(read_jsonl(&output.path().join("c/removed.jsonl"))[0]["id"], "id17");
    assert!(!output.path().join("c/.previous").exists());
}
