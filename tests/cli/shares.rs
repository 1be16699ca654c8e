//! One job, divided into shares that are done in any order, at the same time, and some of them killed: merged, they are
//! what a single run leaves, byte for byte. What is wrong on the way is said, with the command that mends it.
//!
//! `ROUNDS=50 CHUNKED=DIRECTORY cargo test --test cli shares::shares_in_any_order -- --nocapture` kills more often, over other chunks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{Moments, Program, TINY_MODEL, assert_same, check_schema, read_json, tree};

const SHARES: u32 = 8;

fn chunked() -> PathBuf {
    std::env::var_os("CHUNKED").map_or_else(|| "tests/data/Chunked".into(), PathBuf::from)
}

/// Parts so small that every share has several.
fn job(output: &Path) -> Program {
    Program::between(&chunked(), output)
        .arguments(&["--progress", "none", "--shard-rows", "3"])
        .variable("EMBED_LEASE_DIR", output.with_extension("leases").to_str().unwrap())
}

fn tiny(output: &Path) -> Program {
    job(output).arguments(&["--model", TINY_MODEL, "--format", "jsonl,parquet,arrow,npy"])
}

fn ensemble(output: &Path) -> Program {
    job(output).arguments(&["--ensemble-models", "tests/fixtures/models/mpnet-bias", TINY_MODEL]).arguments(&[
        "--format",
        "jsonl,npy",
        "--truncate-dim",
        "12",
    ])
}

fn share(program: Program, number: u32) -> Program {
    program.arguments(&["--shard", &format!("{number}/{SHARES}")])
}

fn command(name: &str, output: &Path) -> Program {
    Program::bare().arguments(&[name, output.to_str().unwrap()])
}

fn json(name: &str, output: &Path) -> (i32, Value) {
    let run = command(name, output).arguments(&["--json"]).run();
    let value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr));
    (run.exit_code, value)
}

/// All shares in an order that looks random.
fn shuffled(moments: &mut Moments) -> Vec<u32> {
    let mut shares: Vec<(f64, u32)> = (0..SHARES).map(|share| (moments.next(), share)).collect();
    shares.sort_by(|one, other| one.0.total_cmp(&other.0));
    shares.into_iter().map(|(_, share)| share).collect()
}

#[test]
fn shares_in_any_order_some_of_them_killed_merge_into_the_bytes_of_one_run() {
    let rounds = std::env::var("ROUNDS").map_or(2, |rounds| rounds.parse().unwrap());
    let directory = tempdir().unwrap();
    let whole = directory.path().join("whole");
    tiny(&whole).succeed();
    let start = Instant::now();
    share(tiny(&directory.path().join("timed")), 0).succeed();
    let time = start.elapsed().as_secs_f64();

    let (mut moments, mut kills) = (Moments(7), 0);
    for round in 0..rounds {
        let output = directory.path().join(format!("round-{round}"));
        // Three at a time, which get into each other's way if they can.
        for group in shuffled(&mut moments).chunks(3) {
            let mut running: Vec<_> =
                group.iter().map(|number| (*number, share(tiny(&output), *number).start())).collect();
            for (number, child) in &mut running {
                if moments.next() < 0.6 {
                    std::thread::sleep(Duration::from_secs_f64(time * moments.next()));
                    if child.try_wait().unwrap().is_none() {
                        child.kill().unwrap();
                        child.wait().unwrap();
                        kills += 1;
                        *child = share(tiny(&output), *number).start();
                    }
                }
            }
            for (number, child) in running {
                let ended = child.wait_with_output().unwrap();
                let words = String::from_utf8_lossy(&ended.stderr);
                assert_eq!(ended.status.code(), Some(0), "share {number} of round {round}: {words}");
            }
        }
        let (exit_code, status) = json("status", &output);
        assert_eq!((exit_code, &status["state"]), (3, &"unmerged".into()));
        command("merge", &output).succeed();
        assert_same(&tree(&output), &tree(&whole));
        assert_eq!(json("verify", &output).1["state"], "complete");
        fs::remove_dir_all(&output).unwrap();
    }
    println!("{kills} kills in {rounds} rounds of {SHARES} shares");
    assert!(kills > 0, "the kills came too late to tell");
}

#[test]
fn an_ensemble_in_shares_is_fused_after_merging_as_if_it_had_never_been_divided() {
    let directory = tempdir().unwrap();
    let [whole, output] = ["whole", "shares"].map(|name| directory.path().join(name));
    ensemble(&whole).succeed();
    for number in [3, 1, 0, 2] {
        let run = ensemble(&output).arguments(&["--shard", &format!("{number}/4")]).succeed();
        assert!(run.stdout.contains(&format!("share {number}/4 is complete")), "{}", run.stdout);
        assert!(run.stderr.contains("a share is not fused"), "{}", run.stderr);
    }
    command("merge", &output).succeed();
    ensemble(&output).succeed();
    assert_same(&tree(&output), &tree(&whole));
    assert_eq!(
        read_json(&output.join("run-summary.json"))["total_embeddings_generated"],
        0,
        "nothing is embedded again"
    );
}

#[test]
fn schedulers_tell_which_share_it_is() {
    let directory = tempdir().unwrap();
    let output = directory.path().join("out");
    let slurm = |task: &str| {
        tiny(&output)
            .arguments(&["--shard", "auto"])
            .variable("SLURM_ARRAY_TASK_ID", task)
            .variable("SLURM_ARRAY_TASK_COUNT", "2")
            .variable("SLURM_ARRAY_TASK_MIN", "1")
            .variable("SLURM_ARRAY_TASK_MAX", "2")
    };
    let run = slurm("2").succeed();
    assert!(run.stderr.contains("SLURM_ARRAY_TASK_ID makes this share 1/2"), "{}", run.stderr);
    let summary = read_json(&output.join("run-summary.share-1-of-2.json"));
    check_schema("run-summary.schema.json", &summary);
    assert_eq!(summary["config"]["shard"], "1/2");
    assert_eq!(summary["config_provenance"]["shard"], "command line --shard (SLURM_ARRAY_TASK_ID)");
    let manifest = output.join("tidepool/bert-minilm/manifest.share-1-of-2.json");
    check_schema("manifest.schema.json", &read_json(&manifest));
    slurm("3").fail(2, &["command line --shard", "numbered one after the other"]);
    tiny(&output).variable("EMBEDDER_SHARD", "auto/2").variable("JOB_COMPLETION_INDEX", "0").succeed();
    command("merge", &output).succeed();
    tiny(&output).arguments(&["--shard", "2/2"]).fail(2, &["counted from 0"]);
    tiny(&output).arguments(&["--shard", "0/2", "--overwrite"]).fail(2, &["contradict"]);
}

#[test]
fn what_is_missing_damaged_or_in_the_way_is_said_with_the_way_out() {
    let directory = tempdir().unwrap();
    let output = directory.path().join("out");
    command("status", &output).fail(4, &["cannot read"]);
    command("merge", &output).fail(4, &["has no shares"]);
    for number in (0..SHARES).filter(|number| *number != 5) {
        share(tiny(&output), number).succeed();
    }
    let before = tree(&output);
    command("merge", &output)
        .fail(3, &["share 5/8 is missing (field-guide/bert-minilm", "run the same command again with --shard 5/8"]);
    let status = command("status", &output).run();
    assert_eq!(status.exit_code, 3, "{}", status.stdout);
    assert!(status.stdout.contains("missing: 5/8"), "{}", status.stdout);
    assert!(status.stdout.contains("run the same command again with --shard 5/8; then embed-collections merge"));
    tiny(&output).fail(8, &["of a job that was divided into 8 shares", "embed-collections merge", "--overwrite"]);
    tiny(&output).arguments(&["--shard", "0/4"]).fail(8, &["has share 0/8 already", "--shard N/8"]);
    assert_eq!(tree(&output), before, "nothing is changed by what is refused");

    share(tiny(&output), 5).succeed();
    let part = output.join("tidepool/bert-minilm/part-00001.parquet");
    let mut bytes = fs::read(&part).unwrap();
    bytes[100] ^= 1;
    fs::write(&part, bytes).unwrap();
    command("merge", &output)
        .fail(8, &["part-00001.parquet has other content", "run the same command again with --shard"]);
    assert_eq!(command("status", &output).run().exit_code, 3, "the length alone does not tell");
    let verify = command("verify", &output).run();
    assert_eq!(verify.exit_code, 8, "{}", verify.stdout);
    assert!(verify.stdout.contains("part-00001.parquet"), "{}", verify.stdout);
    let (_, report) = json("verify", &output);
    check_schema("status.schema.json", &report);
    let shares =
        report["collections"].as_array().unwrap().iter().filter_map(|it| it["outputs"][0]["shares"].as_array());
    let damaged: Vec<&Value> = shares.flatten().filter(|share| share["state"] == "damaged").collect();
    let [one] = damaged.as_slice() else { panic!("{damaged:?}") };
    tiny(&output).arguments(&["--shard", one["share"].as_str().unwrap()]).succeed();

    let (exit_code, merged) = json("merge", &output);
    assert_eq!(exit_code, 0, "{merged}");
    check_schema("merged.schema.json", &merged);
    command("merge", &output).fail(4, &["has no shares"]);
    share(tiny(&output), 5).fail(8, &["share 5/8 has no place beside it"]);
    let whole = directory.path().join("whole");
    tiny(&whole).succeed();
    assert_same(&tree(&output), &tree(&whole));
    // The plain command finds everything there.
    tiny(&output).succeed();
    assert_same(&tree(&output), &tree(&whole));
}

#[test]
fn status_and_verify_tell_of_every_state_and_change_nothing() {
    let directory = tempdir().unwrap();
    let output = directory.path().join("out");
    tiny(&output).succeed();
    let check = |name: &str, exit_code: i32, words: &str| {
        let before = tree(&output);
        let run = command(name, &output).run();
        assert_eq!(run.exit_code, exit_code, "{name}: {}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains(words), "{words} is not in {}", run.stdout);
        let (again, report) = json(name, &output);
        check_schema("status.schema.json", &report);
        assert_eq!(again, exit_code);
        assert_eq!(tree(&output), before);
    };
    check("status", 0, "complete and sound");
    check("verify", 0, "every file was read");

    let of = |name: &str| output.join("tidepool/bert-minilm").join(name);
    fs::write(output.join("tidepool/notes.txt"), "mine").unwrap();
    fs::write(of("part-00099.jsonl.partial"), "{").unwrap();
    check("status", 0, "notes.txt is foreign");
    check("verify", 0, "part-00099.jsonl.partial is stale");

    let vectors = fs::read(of("part-00001.npy")).unwrap();
    fs::write(of("part-00001.npy"), &vectors[1..]).unwrap();
    check("status", 8, "part-00001.npy: has");
    check("verify", 8, "part-00001.npy");
    fs::remove_file(of("manifest.json")).unwrap();
    fs::create_dir_all(directory.path().join("empty")).unwrap();
    command("verify", &directory.path().join("empty")).fail(4, &["holds no output"]);
    // The same command mends everything.
    tiny(&output).succeed();
    check("verify", 0, "complete and sound");
}

#[test]
fn an_unfinished_run_is_told_from_a_finished_one_and_from_one_that_is_at_work() {
    let directory = tempdir().unwrap();
    let output = directory.path().join("out");
    let mut child = Program::tiny(&output).arguments(&["--shard-rows", "1", "--progress", "none"]).start();
    let manifest = output.join("field-guide/bert-minilm/manifest.json");
    while !manifest.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be seen");
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = command("status", &output).run();
    let at_work = child.try_wait().unwrap().is_none();
    assert!(!at_work || status.stdout.contains("is writing at this moment"), "{}", status.stdout);
    let killed = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(killed, "the run was too fast to be killed");
    let verify = command("verify", &output).run();
    assert_eq!(verify.exit_code, 3, "{}", verify.stdout);
    assert!(verify.stdout.contains("run the same command again: it goes on where it was"), "{}", verify.stdout);
    assert!(!verify.stdout.contains("is writing at this moment"), "{}", verify.stdout);
}
