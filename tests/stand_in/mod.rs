//! Machines with GPUs that are not there: a library compiled from `nvml.c` that says what a test tells it to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use tempfile::TempDir;

/// A library of its own, so that tests do not disturb each other.
pub(crate) struct StandIn {
    directory: TempDir,
}

/// Two GPUs of a kind that Kaggle lends, one in use.
#[allow(dead_code, reason = "each test file uses its own part")]
pub(crate) const TWO_T4: &str = "\
driver 580.65.06
cuda 13000
gpu GPU-aaaa1111-0000 7.5 15360 360 0 -1 0 Tesla T4
gpu GPU-bbbb2222-0000 7.5 15360 14700 0 -1 0 Tesla T4
process 1 4711 14000 /usr/bin/python3 train.py
process 1 4712 -1 -
";

impl StandIn {
    /// A machine in this state; the format is told in `nvml.c`.
    pub(crate) fn new(state: &str) -> Self {
        Self::lacking("", state)
    }

    /// The same with a library that lacks a function: INIT, MEMORY, PROCESSES or SHUTDOWN.
    pub(crate) fn lacking(function: &str, state: &str) -> Self {
        let stand_in = Self { directory: tempfile::tempdir().unwrap() };
        fs::write(stand_in.library(), compiled(function)).unwrap();
        stand_in.change(state);
        stand_in
    }

    /// To be given as the driver's library.
    pub(crate) fn library(&self) -> PathBuf {
        self.directory.path().join("libnvidia-ml.so.1")
    }

    /// Changes the machine while programs look at it.
    pub(crate) fn change(&self, state: &str) {
        // Replaced as a whole, for it may be read at this moment.
        let new = self.directory.path().join("new");
        fs::write(&new, state).unwrap();
        fs::rename(new, self.directory.path().join("libnvidia-ml.so.1.state")).unwrap();
    }
}

/// The library's bytes, compiled once for all tests of the process.
fn compiled(lacking: &str) -> Vec<u8> {
    static COMPILED: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap();
    compiled.entry(lacking.to_owned()).or_insert_with(|| compile(lacking)).clone()
}

fn compile(lacking: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("library.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in/nvml.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(&compiler);
    command
        .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl");
    if !lacking.is_empty() {
        command.arg(format!("-DWITHOUT_{lacking}"));
    }
    let output =
        command.output().unwrap_or_else(|error| panic!("these tests need a C compiler as cc or in CC: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(library).unwrap()
}
