//! Programs inside of a lease, which ask for devices that their wrapper holds.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::rig::{FIRST, Machine, PROGRAM, check, wait_until};
use crate::stand_in::{StandIn, TWO_T4};

/// `lease run` of this program in a script.
fn nested(options: &str, command: &str) -> String {
    format!("{PROGRAM} lease run --devices {options} -- {command}")
}

#[test]
fn a_program_inside_a_lease_works_under_it() {
    let machine = Machine::new();
    check(&mut machine.run(&["cpu:0"], &nested("cpu:0", "true")), 0, "");
    // One after the other, with more devices and with fewer.
    let script = format!("{} && {}", nested("cpu:1,cpu:2", "true"), nested("cpu:0", "true"));
    check(&mut machine.run(&["cpu:0,cpu:1"], &script), 0, "");
    check(&mut machine.run(&["cpu:0,cpu:1"], &nested("cpu:1,cpu:0", "sh -c 'exit 7'")), 7, "");
    let gpus = StandIn::new(TWO_T4);
    check(&mut machine.run_on(&gpus, &["cuda:0"], &nested("cuda:0", "true")), 0, "");
    let list = machine.list();
    let devices: Vec<&str> = list.iter().map(|entry| entry["device"].as_str().unwrap()).collect();
    assert_eq!(devices, [FIRST, "cpu-0", "cpu-1", "cpu-2"], "locks inside locks are no devices");
    assert!(list.iter().all(|entry| entry["state"] == "free"), "{list:?}");
    // Each time that it was taken, inside or not.
    assert_eq!(list.iter().map(|entry| entry["epoch"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 6, 4, 1]);
}

#[test]
fn programs_inside_one_lease_exclude_each_other() {
    let machine = Machine::new();
    let first = nested("cpu:0", "sh -c 'echo > held; exec sleep 1000' 2> first & first=$!");
    let ready = "while ! [ -e held ]; do sleep 0.01; done";
    let refused = nested("cpu:0 --run-id second", "sh -c 'echo > ran'");
    let waiting = nested("cpu:0 --lease-wait 1m", "sh -c 'echo > waited'");
    let script = format!(
        "{first}\n{ready}\n{refused}; code=$?\n{waiting} 2> waiting & \nlast=$!\n{PROGRAM} lease status > table\n\
         {PROGRAM} lease list --json > list\nkill $first; wait $last && exit $code"
    );
    let run =
        check(&mut machine.run(&["cpu:0"], &script), 6, "error: device cpu-0 is used inside its lease by run sh-");
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(stderr.contains("; pass --lease-wait 30m or run one after the other"), "{stderr}");
    assert!(!machine.path("ran").exists() && machine.path("waited").exists());
    let list: Value = serde_json::from_slice(&fs::read(machine.path("list")).unwrap()).unwrap();
    let entry = &list[0];
    assert_eq!((&entry["state"], entry["inside"].as_array().unwrap().len()), (&"held".into(), 1), "{list}");
    assert!(entry["inside"][0]["epoch"].as_u64() > entry["holder"]["epoch"].as_u64(), "{list}");
    let table = fs::read_to_string(machine.path("table")).unwrap();
    assert!(table.contains("; in it run sh-"), "{table}");
    assert_eq!(machine.state("cpu-0"), "free");
}

#[test]
fn a_third_lease_inside_two_is_refused() {
    let machine = Machine::new();
    let innermost = format!("sh -c '{}'", nested("cpu:0", "true"));
    let refused = check(&mut machine.run(&["cpu:0"], &nested("cpu:0", &innermost)), 6, "error: device cpu-0 is used");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is used inside its lease by run sh-"));
}

/// Many at once in one wrapper, some killed: never two inside.
#[test]
fn programs_inside_one_lease_never_overlap_even_if_they_are_killed() {
    let machine = Machine::new();
    let step =
        nested("cpu:0,cpu:1 --lease-wait 2m", "sh -c 'mkdir inside || echo >> overlap; sleep 0.02; rmdir inside'");
    let killed =
        nested("cpu:1,cpu:0 --lease-wait 2m", "sh -c 'kill -9 $PPID; mkdir inside || echo >> overlap; rmdir inside'");
    let script = format!("for i in 1 2 3 4 5 6; do {step} & {killed} & done; wait");
    check(&mut machine.run(&["cpu:0,cpu:1"], &script), 0, "");
    wait_until("all are gone", || machine.state("cpu-0") == "free" && machine.state("cpu-1") == "free");
    assert!(!machine.path("overlap").exists());
    // Each of them has been inside, and so has the wrapper.
    assert_eq!(machine.list()[0]["epoch"], 13);
}

#[test]
fn a_lease_inside_another_does_not_end_it() {
    let machine = Machine::new();
    let outside = format!("env -u EMBED_LEASE_INHERITED {PROGRAM} lease run --devices cpu:0 -- true");
    let script = format!("{} && {outside}", nested("cpu:0", "true"));
    check(&mut machine.run(&["cpu:0"], &script), 6, "device cpu-0 is leased by run sh-");
    // What the inner program leaves behind keeps its part, and that is said by both.
    let script = nested("cpu:0", "sh -c 'sleep 1000 > out 2>&1 & echo $! > left'");
    let said = "the command has ended, but a process that it started still holds cpu-0";
    let run = check(machine.run(&["cpu:0"], &script).stdout(Stdio::null()), 0, said);
    assert_eq!(String::from_utf8_lossy(&run.stderr).matches(said).count(), 2);
    let left = fs::read_to_string(machine.path("left")).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
    wait_until("the device is free", || machine.state("cpu-0") == "free");
}

/// Whatever the variable says, who has no lock gets none from it.
#[test]
fn a_wrong_variable_gives_no_lease() {
    let machine = Machine::new();
    let _holding = machine.hold("cpu:0");
    let lock = machine.leases().join("cpu-0.lock");
    let inner = machine.leases().join("cpu-0.inner");
    fs::write(&inner, "").unwrap();
    let open = format!("exec 7<> {} 8<> {} 9< /dev/null", lock.display(), inner.display());
    for variable in ["cpu-0=7", "cpu-0=8", "cpu-0=9", "cpu-0=99", "cpu-0=0", "cpu-0=-1", "cpu-1=7", "x"] {
        let script = format!("{open}; export EMBED_LEASE_INHERITED={variable}; {}", nested("cpu:0", "true"));
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &script]).env("EMBED_LEASE_DIR", machine.leases());
        check(shell, 6, "device cpu-0 is leased by run sh-");
        // And one that is free is had in the usual way.
        let script = script.replace("--devices cpu:0", "--devices cpu:1");
        check(Command::new("sh").args(["-c", &script]).env("EMBED_LEASE_DIR", machine.leases()), 0, "");
    }
}

#[test]
fn a_variable_that_outlives_its_lease_gives_none() {
    let machine = Machine::new();
    // The descriptors are closed, as by a program that cleans up after its parent; then in use for something else.
    for close in ["exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-", "exec 3>x 4>x 5>x 6>x 7>x 8>x 9>x"] {
        let script = format!("{close}; {}", nested("cpu:0", "true"));
        check(&mut machine.run(&["cpu:0"], &script), 6, "device cpu-0 is leased by run sh-");
    }
    // The file was replaced meanwhile: what is locked is not what others lock.
    let lock = machine.leases().join("cpu-0.lock");
    let script = format!("rm {} && {}", lock.display(), nested("cpu:0", "true"));
    check(&mut machine.run(&["cpu:0"], &script), 0, "");
    assert_eq!(machine.list()[0]["epoch"], 1);
}
