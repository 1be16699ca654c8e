//! Runs the program as a user does, and reads what it leaves behind.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// A tiny model that is part of the repository.
pub const TINY_MODEL: &str = "tests/fixtures/models/bert-minilm";

/// The command line under construction. The environment holds nothing but what is given and what finds programs, the
/// cache and the network.
pub struct Program {
    command: Command,
}

/// How a run ended.
pub struct Finished {
    pub exit_code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    /// `tests/data/Chunked` into `output` with the default model.
    pub fn new(output: &Path) -> Self {
        Self::bare().arguments(&["--chunked-dir", "tests/data/Chunked"]).path("--output-dir", output)
    }

    /// No arguments at all.
    pub fn bare() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embed-collections"));
        let ours = |name: &str| name.starts_with("EMBEDDER_") || name.starts_with("CUDA_");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(ours) {
                command.env_remove(name);
            }
        }
        Self { command }
    }

    /// With the tiny model, which is there without a network.
    pub fn tiny(output: &Path) -> Self {
        Self::new(output).arguments(&["--model", TINY_MODEL, "--offline"])
    }

    /// From one directory into another, without a network and a GPU.
    pub fn between(input: &Path, output: &Path) -> Self {
        Self::bare().path("--chunked-dir", input).path("--output-dir", output).arguments(&["--offline", "--force-cpu"])
    }

    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn path(mut self, flag: &str, path: &Path) -> Self {
        self.command.arg(flag).arg(path);
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// After these commands of a shell, such as `ulimit -n 9`.
    pub fn limited(self, commands: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{commands}; exec \"$0\" \"$@\"")]);
        command.arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self { command }
    }

    pub fn run(mut self) -> Finished {
        let output = self.command.stdin(Stdio::null()).output().unwrap();
        Finished {
            exit_code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// To its end, without an error.
    #[track_caller]
    pub fn succeed(self) -> Finished {
        let finished = self.run();
        assert_eq!(finished.exit_code, 0, "{}{}", finished.stdout, finished.stderr);
        finished
    }

    /// To an error with this exit code, whose message has these parts.
    #[track_caller]
    pub fn fail(self, exit_code: i32, parts: &[&str]) -> Finished {
        let finished = self.run();
        assert_eq!(finished.exit_code, exit_code, "{}{}", finished.stdout, finished.stderr);
        for part in parts {
            assert!(finished.stderr.contains(part), "{part:?} is not in {}", finished.stderr);
        }
        finished
    }

    pub fn start(self) -> Child {
        self.start_with(Stdio::piped())
    }

    /// Started with this standard error, for one that says more than a pipe holds.
    pub fn start_with(mut self, stderr: impl Into<Stdio>) -> Child {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap()
    }
}

/// A row of a shard in JSON Lines.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct OutputRow {
    pub id: String,
    pub row: u64,
    pub vector: Option<Vec<f32>>,
    pub tokens: u32,
    pub status: String,
    pub text_sha256: Option<String>,
}

/// All rows in a model's directory, in the order of its shards.
pub fn read_rows(directory: &Path) -> Vec<OutputRow> {
    let mut shards: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    shards.sort();
    shards.iter().flat_map(|shard| read_jsonl(shard)).map(|row| serde_json::from_value(row).unwrap()).collect()
}

/// The rows that the tiny model has of a collection.
pub fn rows_of(output: &Path, collection: &str) -> Vec<OutputRow> {
    read_rows(&output.join(collection).join("bert-minilm"))
}

/// One value a line.
pub fn read_jsonl(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Every file below a directory with its bytes, by its path; reports of a run, which tell the time, left out.
pub fn tree(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let is_report = ["run-summary.", "events.", ".lock"].iter().any(|beginning| path.starts_with(beginning));
        if entry.file_type().is_file() && !is_report {
            files.push((path, fs::read(entry.path()).unwrap()));
        }
    }
    files
}

/// Both are the same files, byte for byte; as [`tree`] gives them.
#[track_caller]
pub fn assert_same(found: &[(String, Vec<u8>)], expected: &[(String, Vec<u8>)]) {
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found == expected, "{name} differs");
    }
}

/// Numbers that look random and are the same in every test run.
pub struct Moments(pub u64);

impl Moments {
    /// Between 0 and 1.
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1_u64 << 24) as f64
    }
}

/// Checks a value against one of the repository's schemas.
#[track_caller]
pub fn check_schema(schema: &str, value: &Value) {
    let schema = read_json(&Path::new("configs/schemas").join(schema));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

/// A little-endian f32 matrix in NumPy's format, version 1.
pub struct Npy {
    columns: usize,
    values: Vec<f32>,
}

impl Npy {
    #[track_caller]
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{}", path.display());
        let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let header = std::str::from_utf8(&bytes[10..end]).unwrap();
        assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"), "{header}");
        let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
        let columns = shape.split_once(',').unwrap().1.trim().parse().unwrap();
        let values = bytes[end..].as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Self { columns, values }
    }

    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.columns)
    }
}

/// A copy of a fixture, to be changed.
pub fn copy_of(model: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in walkdir::WalkDir::new(model).min_depth(1) {
        let entry = entry.unwrap();
        let target = directory.path().join(entry.path().strip_prefix(model).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir(target).unwrap();
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
    directory
}
