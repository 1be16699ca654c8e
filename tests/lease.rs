//! Leases between real processes, which are killed at bad moments.

#![expect(clippy::unwrap_used, reason = "a test")]

mod stand_in;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use stand_in::{StandIn, TWO_T4};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_embed-collections");
const GPU: &str = "GPU-01234567-89ab-cdef-0123-456789abcdef";

/// The GPUs of [`TWO_T4`]; a process without a lease is on the second one.
const FIRST: &str = "GPU-aaaa1111-0000";
const SECOND: &str = "GPU-bbbb2222-0000";

/// A user that is not root and owns nothing.
const NOBODY: u32 = 65534;

/// A directory of leases, and room for what commands write.
struct Machine {
    root: TempDir,
}

impl Machine {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn leases(&self) -> PathBuf {
        self.path("leases")
    }

    /// `lease ARGUMENTS`.
    fn lease(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("lease").args(arguments).env("EMBED_LEASE_DIR", self.leases()).stdin(Stdio::null());
        for name in ["EMBED_LEASE_INHERITED", "CUDA_VISIBLE_DEVICES", "EMBEDDER_CONFIG", "EMBEDDER_SEQUENTIAL_DEVICES"]
        {
            command.env_remove(name);
        }
        command
    }

    /// `lease run OPTIONS -- sh -c SCRIPT`.
    fn run(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.lease(&[&["run", "--devices"], options, &["--", "sh", "-c", script]].concat());
        command.current_dir(self.root.path());
        command
    }

    /// The same on a machine whose GPUs are made up.
    fn run_on(&self, gpus: &StandIn, options: &[&str], script: &str) -> Command {
        let mut command = self.run(options, script);
        command.env("EMBEDDER_NVML_LIBRARY", gpus.library());
        command
    }

    fn list(&self) -> Vec<Value> {
        let output = self.lease(&["list", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    fn state(&self, device: &str) -> String {
        let list = self.list();
        let found = list.iter().find(|entry| entry["device"] == device);
        found.map_or("no file".to_owned(), |entry| entry["state"].as_str().unwrap().to_owned())
    }

    /// Starts a command that holds a device until it is killed, and waits until it does.
    fn hold(&self, device: &str) -> Holding {
        let mut run = self.run(&[device], "echo $$ > held; exec sleep 1000");
        let wrapper = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let held = self.path("held");
        wait_until("the command runs", || fs::read_to_string(&held).is_ok_and(|text| text.ends_with('\n')));
        let command = fs::read_to_string(&held).unwrap().trim().parse().unwrap();
        wait_until("the holder is named", || self.list().iter().any(|entry| entry["holder"]["pid"] == command));
        Holding { wrapper, command: Pid::from_raw(command).unwrap() }
    }
}

/// A wrapper and its command, both ended with the test.
struct Holding {
    wrapper: Child,
    command: Pid,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.wrapper.kill();
        let _ = self.wrapper.wait();
        let _ = kill_process(self.command, Signal::KILL);
    }
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_mins(1), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn check(command: &mut Command, exit_code: i32, said: &str) -> Output {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit_code), "{stderr}");
    assert!(stderr.contains(said), "{said:?} is not in {stderr:?}");
    output
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

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
        let mut wrapper = machine.run(&["cpu:0"], &script).spawn().unwrap();
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

/// `lease run` of this program in a script.
fn nested(options: &str, command: &str) -> String {
    format!("{PROGRAM} lease run --devices {options} -- {command}")
}

#[test]
fn a_program_inside_a_lease_works_under_it() {
    let machine = Machine::new();
    check(&mut machine.run(&["cpu:0"], &nested("cpu:0", "true")), 0, "");
    // One after the other, with more devices and with fewer, and three deep.
    let script = format!("{} && {}", nested("cpu:1,cpu:2", "true"), nested("cpu:0", "true"));
    check(&mut machine.run(&["cpu:0,cpu:1"], &script), 0, "");
    let innermost = format!("sh -c '{}'", nested("cpu:1,cpu:0", "sh -c \"exit 7\""));
    check(&mut machine.run(&["cpu:0,cpu:1"], &nested("cpu:0", &innermost)), 7, "");
    let gpus = StandIn::new(TWO_T4);
    check(&mut machine.run_on(&gpus, &["cuda:0"], &nested("cuda:0", "true")), 0, "");
    let list = machine.list();
    let devices: Vec<&str> = list.iter().map(|entry| entry["device"].as_str().unwrap()).collect();
    assert_eq!(devices, [FIRST, "cpu-0", "cpu-1", "cpu-2"], "locks inside locks are no devices");
    assert!(list.iter().all(|entry| entry["state"] == "free"), "{list:?}");
    // Each time that it was taken, inside or not.
    assert_eq!(list.iter().map(|entry| entry["epoch"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 7, 4, 1]);
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
    for variable in ["cpu-0=7", "cpu-0=7:8", "cpu-0=8", "cpu-0=9", "cpu-0=99", "cpu-0=0", "cpu-0=-1", "cpu-1=7", "x"] {
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
