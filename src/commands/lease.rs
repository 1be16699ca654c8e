//! `embed-collections lease`: who holds which devices, and programs that have devices for themselves.

mod forward;
mod run;
mod status;

use std::io::{self, Write};

use crate::cli::LeaseCommand;
use crate::config::{ConfigError, Environment};
use crate::exit;
use crate::lease::{Candidates, DeviceNameError, DirectoryError, LeaseError, PolicyError};

/// Exit codes of shells, `env` and `timeout`.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// A lease command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum LeaseCommandError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A name leads to no device.
    #[error("--devices: {0}")]
    Device(#[from] DeviceNameError),
    /// Waiting and not waiting.
    #[error(transparent)]
    Policy(#[from] PolicyError),
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
            Self::Config(_) | Self::Device(_) | Self::Policy(_) | Self::Lease(LeaseError::NoDevice) => exit::USAGE,
            Self::Lease(LeaseError::Held { .. } | LeaseError::Foreign { .. } | LeaseError::GivenUp { .. }) => {
                exit::LEASE
            }
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
pub fn run(command: LeaseCommand, environment: &Environment) -> Result<u8, LeaseCommandError> {
    let places = environment.places();
    let candidates = Candidates::new(places.leases, places.runtime.as_deref());
    match command {
        LeaseCommand::Status { json } => status::status(&candidates, json),
        LeaseCommand::Run(options) => run::run_under_lease(&candidates, environment, &options),
    }
}

fn note(text: &str) {
    // Without standard error there is nobody to tell.
    drop(writeln!(io::stderr(), "lease: {text}"));
}
