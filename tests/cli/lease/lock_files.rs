//! Directories and lock files as others leave them, and what is shown of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::rig::{GPU, Machine, NOBODY, PROGRAM, check, is_root};

#[test]
fn a_planted_link_is_not_followed() {
    let machine = Machine::new();
    fs::create_dir(machine.leases()).unwrap();
    fs::write(machine.path("precious"), "precious").unwrap();
    symlink(machine.path("precious"), machine.leases().join("cpu-0.lock")).unwrap();
    symlink(machine.path("made"), machine.leases().join("cpu-1.lock")).unwrap();
    check(&mut machine.run(&["cpu:0"], "exit 0"), 9, "cpu-0.lock is a symbolic link");
    check(&mut machine.run(&["cpu:1"], "exit 0"), 9, "cpu-1.lock is a symbolic link");
    assert_eq!(fs::read_to_string(machine.path("precious")).unwrap(), "precious");
    assert!(!machine.path("made").exists());
    assert_eq!(machine.state("cpu-0"), "unknown");
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_with_a_way_out() {
    let machine = Machine::new();
    fs::create_dir(machine.leases()).unwrap();
    fs::set_permissions(machine.leases(), fs::Permissions::from_mode(0o555)).unwrap();
    let mut run = machine.run(&["cpu:0"], "exit 0");
    if is_root() {
        // Nothing is forbidden to root.
        run.uid(NOBODY);
    }
    check(&mut run, 9, "Permission denied (os error 13); make the directory writable for all users (mode 1777)");
}

#[test]
fn a_umask_locks_nobody_out() {
    let machine = Machine::new();
    let script = "umask 077; exec \"$0\" lease run --devices cpu:0 -- true";
    let mut shell = Command::new("sh");
    check(shell.args(["-c", script, PROGRAM]).env("EMBED_LEASE_DIR", machine.leases()), 0, "");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&machine.leases()), 0o1777);
    assert_eq!(mode(&machine.leases().join("cpu-0.lock")), 0o666);
    if is_root() {
        check(machine.run(&["cpu:0,cpu:1"], "exit 0").uid(NOBODY), 0, "");
        // And back: in a sticky directory the kernel guards files of others against O_CREAT.
        check(&mut machine.run(&["cpu:0,cpu:1"], "exit 0"), 0, "");
        assert_eq!(machine.list()[1]["epoch"], 2);
    }
}

#[test]
fn garbage_in_a_lock_file_is_harmless() {
    let machine = Machine::new();
    fs::create_dir(machine.leases()).unwrap();
    fs::write(machine.leases().join("cpu-0.lock"), b"\xff{\"run\": [[[[\x00".repeat(1000)).unwrap();
    assert_eq!(machine.state("cpu-0"), "free");
    check(&mut machine.run(&["cpu:0"], "exit 0"), 0, "");
    assert_eq!(machine.list()[0]["epoch"], 1);
}

#[test]
fn the_table_and_the_list_show_held_and_free_devices() {
    let machine = Machine::new();
    let empty = machine.lease(&["status"]).output().unwrap();
    assert_eq!(String::from_utf8(empty.stdout).unwrap(), "no device was leased yet\n");
    assert_eq!(machine.list(), Vec::<Value>::new());
    check(&mut machine.run(&[GPU], "exit 0"), 0, "");
    let holding = machine.hold("cpu:0");
    let table = String::from_utf8(machine.lease(&["status"]).output().unwrap().stdout).unwrap();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["DEVICE", "HOLDER", "SINCE", "MODEL", "EPOCH"]);
    assert_eq!(lines[2], [GPU, "free", "-", "-", "1"]);
    assert_eq!(lines[3][..3], ["cpu-0", "run", &*format!("sh-{}", holding.wrapper.id())], "{table}");
    let held = &machine.list()[1];
    assert_eq!((&held["state"], &held["epoch"], &held["holder"]["model"]), (&"held".into(), &1.into(), &Value::Null));
    for key in ["run", "pid", "pid_start_ticks", "host", "user", "since", "epoch"] {
        assert!(!held["holder"][key].is_null(), "{key} in {held}");
    }
}
