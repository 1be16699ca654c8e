//! Processes that want the same device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::Duration;

use embed_collections::lease::State;

use super::rig::{MODELS, Rig, many_chunks, model, wait_until};
use crate::program::{Program, read_jsonl};

/// An exclusive run on one slot of the processor.
fn exclusive(rig: &Rig, input: &Path, output: &str) -> Program {
    Program::bare()
        .arguments(&["--exclusive-ensemble", "--ensemble-models", &model(MODELS[0]), &model(MODELS[1])])
        .arguments(&["--devices", "cpu:0", "--threads", "1", "--offline", "--fusion", "none", "--shard-rows", "64"])
        .path("--chunked-dir", input)
        .path("--output-dir", &rig.path(output))
        .path("--lease-dir", &rig.leases())
}

fn is_held(rig: &Rig) -> bool {
    rig.locks().iter().any(|lock| lock.state == State::Held)
}

/// Starts a run that holds the device for some seconds at least, and waits until it does.
fn holder(rig: &Rig) -> Child {
    let input = rig.path("much");
    many_chunks(&input, 60_000);
    let child = exclusive(rig, &input, "holder").start();
    wait_until("the first run holds the device", || is_held(rig));
    child
}

#[test]
fn the_second_leaves_with_exit_code_6_or_waits_as_asked() {
    let rig = Rig::cpu();
    let mut first = holder(&rig);
    let input = Path::new("tests/data/Chunked");
    let refused = exclusive(&rig, input, "second").run();
    assert_eq!(refused.exit_code, 6, "{}", refused.stderr);
    for part in ["cpu-0 is leased by run", &format!("pid {}", first.id()), "--lease-wait"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let given_up = exclusive(&rig, input, "third").arguments(&["--lease-wait", "1s"]).run();
    assert_eq!(given_up.exit_code, 6, "{}", given_up.stderr);
    let waiting =
        exclusive(&rig, input, "fourth").arguments(&["--lease-policy", "wait", "--lease-wait", "10m"]).start();
    let events = rig.path("fourth/events.jsonl");
    wait_until("the last one waits", || fs::read_to_string(&events).is_ok_and(|text| text.contains("lease_waiting")));
    // A killed holder's lease is free at once.
    first.kill().unwrap();
    first.wait().unwrap();
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let killed = read_jsonl(&rig.path("holder/events.jsonl"));
    assert!(killed.iter().all(|event| event["event_type"] != "run_finished"), "it was killed in the middle");
}

#[test]
fn a_run_that_waits_can_be_interrupted() {
    let rig = Rig::cpu();
    let mut first = holder(&rig);
    let waiting =
        exclusive(&rig, Path::new("tests/data/Chunked"), "second").arguments(&["--lease-wait", "10m"]).start();
    let events = rig.path("second/events.jsonl");
    wait_until("it waits", || fs::read_to_string(&events).is_ok_and(|text| text.contains("lease_waiting")));
    let pid = rustix::process::Pid::from_raw(waiting.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    first.kill().unwrap();
    first.wait().unwrap();
}

/// When a run held the device for each model: from `acquire` to `release`, or to the last event of a run that was killed.
fn turns(events: &Path) -> Vec<(f64, f64)> {
    let Ok(text) = fs::read_to_string(events) else { return Vec::new() };
    let mut turns: Vec<(f64, f64)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        // The last line of a run that was killed may be cut off.
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { break };
        let time = event["timestamp"].as_f64().unwrap();
        match event["event_type"].as_str() {
            Some("acquire") => {
                turns.push((time, time));
                open = true;
            }
            _ if open => turns.last_mut().unwrap().1 = time,
            _ => {}
        }
        open &= event["event_type"] != "release";
    }
    turns
}

#[test]
fn runs_that_are_killed_at_random_never_hold_a_device_together() {
    const LANES: u64 = 3;
    const RUNS: u64 = 12;
    let rig = Rig::cpu();
    let input = rig.path("some");
    many_chunks(&input, 600);
    let files: Vec<PathBuf> = thread::scope(|scope| {
        let lane = |lane: u64| {
            let (rig, input) = (&rig, &input);
            move || {
                let mut files = Vec::new();
                for run in 0..RUNS {
                    let name = format!("run-{lane}-{run}");
                    let mut child = exclusive(rig, input, &name).arguments(&["--lease-wait", "10m"]).start();
                    files.push(rig.path(&name).join("events.jsonl"));
                    // Every other one is killed, at a moment that differs from run to run.
                    if (run + lane).is_multiple_of(2) {
                        thread::sleep(Duration::from_millis(100 + (run * 7919 + lane * 104_729) % 700));
                        child.kill().unwrap();
                        child.wait().unwrap();
                    } else {
                        let output = child.wait_with_output().unwrap();
                        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
                    }
                }
                files
            }
        };
        let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(lane(number))).collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    });
    let mut turns: Vec<(f64, f64)> = files.iter().flat_map(|file| turns(file)).collect();
    turns.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(turns.len() as u64 >= LANES * RUNS, "{} turns", turns.len());
    let overlaps = turns.windows(2).filter(|pair| pair[1].0 < pair[0].1).count();
    assert_eq!(overlaps, 0, "of {} turns", turns.len());
    assert!(!is_held(&rig));
}
