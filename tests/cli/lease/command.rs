//! The command under a lease: what it sees, its exit code, signals.

use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};

use super::rig::{FIRST, GPU, Machine, PROGRAM, SECOND, check, wait_until};
use crate::stand_in::{StandIn, TWO_T4};

#[test]
fn the_command_sees_the_leased_gpus_and_only_those() {
    let machine = Machine::new();
    let shown = |devices: &str| {
        let mut run = machine.run(&[devices], "echo $CUDA_VISIBLE_DEVICES");
        String::from_utf8(check(run.env("CUDA_VISIBLE_DEVICES", "7"), 0, "").stdout).unwrap()
    };
    let other = GPU.replace("0123", "ffff");
    assert_eq!(shown(&format!("{other},cpu:0,{}", GPU.to_uppercase())), format!("{other},{GPU}\n"));
    assert_eq!(shown("cpu:0"), "7\n");
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    let machine = Machine::new();
    check(&mut machine.run(&["cpu:0"], "exit 0"), 0, "");
    check(&mut machine.run(&["cpu:0"], "exit 41"), 41, "");
    check(&mut machine.run(&["cpu:0"], "kill -9 $$"), 137, "");
    check(&mut machine.run(&["cpu:0"], "kill -TERM $$"), 143, "");
    fs::write(machine.path("data"), "").unwrap();
    let data = machine.path("data");
    let run = |program: &str| machine.lease(&["run", "--devices", "cpu:0", "--", program]);
    check(&mut run("no-such-program-anywhere"), 127, "cannot run no-such-program-anywhere");
    check(&mut run(data.to_str().unwrap()), 126, "cannot run");
    assert_eq!(machine.state("cpu-0"), "free");
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_way_out() {
    let machine = Machine::new();
    let gpus = StandIn::new(TWO_T4);
    let there = format!("there is cuda:0 (Tesla T4, {FIRST}), cuda:1 (Tesla T4, {SECOND}), cpu");
    let unknown = format!("error: --devices: there is no device cuda:2; {there}");
    check(&mut machine.run_on(&gpus, &["cuda:2"], "exit 0"), 2, &unknown);
    check(&mut machine.run_on(&gpus, &["GPU-c"], "exit 0"), 2, &format!("there is no device GPU-c; {there}"));
    check(&mut machine.run_on(&gpus, &["1"], "exit 0"), 2, "\"1\" is no device; write cuda:0");
    check(&mut machine.run_on(&gpus, &["MIG-01"], "exit 0"), 2, "is not the whole UUID of a MIG instance");
    let alike = StandIn::new(&TWO_T4.replace("GPU-bbbb", "GPU-aaaa"));
    check(&mut machine.run_on(&alike, &["GPU-a"], "exit 0"), 2, "GPU-a may be several devices");
    let none = StandIn::new("init 9\n");
    check(&mut machine.run_on(&none, &["cuda:0"], "exit 0"), 2, "the NVIDIA driver is installed but not loaded");
    check(&mut machine.run_on(&none, &["cuda:0"], "exit 0"), 2, "there is no device cuda:0; there is cpu");
    let both = ["cpu:0", "--lease-policy", "fail", "--lease-wait", "1m"];
    check(&mut machine.run(&both, "exit 0"), 2, "contradict each other");
    let both = ["cpu:0", "--lease-policy", "fail", "--foreign", "wait"];
    check(&mut machine.run(&both, "exit 0"), 2, "contradict each other");
    check(machine.run(&["cpu:0"], "exit 0").env("EMBEDDER_NONSENSE", "1"), 2, "unknown environment variable");
    check(&mut machine.lease(&["run", "--", "true"]), 2, "--devices");
    check(&mut machine.lease(&["run", "--devices", "cpu:0"]), 2, "COMMAND");
    assert!(!machine.leases().exists());
}

#[test]
fn signals_reach_the_command() {
    let machine = Machine::new();
    for (signal, name) in [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::HUP, "HUP"), (Signal::USR1, "USR1")] {
        let ready = format!("ready-{name}");
        let script = format!("trap 'exit 55' {name}; echo > {ready}; while :; do sleep 0.01; done");
        let mut wrapper = machine.run_with_usual_signals(&["cpu:0"], &script).spawn().unwrap();
        wait_until("the command is ready", || machine.path(&ready).exists());
        kill_process(Pid::from_child(&wrapper), signal).unwrap();
        assert_eq!(wrapper.wait().unwrap().code(), Some(55), "{name}");
    }
    wait_until("the device is free", || machine.state("cpu-0") == "free");
}

#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let machine = Machine::new();
    let script = "trap '' HUP; exec \"$0\" lease run --devices cpu:0 -- sh -c 'kill -HUP $PPID; kill -HUP $$; exit 4'";
    let mut shell = Command::new("sh");
    check(shell.args(["-c", script, PROGRAM]).env("EMBED_LEASE_DIR", machine.leases()), 4, "");
}

#[test]
fn a_signal_while_waiting_ends_the_wait() {
    let machine = Machine::new();
    let _holding = machine.hold("cpu:0");
    let mut waiting = machine.run(&["cpu:0", "--lease-wait", "1m"], "exit 0").stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(Duration::from_millis(200));
    kill_process(Pid::from_child(&waiting), Signal::TERM).unwrap();
    let ended = std::os::unix::process::ExitStatusExt::signal(&waiting.wait().unwrap());
    assert_eq!(ended, Some(Signal::TERM.as_raw()));
}
