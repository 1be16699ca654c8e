//! Names of GPUs, and programs on them that have no lease.

use std::process::Stdio;

use super::rig::{FIRST, Machine, PROGRAM, SECOND, check, wait_until};
use crate::stand_in::{StandIn, TWO_T4};

#[test]
fn a_gpu_goes_by_many_names_and_is_one_device() {
    let machine = Machine::new();
    let gpus = StandIn::new(TWO_T4);
    let shown = |visible: Option<&str>, devices: &str| {
        let mut run = machine.run_on(&gpus, &[devices, "--foreign", "share"], "echo $CUDA_VISIBLE_DEVICES");
        visible.map(|visible| run.env("CUDA_VISIBLE_DEVICES", visible));
        String::from_utf8(check(&mut run, 0, "").stdout).unwrap().trim().to_owned()
    };
    assert_eq!(shown(None, "cuda:1"), SECOND);
    assert_eq!(shown(None, "GPU-bb"), SECOND);
    assert_eq!(shown(None, "cuda"), format!("{FIRST},{SECOND}"));
    assert_eq!(shown(None, "cuda:1,cpu:0,cuda"), format!("{SECOND},{FIRST}"));
    assert_eq!(shown(Some("1,0"), "cuda:0"), SECOND);
    assert_eq!(shown(Some("1"), "cuda"), SECOND);
    let mut by_settings = machine.lease(&["run", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]);
    by_settings.env("EMBEDDER_NVML_LIBRARY", gpus.library()).env("EMBEDDER_SEQUENTIAL_DEVICES", "cuda:0");
    assert_eq!(String::from_utf8(check(&mut by_settings, 0, "").stdout).unwrap().trim(), FIRST);

    let devices: Vec<String> = machine.list().iter().map(|entry| entry["device"].as_str().unwrap().into()).collect();
    assert_eq!(devices, [FIRST, SECOND, "cpu-0"]);
    // As another user of the machine would ask.
    let script =
        format!("unset EMBED_LEASE_INHERITED CUDA_VISIBLE_DEVICES; {PROGRAM} lease run --devices GPU-aa -- true");
    check(&mut machine.run_on(&gpus, &["cuda:0"], &script), 6, &format!("gpu {FIRST} is leased by run sh-"));
}

#[test]
fn a_process_without_a_lease_is_refused_or_shared_with() {
    let machine = Machine::new();
    let gpus = StandIn::new(TWO_T4);
    let in_use = format!(
        "gpu {SECOND} is in use by python3 (pid 4711, 13.7 GiB), an unknown program (pid 4712, memory unknown) without \
         a lease"
    );
    let refused =
        check(&mut machine.run_on(&gpus, &["cuda"], "echo > ran"), 6, &format!("error: {in_use}; wait for it"));
    assert!(!machine.path("ran").exists() && refused.stdout.is_empty());
    assert_eq!((machine.state(FIRST), machine.state(SECOND)), ("free".to_owned(), "free".to_owned()));
    let free = check(&mut machine.run_on(&gpus, &["cuda:0"], "exit 5"), 5, "");
    assert_eq!(String::from_utf8_lossy(&free.stderr), "");
    let share = ["cuda:1", "--foreign", "share"];
    check(&mut machine.run_on(&gpus, &share, "exit 5"), 5, &format!("lease: {in_use}, and is shared with it"));
    let wait = ["cuda:1", "--foreign", "wait", "--lease-wait", "3s"];
    check(&mut machine.run_on(&gpus, &wait, "exit 5"), 6, "; waited ");
    // What the driver does not tell is nobody.
    let silent = StandIn::lacking("PROCESSES", TWO_T4);
    check(&mut machine.run_on(&silent, &["cuda:1"], "exit 5"), 5, "cannot see whether somebody uses gpu");
}

#[test]
fn who_waits_for_a_process_without_a_lease_leaves_the_device_to_others() {
    let machine = Machine::new();
    let gpus = StandIn::new(TWO_T4);
    let mut run = machine.run_on(&gpus, &["cuda:1", "--foreign", "wait"], "echo > ran");
    let mut waiting = run.stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it has looked for a while", || {
        let list = machine.list();
        list.iter().any(|entry| entry["device"] == SECOND && entry["epoch"].as_u64() >= Some(2))
    });
    check(&mut machine.run_on(&gpus, &["cuda:1", "--foreign", "share", "--lease-wait", "1m"], "exit 0"), 0, "");
    assert!(!machine.path("ran").exists());
    gpus.change(TWO_T4.split("process").next().unwrap());
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    assert!(machine.path("ran").exists());
    let stderr = std::io::read_to_string(waiting.stderr.take().unwrap()).unwrap();
    let said = format!("waiting: gpu {SECOND} is in use by python3 (pid 4711");
    assert_eq!(stderr.matches(&said).count(), 1, "{stderr}");
}
