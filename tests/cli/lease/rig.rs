//! A directory of leases and commands that hold some.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::stand_in::StandIn;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_embed-collections");
pub(crate) const GPU: &str = "GPU-01234567-89ab-cdef-0123-456789abcdef";

/// The GPUs of [`TWO_T4`](crate::stand_in::TWO_T4); a process without a lease is on the second one.
pub(crate) const FIRST: &str = "GPU-aaaa1111-0000";
pub(crate) const SECOND: &str = "GPU-bbbb2222-0000";

/// A user that is not root and owns nothing.
pub(crate) const NOBODY: u32 = 65534;

/// A directory of leases, and room for what commands write.
pub(crate) struct Machine {
    root: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let root = TempDir::new().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { root }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.path("leases")
    }

    /// `lease ARGUMENTS`.
    pub(crate) fn lease(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("lease").args(arguments).env("EMBED_LEASE_DIR", self.leases()).stdin(Stdio::null());
        for name in ["EMBED_LEASE_INHERITED", "CUDA_VISIBLE_DEVICES", "EMBEDDER_CONFIG", "EMBEDDER_SEQUENTIAL_DEVICES"]
        {
            command.env_remove(name);
        }
        command
    }

    /// `lease run OPTIONS -- sh -c SCRIPT`.
    pub(crate) fn run(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.lease(&[&["run", "--devices"], options, &["--", "sh", "-c", script]].concat());
        command.current_dir(self.root.path());
        command
    }

    /// The same on a machine whose GPUs are made up.
    pub(crate) fn run_on(&self, gpus: &StandIn, options: &[&str], script: &str) -> Command {
        let mut command = self.run(options, script);
        command.env("EMBEDDER_NVML_LIBRARY", gpus.library());
        command
    }

    /// The same with the usual answers to signals: tests that are started in the background have some of them ignored,
    /// and so would all that they start.
    pub(crate) fn run_with_usual_signals(&self, options: &[&str], script: &str) -> Command {
        let run = self.run(options, script);
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(run.get_program()).args(run.get_args()).stdin(Stdio::null());
        command.current_dir(self.root.path());
        for (name, value) in run.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    pub(crate) fn list(&self) -> Vec<Value> {
        let output = self.lease(&["list", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    pub(crate) fn state(&self, device: &str) -> String {
        let list = self.list();
        let found = list.iter().find(|entry| entry["device"] == device);
        found.map_or("no file".to_owned(), |entry| entry["state"].as_str().unwrap().to_owned())
    }

    /// Starts a command that holds a device until it is killed, and waits until it does.
    pub(crate) fn hold(&self, device: &str) -> Holding {
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
pub(crate) struct Holding {
    pub(crate) wrapper: Child,
    pub(crate) command: Pid,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.wrapper.kill();
        let _ = self.wrapper.wait();
        let _ = kill_process(self.command, Signal::KILL);
    }
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_mins(1), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
pub(crate) fn check(command: &mut Command, exit_code: i32, said: &str) -> Output {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit_code), "{stderr}");
    assert!(stderr.contains(said), "{said:?} is not in {stderr:?}");
    output
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
