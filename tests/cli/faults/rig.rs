//! An input, what an undisturbed run makes of it, and the program under a fault.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use embed_collections::domain::Digest;
use embed_collections::output::read_manifest;
use tempfile::TempDir;

use crate::program::{Finished, Program, TINY_MODEL, assert_same, read_json, tree};

/// Rows of a shard, so that there are several.
const SHARD_ROWS: &str = "30";

const SHIM: &str = include_str!("shim.c");

/// One test's files.
pub(crate) struct Rig {
    root: TempDir,
    expected: Vec<(String, Vec<u8>)>,
}

impl Rig {
    /// Two hundred chunks in one file, and the files that a run leaves that nobody disturbs.
    pub(crate) fn new() -> Self {
        let rig = Self { root: tempfile::tempdir().unwrap(), expected: Vec::new() };
        let mut lines = String::new();
        // Long enough that the file is read in several goes.
        let note = "nothing of note; ".repeat(25);
        for number in 0..200 {
            let subject = ["tides", "reeds", "clouds"][number % 3];
            let text = format!("Chunk number {number} tells of {subject}, and of little else that matters here.");
            writeln!(lines, r#"{{"text": "{text}", "metadata": {{"chunk_id": "c{number}", "note": "{note}"}}}}"#)
                .unwrap();
        }
        fs::create_dir_all(rig.path("in/many")).unwrap();
        fs::write(rig.path("in/many/m.jsonl"), lines).unwrap();
        rig.program("whole").succeed();
        Self { expected: tree(&rig.path("whole")), ..rig }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Embeds the chunks into this directory.
    pub(crate) fn program(&self, output: &str) -> Program {
        self.program_to(&self.path(output))
    }

    pub(crate) fn program_to(&self, output: &Path) -> Program {
        Program::between(&self.path("in"), output)
            .arguments(&["--model", TINY_MODEL, "--progress", "none"])
            .arguments(&["--shard-rows", SHARD_ROWS, "--threads", "2"])
            .variable("EMBED_LEASE_DIR", self.path("leases").to_str().unwrap())
    }

    /// The error is one line that has these parts; what was committed is whole; and the same command without the fault
    /// keeps it, and ends with the files of an undisturbed run.
    #[track_caller]
    pub(crate) fn check(&self, output: &Path, run: &Finished, exit_code: i32, parts: &[&str]) {
        assert_eq!(run.exit_code, exit_code, "{}", run.stderr);
        let errors: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), usize::from(exit_code != 0), "{}", run.stderr);
        for part in parts {
            assert!(errors.iter().any(|line| line.contains(part)), "{part:?} is not in {}", run.stderr);
        }
        self.check_goes_on(output);
    }

    /// What was committed is whole, and the same command keeps it, and ends with the files of an undisturbed run.
    #[track_caller]
    pub(crate) fn check_goes_on(&self, output: &Path) {
        let committed = committed_rows(output);
        self.program_to(output).succeed();
        let kept = read_json(&output.join("run-summary.json"))["collections"][0]["kept"].as_u64();
        assert_eq!(kept.unwrap_or_default(), committed, "rows that were kept");
        self.check_whole(output);
    }

    #[track_caller]
    pub(crate) fn check_whole(&self, output: &Path) {
        assert_same(&tree(output), &self.expected);
    }
}

/// Rows that the manifest vouches for, after a look at the files.
#[track_caller]
pub(crate) fn committed_rows(output: &Path) -> u64 {
    let directory = output.join("many/bert-minilm");
    if !directory.join("manifest.json").exists() {
        return 0;
    }
    let manifest = read_manifest(&directory.join("manifest.json")).unwrap();
    for file in manifest.shards.iter().flat_map(|shard| &shard.files) {
        let bytes = fs::read(directory.join(&file.name)).unwrap();
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (file.sha256, file.bytes), "{}", file.name);
    }
    manifest.totals.rows
}

/// What goes wrong, and where; see the library.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault<'a> {
    pub(crate) call: &'a str,
    pub(crate) path: &'a str,
    pub(crate) nth: u32,
    pub(crate) times: u32,
    pub(crate) errno: i32,
}

impl Fault<'_> {
    /// Every call from the first one on.
    pub(crate) fn always<'a>(call: &'a str, path: &'a str, errno: i32) -> Fault<'a> {
        Fault { call, path, nth: 1, times: u32::MAX, errno }
    }
}

pub(crate) trait UnderFault {
    /// With this fault.
    fn under(self, fault: Fault<'_>) -> Self;
    /// With the library alone, which variables tell what to do.
    fn shimmed(self) -> Self;
}

impl UnderFault for Program {
    fn under(self, fault: Fault<'_>) -> Self {
        self.shimmed()
            .variable("FAULT_CALL", fault.call)
            .variable("FAULT_PATH", fault.path)
            .variable("FAULT_NTH", &fault.nth.to_string())
            .variable("FAULT_TIMES", &fault.times.to_string())
            .variable("FAULT_ERRNO", &fault.errno.to_string())
    }

    fn shimmed(self) -> Self {
        self.variable("LD_PRELOAD", shim().to_str().unwrap())
    }
}

/// The library that makes calls fail, compiled once.
fn shim() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (source, library) = (directory.join("shim.c"), directory.join("shim.so"));
        fs::write(&source, SHIM).unwrap();
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        assert!(command.status().unwrap().success());
        library
    })
}
