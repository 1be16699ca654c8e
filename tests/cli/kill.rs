//! The program is killed again and again, in the middle of whatever it does, and started again: what it leaves in the end
//! must be what a run leaves that nobody disturbed, byte for byte, and little of what it did may have been in vain.
//!
//! `KILLS=300 CHUNKED=DIRECTORY cargo test --test cli kill:: -- --nocapture` kills more often, over other chunks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Moments, Program, assert_same, read_json, tree};

/// How often a test run kills, unless told otherwise.
const KILLS: usize = 16;

/// A kill later than this part of an undisturbed run's time mostly comes too late.
const LATEST_KILL: f64 = 0.9;

/// So few that most kills come in the middle of a shard.
const SHARD_ROWS: u64 = 16;

/// Three models, one after the other, and their mean.
fn ensemble(chunked: &Path, output: &Path) -> Program {
    Program::between(chunked, output)
        .arguments(&["--exclusive-ensemble", "--progress", "none"])
        .arguments(&["--log-level", "debug", "--log-format", "json"])
        .arguments(&["--shard-rows", &SHARD_ROWS.to_string()])
        .arguments(&["--format", "jsonl,parquet", "--truncate-dim", "12"])
        .arguments(&["--ensemble-models", "tests/fixtures/models/bert-minilm", "tests/fixtures/models/mpnet-bias"])
        .arguments(&["tests/fixtures/models/static-st"])
        .variable("EMBED_LEASE_DIR", output.with_extension("leases").to_str().unwrap())
}

/// How often each shard was reported as committed. The last line may be torn, by a kill.
fn commits(output: &Path) -> BTreeMap<(String, String, u64), usize> {
    let text = fs::read_to_string(output.join("events.jsonl")).unwrap_or_default();
    let mut commits = BTreeMap::new();
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if event["event_type"] == "shard_committed" {
            let word = |key: &str| event[key].as_str().unwrap().to_owned();
            *commits.entry((word("collection"), word("model"), event["shard"].as_u64().unwrap())).or_default() += 1;
        }
    }
    commits
}

/// Rows that a process began to encode, by model, collection and shard. All are on one device.
fn begun(log: &Path) -> BTreeMap<(String, String, u64), u64> {
    let text = fs::read_to_string(log).unwrap();
    let mut begun = BTreeMap::new();
    for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let fields = &line["fields"];
        if fields["message"] == "begins with a batch" {
            assert_eq!(fields["device"], "cpu");
            let word = |key: &str| fields[key].as_str().unwrap().to_owned();
            let shard = (word("model"), word("collection"), fields["shard"].as_u64().unwrap());
            *begun.entry(shard).or_default() += fields["rows"].as_u64().unwrap();
        }
    }
    begun
}

fn is_committed(output: &Path, model: &str, collection: &str, shard: u64) -> bool {
    let manifest = output.join(collection).join(model).join("manifest.json");
    manifest.exists() && read_json(&manifest)["shards"].as_array().unwrap().iter().any(|it| it["number"] == shard)
}

/// Rows that a process encoded, or began to encode, and what came of them: no more than one shard of a model may be begun
/// and not committed.
#[derive(Debug, Default)]
struct Work {
    rows: u64,
    /// Those that have to be encoded once more.
    in_vain: u64,
}

impl Work {
    fn of(output: &Path, log: &Path) -> Self {
        let mut work = Self::default();
        let mut unfinished: BTreeMap<String, (String, u64)> = BTreeMap::new();
        for ((model, collection, shard), rows) in begun(log) {
            work.rows += rows;
            if !is_committed(output, &model, &collection, shard) {
                assert!(rows <= SHARD_ROWS, "{rows} rows of shard {shard} of {collection} were begun for {model}");
                work.in_vain += rows;
                let other = unfinished.insert(model, (collection.clone(), shard));
                assert_eq!(other, None, "{collection}, shard {shard}: begun while another shard was not committed");
            }
        }
        work
    }
}

#[test]
fn a_run_that_is_killed_at_random_ends_with_the_bytes_of_one_that_is_not() {
    let kills_wanted = std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let chunked = std::env::var_os("CHUNKED").map_or_else(|| "tests/data/Chunked".into(), PathBuf::from);
    let directory = tempfile::tempdir().unwrap();
    let undisturbed = directory.path().join("undisturbed");
    let start = Instant::now();
    let log = directory.path().join("log");
    let to_log = || File::create(&log).unwrap();
    let finished = ensemble(&chunked, &undisturbed).start_with(to_log()).wait().unwrap();
    let whole = start.elapsed().as_secs_f64();
    assert_eq!(finished.code(), Some(0), "{}", fs::read_to_string(&log).unwrap());
    let rows_of_a_run = Work::of(&undisturbed, &log).rows;
    assert!(rows_of_a_run > SHARD_ROWS * 10, "{rows_of_a_run} rows");
    let (expected, shards) = (tree(&undisturbed), commits(&undisturbed).len());
    assert!(shards > 10, "{shards} shards");

    let mut moments = Moments(1);
    let (mut kills, mut rounds, mut in_the_middle) = (0, 0, 0);
    let (mut in_vain, mut most_in_vain) = (0, 0);
    while kills < kills_wanted {
        let output = directory.path().join(format!("round-{rounds}"));
        rounds += 1;
        loop {
            let mut child = ensemble(&chunked, &output).start_with(to_log());
            let delay = Duration::from_secs_f64(whole * LATEST_KILL * moments.next());
            let ended =
                if kills < kills_wanted { ended_within(&mut child, delay) } else { Some(child.wait().unwrap()) };
            let Some(status) = ended else {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                let work = Work::of(&output, &log);
                in_vain += work.in_vain;
                most_in_vain = most_in_vain.max(work.in_vain);
                let done = commits(&output).len();
                in_the_middle += usize::from(0 < done && done < shards);
                continue;
            };
            assert_eq!(status.code(), Some(0), "after {kills} kills, in {}", output.display());
            assert_eq!(Work::of(&output, &log).in_vain, 0, "what a whole run encodes is committed");
            break;
        }
        assert_same(&tree(&output), &expected);
        // A commit whose report was lost with the process is reported never; none may be reported twice.
        let twice: Vec<_> = commits(&output).into_iter().filter(|(_, times)| *times > 1).collect();
        assert!(twice.is_empty(), "committed shards were done again: {twice:?}");
        fs::remove_dir_all(&output).unwrap();
    }
    println!(
        "{kills} kills, {in_the_middle} of them between two commits, in {rounds} runs to the end of {shards} shards and \
         {rows_of_a_run} rows to encode; {in_vain} rows were encoded, or begun, in vain, at most {most_in_vain} by a kill"
    );
    assert!(in_the_middle > 0, "the kills came too early or too late to tell");
}

/// How a process ended, if it did within a time.
fn ended_within(child: &mut std::process::Child, time: Duration) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() > time {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
