//! `embed-collections doctor`: what may keep collections from being embedded here, and what to do about it.
//!
//! It changes nothing: directories that would be made are judged by the directory that they would be made in.

mod places;

use std::io::{self, Write};
use std::path::Path;

use super::devices::{DevicesError, describe_process, visibility_notes};
use crate::cli::DoctorCommand;
use crate::config::{self, Environment, Resolved};
use crate::device::{ChoiceError, CpuLimits, Detection, DeviceInfo, DeviceKind, ENCODERS, Probe, ProbeError, cores};
use crate::domain::Bytes;
use crate::embedder::{choice, look, unused_devices};
use crate::exit;

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As it should be.
    Ok,
    /// Embedding works, but not as it could.
    Warning,
    /// Embedding fails with this exit code.
    Problem(u8),
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    subject: &'static str,
    state: State,
    finding: String,
    /// What to do, unless all is well or the finding says it.
    advice: Option<String>,
}

impl Check {
    fn ok(subject: &'static str, finding: impl Into<String>) -> Self {
        Self { subject, state: State::Ok, finding: finding.into(), advice: None }
    }

    fn warning(subject: &'static str, finding: impl Into<String>) -> Self {
        Self { subject, state: State::Warning, finding: finding.into(), advice: None }
    }

    fn problem(subject: &'static str, exit_code: u8, finding: impl Into<String>) -> Self {
        Self { subject, state: State::Problem(exit_code), finding: finding.into(), advice: None }
    }

    fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// Writes to `out` what was found; returns the exit code of the first problem, or that of success.
pub(super) fn run(command: DoctorCommand, environment: &Environment, out: &mut dyn Write) -> Result<u8, DevicesError> {
    let resolved = config::resolve(&command.into_settings(), environment)?;
    let checks = examine(&resolved);
    // A reader that has gone away does not change the result.
    drop(write(&checks, out));
    Ok(exit_code(&checks))
}

fn examine(resolved: &Resolved) -> Vec<Check> {
    let detection = look(resolved);
    let mut checks = vec![build(detection.devices())];
    checks.extend(driver(&detection, resolved.settings.nvml_library.is_some(), Path::new("/dev/nvidiactl").exists()));
    checks.extend(gpus(&detection));
    checks.push(chosen(choice(&resolved.settings, &detection).map(|choice| choice.labels())));
    checks.push(processor(cores(), CpuLimits::read(Path::new("/"))));
    checks.extend(memory(&detection));
    checks.extend(places::examine(resolved));
    checks
}

fn write(checks: &[Check], out: &mut dyn Write) -> io::Result<()> {
    for check in checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Problem(_) => "problem",
        };
        writeln!(out, "{state:<8} {}: {}", check.subject, check.finding)?;
        if let Some(advice) = &check.advice {
            writeln!(out, "{:<8} -> {advice}", "")?;
        }
    }
    let count = |wanted: fn(State) -> bool| checks.iter().filter(|check| wanted(check.state)).count();
    let problems = count(|state| matches!(state, State::Problem(_)));
    let warnings = count(|state| state == State::Warning);
    match (problems, warnings) {
        (0, 0) => writeln!(out, "ready to embed"),
        (0, _) => writeln!(out, "ready to embed; warnings: {warnings}"),
        _ => writeln!(out, "embedding will fail; problems: {problems}, warnings: {warnings}"),
    }
}

fn exit_code(checks: &[Check]) -> u8 {
    let problem = |check: &Check| if let State::Problem(exit_code) = check.state { Some(exit_code) } else { None };
    checks.iter().find_map(problem).unwrap_or(exit::DONE)
}

fn build(devices: &[DeviceInfo]) -> Check {
    let encoders: Vec<&str> = ENCODERS.iter().map(|kind| kind.as_str()).collect();
    let unused: Vec<DeviceInfo> = devices.iter().filter(|device| !ENCODERS.contains(&device.kind)).cloned().collect();
    match unused_devices(&unused) {
        None if ENCODERS.contains(&DeviceKind::Cuda) => {
            Check::ok("build", format!("encodes on {}", encoders.join(", ")))
        }
        None => Check::ok("build", format!("encodes on {}; built without cuda", encoders.join(", "))),
        Some(note) => {
            Check::warning("build", note).advise("embedding works on the CPU, but is slower than it could be")
        }
    }
}

/// A machine without GPUs needs no driver; one where somebody expects it does.
fn driver(detection: &Detection, library_given: bool, device_file: bool) -> Vec<Check> {
    let versions = match detection.driver() {
        Ok(versions) => versions,
        Err(ProbeError::NotAsked) => return vec![Check::ok("driver", ProbeError::NotAsked.to_string())],
        Err(error @ ProbeError::LibraryMissing { .. }) if !library_given && !device_file => {
            return vec![Check::ok("driver", format!("none ({error})"))];
        }
        Err(error) => return vec![Check::warning("driver", error.to_string())],
    };
    let unknown = || "?".to_owned();
    let (driver, cuda) = (versions.driver.unwrap_or_else(unknown), versions.cuda.unwrap_or_else(unknown));
    let found = detection.devices().iter().filter(|device| device.kind == DeviceKind::Cuda).count();
    let hidden = detection.hidden().len();
    let finding = format!("NVIDIA {driver}, CUDA up to {cuda}, NVML answers; GPUs: {found} visible, {hidden} hidden");
    let faults = detection.faults().iter().map(|fault| Check::warning("gpu", fault.to_string()));
    let notes = visibility_notes(detection).into_iter().map(|note| Check::warning("visible", note));
    [Check::ok("driver", finding)].into_iter().chain(notes).chain(faults).collect()
}

/// Each visible GPU that is lost, divided or in use.
fn gpus(detection: &Detection) -> Vec<Check> {
    let mut checks = Vec::new();
    for gpu in detection.devices().iter().filter(|device| device.kind == DeviceKind::Cuda) {
        if gpu.mig == Some(true) {
            let finding = format!("{} ({}) is divided into MIG instances", gpu.label(), gpu.uuid);
            checks.push(
                Check::warning("gpu", finding).advise("MIG instances cannot be used; have MIG switched off for it"),
            );
        }
        let snapshot = match detection.snapshot(&gpu.uuid) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                checks.push(Check::warning("gpu", error.to_string()));
                continue;
            }
        };
        let foreign: Vec<String> = snapshot.foreign(std::process::id()).map(describe_process).collect();
        let free = snapshot.free.map_or_else(|| "free memory unknown".to_owned(), |free| format!("{free} free"));
        let finding = format!("{} ({}), {free}", gpu.label(), gpu.name);
        checks.push(if foreign.is_empty() {
            Check::ok("gpu", finding)
        } else {
            let finding = format!("{finding}; in use by {}", foreign.join(", "));
            Check::warning("gpu", finding)
                .advise("wait for these processes, end them, or choose another device with --devices")
        });
    }
    checks
}

fn chosen(choice: Result<Vec<String>, ChoiceError>) -> Check {
    match choice {
        Ok(labels) => Check::ok("devices", format!("embedding uses {}", labels.join(", "))),
        Err(error) => Check::problem("devices", exit::USAGE, error.to_string())
            .advise("change --devices or EMBEDDER_SEQUENTIAL_DEVICES; `embed-collections devices` lists what there is"),
    }
}

fn processor(cores: usize, limits: CpuLimits) -> Check {
    let finding = match limits.cores {
        Some(quota) => format!("{cores} for this process (the control group allows {quota:.1})"),
        None => format!("{cores} for this process (no limit by control groups)"),
    };
    // Threads beyond the quota are stopped for the rest of each period.
    let scarce = limits.cores.is_some_and(|quota| quota < 1.0);
    if scarce {
        Check::warning("cores", finding).advise("less than one core: give the container more CPU time")
    } else {
        Check::ok("cores", finding)
    }
}

/// Small models need a few hundred MiB beside what the shards in flight take.
const LITTLE_MEMORY: Bytes = Bytes::mib(1024);

fn memory(detection: &Detection) -> Option<Check> {
    let cpu = detection.devices().iter().find(|device| device.kind == DeviceKind::Cpu)?;
    Some(match detection.snapshot(&cpu.uuid) {
        Err(error) => Check::warning("memory", error.to_string()),
        Ok(snapshot) => {
            let (free, total) = (snapshot.free.unwrap_or_default(), snapshot.total.unwrap_or_default());
            let finding = format!("{free} of {total} to be had (limits of control groups counted)");
            if free < LITTLE_MEMORY {
                Check::warning("memory", finding).advise("a model may not fit; end other programs or raise the limit")
            } else {
                Check::ok("memory", finding)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::SlotError;

    #[track_caller]
    fn check(checks: &[Check], expected_code: u8, expected: &str) {
        let mut text = Vec::new();
        write(checks, &mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert_eq!(exit_code(checks), expected_code);
    }

    #[test]
    fn only_problems_change_the_exit_code() {
        check(&[Check::ok("a", "fine")], exit::DONE, "ok       a: fine\nready to embed\n");
        check(
            &[Check::ok("a", "fine"), Check::warning("b", "odd").advise("do this")],
            exit::DONE,
            "ok       a: fine\nwarning  b: odd\n         -> do this\nready to embed; warnings: 1\n",
        );
        check(
            &[Check::warning("b", "odd"), Check::problem("c", exit::OUTPUT, "bad")],
            exit::OUTPUT,
            "warning  b: odd\nproblem  c: bad\nembedding will fail; problems: 1, warnings: 1\n",
        );
    }

    #[test]
    fn devices_that_are_not_to_be_had_are_a_problem() {
        let error = ChoiceError::Slots(SlotError { wanted: 3, cores: 2 });
        assert_eq!(chosen(Err(error)).state, State::Problem(exit::USAGE));
        assert_eq!(chosen(Ok(vec!["cpu".to_owned()])), Check::ok("devices", "embedding uses cpu"));
    }

    #[test]
    fn less_than_a_core_is_worth_a_warning() {
        let state = |cores| processor(1, CpuLimits { cores, memory: None }).state;
        assert_eq!([state(None), state(Some(1.0)), state(Some(0.5))], [State::Ok, State::Ok, State::Warning]);
    }
}
