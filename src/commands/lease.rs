//! `embed-collections lease`: who holds which devices, and programs that have devices for themselves.

mod forward;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use crate::cli::{LeaseCommand, LeasePolicy, LeaseRun};
use crate::config::Places;
use crate::exit;
use crate::lease::{
    Busy, Candidates, DeviceKey, DeviceNameError, DeviceState, DirectoryError, Lease, LeaseDirectory, LeaseError,
    LeasedDevice, Manager, Policy, Reach, State, Who, plain, survey,
};

use forward::Forwarder;

/// Wait so long if the user says to wait, but not for how long.
const DEFAULT_WAIT: Duration = Duration::from_mins(30);

/// Exit codes of shells, `env` and `timeout`.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const SIGNALLED: i32 = 128;

/// A lease command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum LeaseCommandError {
    /// A device cannot be leased under this name.
    #[error("--devices: {0}")]
    Device(#[from] DeviceNameError),
    /// Waiting and not waiting.
    #[error("--lease-policy fail and --lease-wait contradict each other; give one of them")]
    Contradiction,
    /// There is no directory of lock files.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The devices are not to be had.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The lock cannot be given on, or signals cannot be received.
    #[error("cannot prepare to run {program}: {source}")]
    Prepare {
        /// The command.
        program: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The command did not start.
    #[error("cannot run {program}: {source}; {}", if_not_found(.source))]
    Start {
        /// The command.
        program: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The end of the command cannot be waited for.
    #[error("cannot wait for {program} (pid {pid}), which goes on and keeps the lease: {source}")]
    Wait {
        /// The command.
        program: String,
        /// Its process.
        pid: u32,
        /// What the operating system said.
        source: io::Error,
    },
    /// The survey cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

fn if_not_found(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "is it in PATH, and is the interpreter in its first line there?",
        _ => "it must be a program that this user may execute",
    }
}

impl LeaseCommandError {
    /// The exit code that tells other programs what kind of error it is.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Device(_) | Self::Contradiction | Self::Lease(LeaseError::NoDevice) => exit::USAGE,
            Self::Lease(LeaseError::Held { .. } | LeaseError::GivenUp { .. }) => exit::LEASE,
            Self::Directory(_) | Self::Lease(LeaseError::File(_)) | Self::Output(_) => exit::OUTPUT,
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => NOT_FOUND,
            Self::Start { .. } => NOT_EXECUTABLE,
            Self::Prepare { .. } | Self::Wait { .. } => exit::INTERNAL,
        }
    }
}

/// Does what the command line asks for; returns the exit code.
///
/// # Errors
/// [`LeaseCommandError`], which knows its exit code.
pub fn run(command: LeaseCommand, places: &Places) -> Result<u8, LeaseCommandError> {
    let candidates = Candidates::new(places.leases.clone(), places.runtime.as_deref());
    match command {
        LeaseCommand::Status { json } => status(&candidates, json),
        LeaseCommand::Run(options) => run_under_lease(&candidates, &options),
    }
}

fn status(candidates: &Candidates, json: bool) -> Result<u8, LeaseCommandError> {
    let directory = LeaseDirectory::find(candidates)?;
    let devices = directory.as_ref().map_or_else(|| Ok(Vec::new()), survey)?;
    let text = if json {
        serde_json::to_string_pretty(&devices).map_err(|error| LeaseCommandError::Output(error.into()))? + "\n"
    } else {
        table(directory.as_ref(), &devices)
    };
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(exit::DONE),
        Err(error) => Err(LeaseCommandError::Output(error)),
        Ok(()) => Ok(exit::DONE),
    }
}

/// One line for each device, columns as wide as they must be.
fn table(directory: Option<&LeaseDirectory>, devices: &[DeviceState]) -> String {
    let Some(directory) = directory else { return "no device was leased yet\n".to_owned() };
    let scope = match directory.reach() {
        Reach::AllUsers => "",
        Reach::OneUser => " (this user's alone)",
    };
    let mut text = format!("leases in {}{scope}\n", directory.path().display());
    let header = ["DEVICE", "HOLDER", "SINCE", "MODEL", "EPOCH"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(devices.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    for [device, holder, since, model, epoch] in &rows {
        let [first, second, third, fourth] = widths;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{device:first$}  {holder:second$}  {since:third$}  {model:fourth$}  {epoch}");
    }
    text
}

fn row(device: &DeviceState) -> [String; 5] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let holder = device.holder.as_ref();
    let held_by = match (device.state, holder) {
        (State::Free, _) => "free".to_owned(),
        (State::Held, Some(holder)) => holder.to_string(),
        (State::Held, None) => "held, by whom is not written".to_owned(),
        (State::Unknown, _) => format!("unknown: {}", device.error.as_deref().unwrap_or("no reason")),
    };
    [
        device.device.to_string(),
        held_by,
        or_dash(holder.map(|holder| plain(&holder.since))),
        or_dash(holder.and_then(|holder| holder.model.as_deref()).map(plain)),
        or_dash(device.epoch.map(|epoch| epoch.to_string())),
    ]
}

fn run_under_lease(candidates: &Candidates, options: &LeaseRun) -> Result<u8, LeaseCommandError> {
    let policy = policy(options)?;
    let devices = devices(&options.devices)?;
    let Some((program, arguments)) = options.command.split_first() else { return Err(LeaseError::NoDevice.into()) };
    let shown = program.to_string_lossy().into_owned();
    let who = Who { run: options.run_id.clone().unwrap_or_else(|| run_id(program)), model: None };

    let manager = Manager::open(candidates)?;
    if manager.directory().reach() == Reach::OneUser {
        let directory = manager.directory().path().display();
        note(&format!("leases in {directory} are not seen by other users; set EMBED_LEASE_DIR to share them"));
    }
    // Until the lease is there, a signal ends this process as it ends any other.
    let mut lease = manager.acquire_watched(&devices, policy, &who, &mut announcer())?;
    let prepare = |source| LeaseCommandError::Prepare { program: shown.clone(), source };
    let forwarder = Forwarder::new().map_err(prepare)?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(visible) = visible_gpus(&lease) {
        command.env("CUDA_VISIBLE_DEVICES", visible);
    }
    lease.lend_to(&mut command).map_err(prepare)?;
    let started = command.spawn();
    // Its copies of the lock are the child's now.
    drop(command);
    let mut child = started.map_err(|source| LeaseCommandError::Start { program: shown.clone(), source })?;
    if let Err(error) = lease.name_process(child.id()) {
        note(&format!("cannot write the command's process number into the lock file: {error}"));
    }
    let pid = child.id();
    let status =
        forwarder.wait(&mut child).map_err(|source| LeaseCommandError::Wait { program: shown.clone(), pid, source })?;
    release(lease, manager.directory(), &child);
    Ok(exit_code(status))
}

fn policy(options: &LeaseRun) -> Result<Policy, LeaseCommandError> {
    match (options.lease_policy, options.lease_wait) {
        (Some(LeasePolicy::Fail), Some(_)) => Err(LeaseCommandError::Contradiction),
        (Some(LeasePolicy::Fail) | None, None) => Ok(Policy::Fail),
        (_, Some(wait)) => Ok(Policy::Wait(wait.0)),
        (Some(LeasePolicy::Wait), None) => Ok(Policy::Wait(DEFAULT_WAIT)),
    }
}

/// In the order given, each once.
fn devices(names: &[String]) -> Result<Vec<DeviceKey>, DeviceNameError> {
    let mut devices = Vec::new();
    for name in names {
        let device = DeviceKey::of_name(name)?;
        if !devices.contains(&device) {
            devices.push(device);
        }
    }
    Ok(devices)
}

fn run_id(program: &OsString) -> String {
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    format!("{name}-{}", std::process::id())
}

/// For CUDA, if there is a GPU in the lease; otherwise the variable stays as it is.
fn visible_gpus(lease: &Lease) -> Option<String> {
    let gpus: Vec<&str> =
        lease.devices().map(LeasedDevice::key).filter(|key| key.is_gpu()).map(DeviceKey::as_str).collect();
    (!gpus.is_empty()).then(|| gpus.join(","))
}

/// Says what is waited for, once for each holder.
fn announcer() -> impl FnMut(&Busy) -> ControlFlow<()> {
    let mut announced: Option<Busy> = None;
    move |busy| {
        if announced.as_ref() != Some(busy) {
            note(&format!("waiting: {busy}"));
            announced = Some(busy.clone());
        }
        ControlFlow::Continue(())
    }
}

/// Ends our part of the lease, and says so if processes that the command left behind keep theirs.
fn release(lease: Lease, directory: &LeaseDirectory, child: &Child) {
    let devices: Vec<(DeviceKey, u64)> = lease.devices().map(|device| (device.key().clone(), device.epoch())).collect();
    drop(lease);
    for (key, epoch) in devices {
        let still_ours = || {
            DeviceState::of(directory, key.clone()).is_some_and(|device| {
                device.state == State::Held
                    && device.holder.is_some_and(|holder| (holder.epoch, holder.pid) == (epoch, child.id()))
            })
        };
        // Looking twice: who takes the device now has it for a moment before the file says so.
        if still_ours() && {
            std::thread::sleep(Duration::from_millis(20));
            still_ours()
        } {
            note(&format!("the command has ended, but a process that it started still holds {key}"));
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| SIGNALLED + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(exit::INTERNAL)
}

fn note(text: &str) {
    // Without standard error there is nobody to tell.
    drop(writeln!(io::stderr(), "lease: {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(policy: Option<LeasePolicy>, wait: Option<&str>) -> LeaseRun {
        LeaseRun {
            devices: Vec::new(),
            lease_policy: policy,
            lease_wait: wait.map(|wait| wait.parse().unwrap()),
            run_id: None,
            command: Vec::new(),
        }
    }

    #[track_caller]
    fn check(given: Option<LeasePolicy>, wait: Option<&str>, expected: Option<Policy>) {
        assert_eq!(policy(&options(given, wait)).ok(), expected, "{given:?} {wait:?}");
    }

    #[test]
    fn a_time_to_wait_is_a_wish_to_wait() {
        check(None, None, Some(Policy::Fail));
        check(Some(LeasePolicy::Fail), None, Some(Policy::Fail));
        check(None, Some("5s"), Some(Policy::Wait(Duration::from_secs(5))));
        check(Some(LeasePolicy::Wait), Some("5s"), Some(Policy::Wait(Duration::from_secs(5))));
        check(Some(LeasePolicy::Wait), None, Some(Policy::Wait(DEFAULT_WAIT)));
        check(Some(LeasePolicy::Fail), Some("5s"), None);
    }

    #[test]
    fn devices_keep_their_order_and_count_once() {
        let names = ["cpu:1", "cpu:0", "cpu-1"].map(str::to_owned);
        let keys: Vec<String> = devices(&names).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(keys, ["cpu-1", "cpu-0"]);
    }
}
