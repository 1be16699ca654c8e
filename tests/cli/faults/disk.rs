//! The output cannot be written, or not any more.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::rig::{Fault, Rig, UnderFault, committed_rows};

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EXDEV: i32 = 18;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EDQUOT: i32 = 122;

#[track_caller]
fn check(rig: &Rig, fault: Fault<'_>, parts: &[&str]) {
    let output = rig.path("out");
    let run = rig.program_to(&output).under(fault).run();
    rig.check(&output, &run, 9, parts);
    fs::remove_dir_all(output).unwrap();
}

#[test]
fn a_fault_of_the_disk_is_one_error_and_costs_nothing_that_was_committed() {
    let rig = Rig::new();
    let free = "free some space and run the same command again";
    check(&rig, Fault::always("write", "part-00003", ENOSPC), &["part-00003", free, "No space left"]);
    check(&rig, Fault { nth: 3, ..Fault::always("write", "chunks.bert", EDQUOT) }, &["chunks.bert", free, "quota"]);
    check(&rig, Fault::always("fsync", "part-00003", EIO), &["sync", "part-00003", "dmesg", "Input/output error"]);
    check(&rig, Fault { nth: 2, ..Fault::always("ftruncate", "chunks.", EIO) }, &["chunks.", "dmesg"]);
    let other = "choose another directory with --output-dir";
    check(&rig, Fault { nth: 4, ..Fault::always("rename", "/manifest.json", EXDEV) }, &["manifest.json", other]);
    check(&rig, Fault::always("open", "part-00003", EROFS), &["part-00003", "make it writable", "Read-only"]);
    check(&rig, Fault::always("open", "part-00003", EACCES), &["part-00003", "make it writable", "Permission"]);
    check(&rig, Fault::always("open", "out/.lock", EROFS), &["out/.lock", "must be writable", "Read-only"]);
}

#[test]
fn reports_that_cannot_be_written_are_an_error_although_the_vectors_are_there() {
    let rig = Rig::new();
    for (path, nth) in [("events.jsonl", 1), ("events.jsonl", 12), ("run-summary.json", 1)] {
        let fault = Fault { nth, ..Fault::always("write", path, ENOSPC) };
        let run = rig.program("out").under(fault).run();
        assert_eq!(committed_rows(&rig.path("out")), 200, "{path}");
        rig.check(&rig.path("out"), &run, 9, &[path, "free", "No space left"]);
        fs::remove_dir_all(rig.path("out")).unwrap();
    }
}

#[test]
fn whichever_call_fails_the_same_command_goes_on() {
    let rig = Rig::new();
    let mut failed = 0;
    for (call, errno) in [("open", EACCES), ("write", ENOSPC), ("fsync", EIO), ("rename", EIO), ("read", EIO)] {
        for nth in [1, 2, 3, 5, 9, 14, 22, 31] {
            let output = rig.path(&format!("out-{call}-{nth}"));
            let path = output.to_str().unwrap().to_owned();
            let run = rig.program_to(&output).under(Fault { call, path: &path, nth, times: 1, errno }).run();
            let errors = run.stderr.lines().filter(|line| line.starts_with("error: ")).count();
            match run.exit_code {
                0 => assert_eq!(errors, 0, "{call} {nth}: {}", run.stderr),
                9 => assert_eq!(errors, 1, "{call} {nth}: {}", run.stderr),
                other => panic!("{call} {nth}: exit code {other}: {}", run.stderr),
            }
            failed += usize::from(run.exit_code == 9);
            rig.check_goes_on(&output);
        }
    }
    assert!(failed > 15, "only {failed} runs failed");
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_not_the_end_of_the_process() {
    let rig = Rig::new();
    // In blocks of 512 bytes: room for every shard, not for all of the ledger.
    let run = rig.program("out").limited("ulimit -f 60").run();
    assert!(committed_rows(&rig.path("out")) > 0, "{}", run.stderr);
    rig.check(&rig.path("out"), &run, 9, &["chunks.bert-minilm.jsonl.partial", "ulimit -f", "File too large"]);
}

/// A file system in memory; unmounted when it is dropped.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn mount(at: &'a Path, options: &str) -> Option<Self> {
        let mut command = Command::new("mount");
        let mounted = command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self(at))
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_disk_that_fills_up_is_told_and_with_more_room_the_same_command_goes_on() {
    let rig = Rig::new();
    let output = rig.path("full");
    fs::create_dir(&output).unwrap();
    let Some(_mounted) = Tmpfs::mount(&output, "size=128k") else {
        println!("left out: a file system cannot be mounted here");
        return;
    };
    let run = rig.program_to(&output).run();
    assert_eq!(run.exit_code, 9, "{}", run.stderr);
    assert!(run.stderr.contains("No space left") && run.stderr.contains("space"), "{}", run.stderr);
    let remount = Command::new("mount").args(["-o", "remount,size=8m"]).arg(&output).status();
    assert!(remount.unwrap().success());
    rig.check_goes_on(&output);
}

#[test]
fn the_output_may_be_on_another_file_system_than_the_input() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::new();
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        println!("left out: there is no /dev/shm");
        return;
    };
    if device(other.path()) == device(&rig.path("in")) {
        println!("left out: /dev/shm is the file system of the temporary directory");
        return;
    }
    let output = other.path().join("out");
    assert_eq!(rig.program_to(&output).run().exit_code, 0);
    rig.check_whole(&output);
}
