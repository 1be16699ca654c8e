//! `status`, `verify` and `merge`: what is in an output directory, and one output out of shares.

mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::OutputCommand;
use crate::config::{self, ConfigError, Environment};
use crate::exit;
use crate::output::{Depth, LockError, MergeError, Merged, OutputState, merge, survey};

/// Why nothing can be said of an output directory, or nothing be merged.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputsError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory is not there, or cannot be read.
    #[error("cannot read {} (name the output directory of a run)", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The directory holds no output.
    #[error("{} holds no output (name the output directory of a run)", directory.display())]
    Nothing {
        /// The directory.
        directory: PathBuf,
    },
    /// Shares cannot be merged.
    #[error(transparent)]
    Merge(#[from] MergeError),
}

impl OutputsError {
    /// The exit code that tells other programs what kind of error it is.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => exit::USAGE,
            Self::Directory { .. } | Self::Nothing { .. } | Self::Merge(MergeError::NoShares { .. }) => exit::INPUT,
            Self::Merge(error) if error.is_unfinished() => exit::DONE_WITH_FAULTS,
            Self::Merge(MergeError::Lock(LockError::OtherShares { .. })) => exit::RESUME_MISMATCH,
            Self::Merge(MergeError::Lock(_) | MergeError::Storage(_)) => exit::OUTPUT,
            Self::Merge(_) => exit::RESUME_MISMATCH,
        }
    }
}

/// Writes to `out` what is there; returns the exit code.
pub(super) fn look(
    command: OutputCommand,
    depth: Depth,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<u8, OutputsError> {
    let (json, directory) = resolve(command, environment)?;
    let read = |source| OutputsError::Directory { directory: directory.clone(), source };
    let survey = survey(&directory, depth).map_err(read)?;
    if survey.collections.is_empty() {
        return Err(OutputsError::Nothing { directory });
    }
    write(json, &survey, out, |out| table::write(&survey, depth, out));
    Ok(match survey.state {
        OutputState::Complete => exit::DONE,
        OutputState::Unmerged | OutputState::Unfinished | OutputState::Missing => exit::DONE_WITH_FAULTS,
        OutputState::Damaged => exit::RESUME_MISMATCH,
    })
}

/// Merges shares and tells of each output that is done; returns the exit code.
pub(super) fn merge_shares(
    command: OutputCommand,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<u8, OutputsError> {
    #[derive(Serialize)]
    struct Report<'a> {
        directory: &'a Path,
        merged: &'a [Merged],
    }
    let (json, directory) = resolve(command, environment)?;
    let merged = merge(&directory)?;
    let report = Report { directory: &directory, merged: &merged };
    write(json, &report, out, |out| {
        for Merged { collection, model, shares, parts, rows } in &merged {
            writeln!(out, "{collection}, {model}: {rows} rows in {parts} parts of {shares} shares")?;
        }
        writeln!(out, "results are in {}", directory.display())
    });
    Ok(exit::DONE)
}

fn resolve(command: OutputCommand, environment: &Environment) -> Result<(bool, PathBuf), ConfigError> {
    let json = command.json;
    let resolved = config::resolve(&command.into_settings(), environment)?;
    Ok((json, resolved.settings.output_dir))
}

/// A reader that has gone away does not change the result.
fn write(
    json: bool,
    report: &impl Serialize,
    out: &mut dyn Write,
    text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) {
    drop(if json {
        serde_json::to_writer_pretty(&mut *out, report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        text(out)
    });
}
