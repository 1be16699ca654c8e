//! One job, divided into shares that are done in any order, at the same time, and some of them killed: merged, they are
//! what a single run leaves, byte for byte. What is wrong on the way is said, with the command that mends it.
//!
//! `ROUNDS=50 CHUNKED=DIRECTORY cargo test --test cli shares::shares_in_any_order -- --nocapture` kills more often, over other chunks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{self, Finished, Program, check_schema, tree};

const SHARES: u32 = 8;

fn chunked() -> PathBuf {
    std::env::var_os("CHUNKED").map_or_else(|| "tests/data/Chunked".into(), PathBuf::from)
}

/// Parts so small that every share has several.
fn job(output: &Path) -> Program {
    Program::bare()
        .path("--chunked-dir", &chunked())
        .path("--output-dir", output)
        .arguments(&["--offline", "--force-cpu", "--progress", "none", "--shard-rows", "3"])
        .variable("EMBED_LEASE_DIR", output.with_extension("leases").to_str().unwrap())
}

fn tiny(output: &Path) -> Program {
    job(output).arguments(&["--model", program::TINY_MODEL, "--format", "jsonl,parquet,arrow,npy"])
}

fn ensemble(output: &Path) -> Program {
    job(output).arguments(&["--ensemble-models", "tests/fixtures/models/mpnet-bias", program::TINY_MODEL]).arguments(&[
        "--format",
        "jsonl,npy",
        "--truncate-dim",
        "12",
    ])
}

fn share(program: Program, number: u32) -> Program {
    program.arguments(&["--shard", &format!("{number}/{SHARES}")])
}

fn command(name: &str, output: &Path) -> Finished {
    Program::bare().arguments(&[name, output.to_str().unwrap()]).run()
}

fn json(name: &str, output: &Path) -> (i32, Value) {
    let run = Program::bare().arguments(&[name, output.to_str().unwrap(), "--json"]).run();
    let value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr));
    (run.exit_code, value)
}

#[track_caller]
fn succeed(run: &Finished) {
    assert_eq!(run.exit_code, 0, "{}{}", run.stdout, run.stderr);
}

#[track_caller]
fn fail(run: &Finished, exit_code: i32, parts: &[&str]) {
    assert_eq!(run.exit_code, exit_code, "{}{}", run.stdout, run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "{part} is not in {}", run.stderr);
    }
}

#[track_caller]
fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (tree(found), tree(expected));
    let names = |tree: &[(String, Vec<u8>)]| tree.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        assert!(found == expected, "{name} differs");
    }
}

/// Numbers that look random and are the same in every test run.
struct Moments(u64);

impl Moments {
    /// Between 0 and 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1_u64 << 24) as f64
    }

    fn shuffled(&mut self) -> Vec<u32> {
        let mut shares: Vec<(f64, u32)> = (0..SHARES).map(|share| (self.next(), share)).collect();
        shares.sort_by(|one, other| one.0.total_cmp(&other.0));
        shares.into_iter().map(|(_, share)| share).collect()
    }
}

#[test]
fn shares_in_any_order_some_of_them_killed_merge_into_the_bytes_of_one_run() {
    let rounds = std::env::var("ROUNDS").map_or(2, |rounds| rounds.parse().unwrap());
    let directory = tempdir().unwrap();
    let whole = directory.path().join("whole");
    succeed(&tiny(&whole).run());
    let start = Instant::now();
    succeed(&share(tiny(&directory.path().join("timed")), 0).run());
    let time = start.elapsed().as_secs_f64();

    let (mut moments, mut kills) = (Moments(7), 0);
    for round in 0..rounds {
        let output = directory.path().join(format!("round-{round}"));
        // Three at a time, which get into each other's way if they can.
        for group in moments.shuffled().chunks(3) {
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
        succeed(&command("merge", &output));
        assert_same(&output, &whole);
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
    succeed(&ensemble(&whole).run());
    for number in [3, 1, 0, 2] {
        let run = ensemble(&output).arguments(&["--shard", &format!("{number}/4")]).run();
        succeed(&run);
        assert!(run.stdout.contains(&format!("share {number}/4 is complete")), "{}", run.stdout);
        assert!(run.stderr.contains("a share is not fused"), "{}", run.stderr);
    }
    succeed(&command("merge", &output));
    let finished = ensemble(&output).run();
    succeed(&finished);
    assert_same(&output, &whole);
    let members = fs::read_to_string(output.join("run-summary.json")).unwrap();
    let members: Value = serde_json::from_str(&members).unwrap();
    assert_eq!(members["total_embeddings_generated"], 0, "nothing is embedded again");
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
    let run = slurm("2").run();
    succeed(&run);
    assert!(run.stderr.contains("SLURM_ARRAY_TASK_ID makes this share 1/2"), "{}", run.stderr);
    let summary: Value =
        serde_json::from_str(&fs::read_to_string(output.join("run-summary.share-1-of-2.json")).unwrap()).unwrap();
    check_schema("run-summary.schema.json", &summary);
    assert_eq!(summary["config"]["shard"], "1/2");
    assert_eq!(summary["config_provenance"]["shard"], "command line --shard (SLURM_ARRAY_TASK_ID)");
    let manifest = output.join("tidepool/bert-minilm/manifest.share-1-of-2.json");
    check_schema("manifest.schema.json", &program::read_json(&manifest));
    fail(&slurm("3").run(), 2, &["command line --shard", "numbered one after the other"]);
    succeed(&tiny(&output).variable("EMBEDDER_SHARD", "auto/2").variable("JOB_COMPLETION_INDEX", "0").run());
    succeed(&command("merge", &output));
    fail(&tiny(&output).arguments(&["--shard", "2/2"]).run(), 2, &["counted from 0"]);
    fail(&tiny(&output).arguments(&["--shard", "0/2", "--overwrite"]).run(), 2, &["contradict"]);
}

#[test]
fn what_is_missing_damaged_or_in_the_way_is_said_with_the_way_out() {
    let directory = tempdir().unwrap();
    let output = directory.path().join("out");
    fail(&command("status", &output), 4, &["cannot read"]);
    fail(&command("merge", &output), 4, &["has no shares"]);
    for number in (0..SHARES).filter(|number| *number != 5) {
        succeed(&share(tiny(&output), number).run());
    }
    let before = tree(&output);
    let merge = command("merge", &output);
    fail(&merge, 3, &["share 5/8 is missing (field-guide/bert-minilm", "run the same command again with --shard 5/8"]);
    let status = command("status", &output);
    assert_eq!(status.exit_code, 3, "{}", status.stdout);
    assert!(status.stdout.contains("missing: 5/8"), "{}", status.stdout);
    assert!(status.stdout.contains("run the same command again with --shard 5/8; then embed-collections merge"));
    fail(
        &tiny(&output).run(),
        8,
        &["of a job that was divided into 8 shares", "embed-collections merge", "--overwrite"],
    );
    fail(&tiny(&output).arguments(&["--shard", "0/4"]).run(), 8, &["has share 0/8 already", "--shard N/8"]);
    assert_eq!(tree(&output), before, "nothing is changed by what is refused");

    succeed(&share(tiny(&output), 5).run());
    let part = output.join("tidepool/bert-minilm/part-00001.parquet");
    let mut bytes = fs::read(&part).unwrap();
    bytes[100] ^= 1;
    fs::write(&part, bytes).unwrap();
    let merge = command("merge", &output);
    fail(&merge, 8, &["part-00001.parquet has other content", "run the same command again with --shard"]);
    assert_eq!(command("status", &output).exit_code, 3, "the length alone does not tell");
    let verify = command("verify", &output);
    assert_eq!(verify.exit_code, 8, "{}", verify.stdout);
    assert!(verify.stdout.contains("part-00001.parquet"), "{}", verify.stdout);
    let (_, report) = json("verify", &output);
    check_schema("status.schema.json", &report);
    let shares =
        report["collections"].as_array().unwrap().iter().filter_map(|it| it["outputs"][0]["shares"].as_array());
    let damaged: Vec<&Value> = shares.flatten().filter(|share| share["state"] == "damaged").collect();
    let [one] = damaged.as_slice() else { panic!("{damaged:?}") };
    succeed(&tiny(&output).arguments(&["--shard", one["share"].as_str().unwrap()]).run());

    let (exit_code, merged) = json("merge", &output);
    assert_eq!(exit_code, 0, "{merged}");
    check_schema("merged.schema.json", &merged);
    fail(&command("merge", &output), 4, &["has no shares"]);
    fail(&share(tiny(&output), 5).run(), 8, &["share 5/8 has no place beside it"]);
    let whole = directory.path().join("whole");
    succeed(&tiny(&whole).run());
    assert_same(&output, &whole);
    // The plain command finds everything there.
    succeed(&tiny(&output).run());
    assert_same(&output, &whole);
}

#[test]
fn status_and_verify_tell_of_every_state_and_change_nothing() {
    let directory = tempdir().unwrap();
    let output = directory.path().join("out");
    succeed(&tiny(&output).run());
    let check = |name: &str, exit_code: i32, words: &str| {
        let before = tree(&output);
        let run = command(name, &output);
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
    fail(&command("verify", &directory.path().join("empty")), 4, &["holds no output"]);
    // The same command mends everything.
    succeed(&tiny(&output).run());
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
    let status = command("status", &output);
    let at_work = child.try_wait().unwrap().is_none();
    assert!(!at_work || status.stdout.contains("is writing at this moment"), "{}", status.stdout);
    let killed = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(killed, "the run was too fast to be killed");
    let verify = command("verify", &output);
    assert_eq!(verify.exit_code, 3, "{}", verify.stdout);
    assert!(verify.stdout.contains("run the same command again: it goes on where it was"), "{}", verify.stdout);
    assert!(!verify.stdout.contains("is writing at this moment"), "{}", verify.stdout);
}
