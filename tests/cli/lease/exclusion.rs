//! Processes that want the same devices: one at a time has them, and whoever dies gives them back.

use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::rig::{Machine, check, wait_until};

#[test]
fn a_second_process_leaves_with_exit_code_6_and_learns_who_holds_the_device() {
    let machine = Machine::new();
    let holding = machine.hold("cpu:0");
    let holder =
        format!("device cpu-0 is leased by run sh-{} (pid {})", holding.wrapper.id(), holding.command.as_raw_nonzero());
    check(&mut machine.run(&["cpu:0"], "echo ran > ran"), 6, &holder);
    check(&mut machine.run(&["cpu:0", "--lease-wait", "1s"], "echo ran > ran"), 6, "waited 1s; pass a longer");
    assert!(!machine.path("ran").exists());
    check(&mut machine.run(&["cpu:1"], "exit 0"), 0, "");
}

#[test]
fn a_second_process_waits_until_the_first_has_ended() {
    let machine = Machine::new();
    let holding = machine.hold("cpu:0");
    let mut waiting =
        machine.run(&["cpu:0", "--lease-wait", "1m"], "echo ran > ran").stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(waiting.try_wait().unwrap().is_none() && !machine.path("ran").exists());
    drop(holding);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    let stderr = std::io::read_to_string(waiting.stderr.take().unwrap()).unwrap();
    assert_eq!(stderr.matches("waiting: device cpu-0 is leased by run sh-").count(), 1, "{stderr}");
}

#[test]
fn a_lease_lasts_as_long_as_the_command_even_if_the_wrapper_is_killed() {
    let machine = Machine::new();
    let mut holding = machine.hold("cpu:0");
    holding.wrapper.kill().unwrap();
    holding.wrapper.wait().unwrap();
    assert_eq!(machine.state("cpu-0"), "held");
    check(&mut machine.run(&["cpu:0"], "exit 0"), 6, &format!("(pid {})", holding.command.as_raw_nonzero()));
    // Killed: free at once, whatever its file says.
    kill_process(holding.command, Signal::KILL).unwrap();
    let killed = Instant::now();
    wait_until("the device is free", || machine.state("cpu-0") == "free");
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    assert!(fs::read_to_string(machine.leases().join("cpu-0.lock")).unwrap().contains("\"run\":\"sh-"));
    check(&mut machine.run(&["cpu:0"], "exit 0"), 0, "");
}

#[test]
fn what_the_command_leaves_behind_keeps_the_lease_and_that_is_said() {
    let machine = Machine::new();
    let said = "the command has ended, but a process that it started still holds cpu-0";
    check(machine.run(&["cpu:0"], "sleep 1000 > out 2>&1 & echo $! > left").stdout(Stdio::null()), 0, said);
    assert_eq!(machine.state("cpu-0"), "held");
    let table = machine.lease(&["status"]).output().unwrap().stdout;
    assert!(String::from_utf8_lossy(&table).contains("ended, but a process that it started goes on"));
    let left = fs::read_to_string(machine.path("left")).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
    wait_until("the device is free", || machine.state("cpu-0") == "free");
}

/// Runs are killed at random instants, the wrapper alone or with its command. What ran alone has a `leave` directly
/// behind its `enter`; only of what was killed with its command may the `leave` be missing.
#[test]
fn runs_never_overlap_even_if_they_are_killed() {
    const WORKERS: u64 = 4;
    const RUNS: u64 = 40;
    let machine = Machine::new();
    let worker = |worker: u64| {
        let mut random = worker.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut killed = Vec::new();
        for run in 0..RUNS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let id = format!("{worker}.{run}");
            let script = format!("echo enter {id} >> log; sleep 0.01; echo leave {id} >> log");
            let mut command = machine.run(&["cpu:0,cpu:1", "--lease-wait", "2m"], &script);
            let mut wrapper = command.process_group(0).stderr(Stdio::null()).spawn().unwrap();
            let group = Pid::from_child(&wrapper);
            if !random.is_multiple_of(4) {
                thread::sleep(Duration::from_micros(random >> 8 & 0xffff));
            }
            match random % 4 {
                0 => assert_eq!(wrapper.wait().unwrap().code(), Some(0), "{id}"),
                1 => {
                    kill_process_group(group, Signal::KILL).unwrap();
                    killed.push(id);
                }
                _ => wrapper.kill().unwrap(),
            }
            wrapper.wait().unwrap();
        }
        killed
    };
    let killed: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|number| scope.spawn(move || worker(number))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    wait_until("the last command has ended", || machine.state("cpu-0") == "free" && machine.state("cpu-1") == "free");

    let log = fs::read_to_string(machine.path("log")).unwrap();
    let mut inside: Option<&str> = None;
    let mut complete = 0;
    for (number, line) in log.lines().enumerate() {
        match line.split_once(' ').unwrap() {
            ("enter", id) => {
                let alone = inside.is_none_or(|earlier| killed.iter().any(|killed| killed == earlier));
                assert!(alone, "line {}: {id} entered while {inside:?} was inside\n{log}", number + 1);
                inside = Some(id);
            }
            ("leave", id) => {
                assert_eq!(inside, Some(id), "line {}\n{log}", number + 1);
                inside = None;
                complete += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    println!("{complete} complete runs, {} killed with their command, 0 overlaps", killed.len());
    assert!(complete > WORKERS * RUNS / 8 && !killed.is_empty(), "the test has tested nothing: {complete} {killed:?}");
}

#[test]
fn two_devices_wanted_in_opposite_order_are_no_deadlock() {
    let machine = Machine::new();
    thread::scope(|scope| {
        for devices in ["cpu:0,cpu:1", "cpu:1,cpu:0"] {
            let machine = &machine;
            scope.spawn(move || {
                for _ in 0..15 {
                    let script = "mkdir inside && rmdir inside";
                    check(&mut machine.run(&[devices, "--lease-wait", "1m"], script), 0, "");
                }
            });
        }
    });
}
