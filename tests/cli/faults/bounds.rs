//! Memory and open files do not grow with the input.

use std::fmt::Write as _;
use std::fs;
use std::process::Child;
use std::time::Duration;

use crate::program::{Program, TINY_MODEL};

/// What the program has open besides files for each of its threads.
const MOST_FILES: usize = 64;

const FILES: usize = 500;
const CHUNKS_OF_A_FILE: usize = 40;
const THREADS: usize = 2;

/// Most descriptors seen, and the most memory in kilobytes that was ever resident.
fn watch(child: &mut Child) -> (usize, u64) {
    let (descriptors, status) = (format!("/proc/{}/fd", child.id()), format!("/proc/{}/status", child.id()));
    let (mut most, mut peak) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        most = most.max(fs::read_dir(&descriptors).map_or(0, Iterator::count));
        let status = fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    (most, peak)
}

#[test]
fn open_files_stay_few_however_many_there_are_to_read() {
    let root = tempfile::tempdir().unwrap();
    let many = root.path().join("in/many");
    fs::create_dir_all(&many).unwrap();
    for file in 0..FILES {
        let mut lines = String::new();
        for chunk in 0..CHUNKS_OF_A_FILE {
            writeln!(lines, "{{\"text\": \"file {file} chunk {chunk}\"}}").unwrap();
        }
        fs::write(many.join(format!("{file:03}.jsonl")), lines).unwrap();
    }
    let mut child = Program::bare()
        .path("--chunked-dir", &root.path().join("in"))
        .path("--output-dir", &root.path().join("out"))
        .arguments(&["--model", TINY_MODEL, "--offline", "--force-cpu", "--progress", "none"])
        .arguments(&["--threads", &THREADS.to_string(), "--format", "jsonl,parquet,arrow,npy"])
        .variable("EMBED_LEASE_DIR", root.path().join("leases").to_str().unwrap())
        .start();
    let (most, peak) = watch(&mut child);
    let run = child.wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    println!("{} chunks in {FILES} files: at most {most} open files, {peak} kB resident", FILES * CHUNKS_OF_A_FILE);
    assert!(0 < most && most < MOST_FILES + THREADS, "{most} open files");
}
