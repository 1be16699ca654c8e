//! `embed-collections lease run`: a program that has devices for itself.

use std::cell::LazyCell;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use super::forward::Forwarder;
use super::{LeaseCommandError, note};
use crate::cli::LeaseRun;
use crate::commands::devices::visibility_notes;
use crate::config::{self, CommandLine, Environment, Resolved};
use crate::device::{Detection, Probe};
use crate::embedder::look;
use crate::exit;
use crate::lease::{
    Candidates, DeviceKey, Inherited, Lease, LeaseError, LeasedDevice, Manager, Obstacle, Policy, Reach, Request,
    Requester, resolve,
};

const SIGNALLED: i32 = 128;

/// Runs the command and waits for its end; returns its exit code.
pub(super) fn run_under_lease(
    candidates: &Candidates,
    environment: &Environment,
    options: &LeaseRun,
) -> Result<u8, LeaseCommandError> {
    let Some((program, arguments)) = options.command.split_first() else { return Err(LeaseError::NoDevice.into()) };
    let shown = program.to_string_lossy().into_owned();
    let requester = Requester { run: options.run_id.clone().unwrap_or_else(|| run_id(program)), model: None };
    let mut resolved = config::resolve(&CommandLine::default(), environment)?;
    let settings = &mut resolved.settings;
    // That embedding is to use the processor does not make GPUs vanish.
    settings.force_cpu = false;
    // Patience on the command line is instead of that in the settings, not besides.
    if options.lease_policy.is_some() || options.lease_wait.is_some() {
        (settings.lease_policy, settings.lease_wait) = (options.lease_policy, options.lease_wait);
    }
    settings.foreign = options.foreign.unwrap_or(settings.foreign);
    let wait = settings.lease_wait.map(|wait| wait.0);
    let policy = Policy::resolve(settings.lease_policy, wait, settings.foreign)?;

    let (manager, mut lease) = acquire(candidates, &resolved, options, policy, &requester)?;
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
    for device in manager.release(lease) {
        note(&format!("the command has ended, but a process that it started still holds {device}"));
    }
    Ok(exit_code(status))
}

/// Takes the devices. Until they are there, a signal ends this process as it ends any other. The driver is let go of
/// before the command starts, which may run for long.
fn acquire(
    candidates: &Candidates,
    resolved: &Resolved,
    options: &LeaseRun,
    policy: Policy,
    requester: &Requester,
) -> Result<(Manager, Lease), LeaseCommandError> {
    let detection = LazyCell::new(|| look(resolved));
    let devices = devices(resolved, options, &detection)?;
    if devices.is_empty() {
        return Err(LeaseError::NoDevice.into());
    }
    let inherited = Inherited::parse(resolved.places.inherited_leases.as_deref().unwrap_or_default());
    let manager = Manager::open(candidates)?.with_inherited(inherited);
    if manager.directory().reach() == Reach::OneUser {
        let directory = manager.directory().path().display();
        note(&format!("leases in {directory} are not seen by other users; set EMBED_LEASE_DIR to share them"));
    }
    let probe: Option<&dyn Probe> = if devices.iter().any(DeviceKey::is_gpu) { Some(&*detection) } else { None };
    let foreign = resolved.settings.foreign;
    let request = Request { policy, foreign, probe, requester, watch: &mut announcer() };
    let lease = manager.acquire(&devices, request)?;
    for lease_note in lease.notes() {
        note(&lease_note.to_string());
    }
    Ok((manager, lease))
}

/// What `--devices` or else the settings name.
fn devices<Look: FnOnce() -> Detection>(
    resolved: &Resolved,
    options: &LeaseRun,
    detection: &LazyCell<Detection, Look>,
) -> Result<Vec<DeviceKey>, LeaseCommandError> {
    let names = if options.devices.is_empty() { &resolved.settings.devices } else { &options.devices };
    let mut asked = false;
    let devices = resolve(names, || {
        asked = true;
        detection.devices()
    });
    if asked {
        // Why a GPU may be missing, or another one be meant than somebody thinks.
        let missing = detection.driver().err().map(ToString::to_string);
        missing.into_iter().chain(visibility_notes(detection)).for_each(|text| note(&text));
    }
    Ok(devices?)
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

/// Says what is waited for, once for each holder or set of processes.
fn announcer() -> impl FnMut(&Obstacle) -> ControlFlow<()> {
    let mut announced = None;
    move |obstacle| {
        let who = Some(who_is_in_the_way(obstacle));
        if announced != who {
            note(&format!("waiting: {obstacle}"));
            announced = who;
        }
        ControlFlow::Continue(())
    }
}

/// Without the memory of processes, which changes.
fn who_is_in_the_way(obstacle: &Obstacle) -> Vec<String> {
    match obstacle {
        Obstacle::Held(busy) => vec![busy.to_string()],
        Obstacle::Foreign(occupied) => occupied
            .iter()
            .flat_map(|gpu| gpu.processes.iter().map(|process| format!("{} {}", gpu.device, process.pid)))
            .collect(),
    }
}

fn exit_code(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| SIGNALLED + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(exit::INTERNAL)
}
