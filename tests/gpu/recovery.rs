//! The program on GPUs that run out of memory, fail or are lost in the middle of its work: no row may be lost or wrong.
//! Where `EMBED_TEST_STAND_IN` names the folder of the stand-ins for NVIDIA's libraries (`tests/gpu/numbers.sh` builds
//! them), which compute on the processor and fail when they are told to.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{Finished, OutputRow, Program, read_jsonl, read_rows, tree};
use crate::stand_in::StandIn;
use serde_json::Value;
use tempfile::TempDir;

/// What a component may differ by when batches are cut otherwise.
const TOLERANCE: f32 = 1e-5;

const TWO_GPUS: &str = "\
driver 580.65.06
cuda 13000
gpu GPU-00000000-0000-0000-0000-000000000000 8.0 81920 500 0 -1 0 Stand-in
gpu GPU-11111111-1111-1111-1111-111111111111 8.0 81920 500 0 -1 0 Stand-in
";

/// A machine with two GPUs, and where runs leave what they make.
struct Machine {
    libraries: PathBuf,
    driver: StandIn,
    directory: TempDir,
}

/// What the stand-in counted on a device.
struct Calls {
    launches: usize,
    products: usize,
    allocations: usize,
    refused: usize,
}

impl Machine {
    /// None where there are no stand-ins.
    fn new() -> Option<Self> {
        let Some(libraries) = std::env::var_os("EMBED_TEST_STAND_IN") else {
            println!("not checked: EMBED_TEST_STAND_IN names no stand-ins");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        Some(Self { libraries: libraries.into(), driver: StandIn::new(TWO_GPUS), directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A run in small batches into a directory, on these devices.
    fn run(&self, output: &str, devices: &str, variables: &[(&str, &str)]) -> Finished {
        self.run_in_batches("256", output, devices, variables)
    }

    /// The same in batches of up to so many tokens.
    fn run_in_batches(&self, tokens: &str, output: &str, devices: &str, variables: &[(&str, &str)]) -> Finished {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let mut program = Program::tiny(&self.path(output))
            .arguments(&["--devices", devices, "--dtype", "f32", "--progress", "none", "--batch-tokens", tokens])
            .variable("LD_LIBRARY_PATH", &path(&self.libraries))
            .variable("EMBEDDER_NVML_LIBRARY", &path(&self.driver.library()))
            .variable("EMBED_LEASE_DIR", &path(&self.path("leases")))
            .variable("XDG_CACHE_HOME", &path(&self.path(&format!("{output}-cache"))))
            .variable("CUDA_STAND_IN_DEVICES", "2")
            .variable("CUDA_STAND_IN_REPORT", &path(&self.path(&format!("{output}-report"))));
        for (name, value) in variables {
            program = program.variable(name, value);
        }
        program.run()
    }

    /// The rows of a run.
    fn rows(&self, output: &str) -> Vec<OutputRow> {
        let mut collections: Vec<PathBuf> =
            fs::read_dir(self.path(output)).unwrap().map(|entry| entry.unwrap().path()).collect();
        collections.retain(|path| path.is_dir());
        collections.sort();
        collections.iter().flat_map(|collection| read_rows(&collection.join("bert-minilm"))).collect()
    }

    fn events(&self, output: &str, kind: &str) -> Vec<Value> {
        let mut events = read_jsonl(&self.path(output).join("events.jsonl"));
        events.retain(|event| event["event_type"] == kind);
        events
    }

    fn calls(&self, output: &str, device: usize) -> Calls {
        let report = fs::read_to_string(self.path(&format!("{output}-report"))).unwrap();
        let line = report.lines().find(|line| line.starts_with(&format!("device {device}:"))).unwrap();
        let count = |of: &str| {
            let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
            words[words.iter().position(|word| *word == of).unwrap() - 1].parse().unwrap()
        };
        let [launches, products, allocations, refused] = ["kernels", "products", "allocations", "refused"].map(count);
        Calls { launches, products, allocations, refused }
    }

    /// The rows of an undisturbed run on one device, and what that took.
    #[track_caller]
    fn undisturbed(&self) -> (Vec<OutputRow>, Calls) {
        let finished = self.run("undisturbed", "cuda:0", &[]);
        assert_eq!(finished.exit_code, 0, "{}", finished.stderr);
        let rows = self.rows("undisturbed");
        assert!(rows.len() > 90 && rows.iter().all(|row| row.status != "failed"), "{} rows", rows.len());
        assert!(self.events("undisturbed", "mitigation").is_empty());
        (rows, self.calls("undisturbed", 0))
    }

    /// Every row is there, and as it should be.
    #[track_caller]
    fn check_rows(&self, output: &str, expected: &[OutputRow]) {
        let rows = self.rows(output);
        assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(expected) {
            let of = |row: &OutputRow| (row.id.clone(), row.row, row.tokens, row.status.clone(), row.vector.is_some());
            assert_eq!(of(row), of(expected));
            for (one, other) in row.vector.iter().flatten().zip(expected.vector.iter().flatten()) {
                assert!((one - other).abs() < TOLERANCE, "{}: {one}, not {other}", row.id);
            }
        }
    }

    /// A run in which these calls fail must end well, with every row, and tell what it did about it.
    #[track_caller]
    fn check_mended(&self, output: &str, failures: &str, expected: &[OutputRow]) {
        let finished = self.run(output, "cuda:0", &[("CUDA_STAND_IN_FAIL", failures)]);
        assert_eq!(finished.exit_code, 0, "{failures}: {}", finished.stderr);
        self.check_rows(output, expected);
        assert!(!self.events(output, "mitigation").is_empty(), "{failures}: nothing was told");
    }
}

/// Batches overlap on a GPU, and each vector must still be that of its own text.
#[test]
fn a_run_on_a_gpu_gives_the_vectors_of_one_on_the_processor() {
    let Some(machine) = Machine::new() else { return };
    let (expected, _) = machine.undisturbed();
    let finished = machine.run("processor", "cpu", &[]);
    assert_eq!(finished.exit_code, 0, "{}", finished.stderr);
    machine.check_rows("processor", &expected);
}

#[test]
fn memory_that_runs_out_in_the_middle_costs_no_row() {
    let Some(machine) = Machine::new() else { return };
    let (expected, calls) = machine.undisturbed();
    // Weights are there after the first tenth, and what follows is batches.
    for tenth in [3, 5, 9] {
        let number = calls.allocations * tenth / 10;
        machine.check_mended(&format!("once-{tenth}"), &format!("allocation:{number}:2"), &expected);
    }
    let half = calls.allocations / 2;
    machine.check_mended("again", &format!("allocation:{half}-{}:2", half + 3), &expected);
    machine.check_mended("cublas", &format!("product:{}:3", calls.products / 2), &expected);
    // It is known only when somebody waits.
    machine.check_mended("launch", &format!("launch:{}:2", calls.launches / 2), &expected);
}

#[test]
fn a_device_with_hardly_any_memory_computes_every_row_in_small_batches() {
    let Some(machine) = Machine::new() else { return };
    let (expected, _) = machine.undisturbed();
    let finished = machine.run_in_batches("100000", "small", "cuda:0", &[("CUDA_STAND_IN_MIB", "1")]);
    assert_eq!(finished.exit_code, 0, "{}", finished.stderr);
    machine.check_rows("small", &expected);
    assert!(machine.calls("small", 0).refused > 0);
}

#[test]
fn the_last_device_that_is_lost_ends_the_run_and_the_next_one_goes_on() {
    let Some(machine) = Machine::new() else { return };
    let (expected, calls) = machine.undisturbed();
    for (name, failures) in [
        ("address", format!("launch:{}:700", calls.launches / 2)),
        ("uncorrectable", format!("launch:{}:719", calls.launches * 9 / 10)),
    ] {
        let finished = machine.run(name, "cuda:0", &[("CUDA_STAND_IN_FAIL", &failures)]);
        assert_eq!(finished.exit_code, 6, "{failures}: {}", finished.stderr);
        assert!(finished.stderr.contains("every device of the pass was lost"), "{}", finished.stderr);
        assert_eq!(machine.events(name, "device_lost").len(), 1);
        let finished = machine.run(name, "cuda:0", &[]);
        assert_eq!(finished.exit_code, 0, "{}", finished.stderr);
        machine.check_rows(name, &expected);
        assert_eq!(tree(&machine.path(name)), tree(&machine.path("undisturbed")), "{failures}: other bytes");
    }
}

#[test]
fn what_a_lost_device_had_is_done_by_the_other_one() {
    let Some(machine) = Machine::new() else { return };
    let (expected, calls) = machine.undisturbed();
    let failures = format!("launch@1:{}:700", calls.launches / 8);
    let finished = machine.run("two", "cuda:0,cuda:1", &[("CUDA_STAND_IN_FAIL", &failures)]);
    assert_eq!(finished.exit_code, 0, "{}", finished.stderr);
    machine.check_rows("two", &expected);
    assert_eq!(machine.events("two", "device_lost").len(), 1);
}
