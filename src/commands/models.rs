//! `embed-collections models`: which models are known, what one is, and whether its files are here and whole.

mod export;
mod list;
mod pull;
mod reference;
mod show;
pub(super) mod table;
mod verify;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{log_to, shown};
use crate::cli::{ModelExport, ModelName, ModelsCommand};
use crate::config::{self, ConfigError, Environment, Resolved};
use crate::embedder::{ModelError, ModelFault, find_files};
use crate::exit;
use crate::model::registry::{Registry, RegistryError};
use crate::model::source::{Attempt, AttemptError, CacheMiss, ExportError, ModelFiles, SourceError};
use crate::model::spec::ModelSpec;
use crate::telemetry::event::Observers;
use crate::telemetry::{Log, Plain, Progress};

/// Why nothing can be said of models, or one is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum ModelsError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The user's file of models cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A model cannot be found or read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A model is not on this machine, and nobody else was asked.
    #[error(
        "the model {name} is not on this machine{}; `embed-collections models pull {name}` fetches it",
        partial(tried)
    )]
    NotHere {
        /// The name.
        name: String,
        /// Where it was looked for.
        tried: Vec<Attempt>,
    },
    /// A model cannot be written.
    #[error("cannot export {name}")]
    Export {
        /// The name.
        name: String,
        /// Why.
        source: ExportError,
    },
    /// A model's files were looked at, and are not as they should be.
    #[error("the model {name} is not as it should be: {}", faults.join("; "))]
    Faulty {
        /// The name.
        name: String,
        /// What is wrong.
        faults: Vec<String>,
    },
}

impl ModelsError {
    /// The exit code that tells other programs what kind of error it is.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Registry(_) => exit::USAGE,
            Self::Model(error) => error.exit_code(),
            Self::Export { source, .. } => match source {
                ExportError::Exists { .. } | ExportError::NoModel { .. } | ExportError::Within { .. } => exit::USAGE,
                ExportError::NoWeights { .. } | ExportError::Corrupt { .. } => exit::MODEL,
                ExportError::Busy { .. } | ExportError::File { .. } => exit::OUTPUT,
            },
            Self::NotHere { .. } | Self::Faulty { .. } => exit::MODEL,
        }
    }

    fn of_model(name: &str, fault: impl Into<ModelFault>) -> Self {
        ModelError { model: name.to_owned(), fault: Box::new(fault.into()) }.into()
    }
}

/// Writes to `out` what is asked for; returns the exit code.
pub(super) fn run(command: ModelsCommand, environment: &Environment, out: &mut dyn Write) -> Result<u8, ModelsError> {
    let (settings, verb) = match command {
        ModelsCommand::List { settings } => (settings, None),
        ModelsCommand::Show(ModelName { name, settings }) => (settings, Some((name, Verb::Show))),
        ModelsCommand::Pull(ModelName { name, settings }) => (settings, Some((name, Verb::Pull))),
        ModelsCommand::Export(ModelExport { model: ModelName { name, settings }, to, overwrite }) => {
            (settings, Some((name, Verb::Export { to, overwrite })))
        }
        ModelsCommand::Verify(ModelName { name, settings }) => (settings, Some((name, Verb::Verify))),
    };
    let json = settings.json;
    let resolved = config::resolve(&settings.into_settings(), environment)?;
    let registry = Registry::with_file(resolved.settings.models_file.as_deref())?;
    let Some((name, verb)) = verb else {
        write(&list::List::new(&registry), json, out);
        return Ok(exit::DONE);
    };
    match verb {
        Verb::Show => write(&show::Shown::new(&name, &resolved, &registry)?, json, out),
        Verb::Pull => {
            let files = fetched(&name, &resolved, &registry)?;
            // What was here already may be of a kind that embedding refuses.
            ModelSpec::read(&files.directory).map_err(|error| ModelsError::of_model(&name, error))?;
            write(&pull::Pulled::new(files, &registry), json, out);
        }
        Verb::Export { to, overwrite } => {
            let files = fetched(&name, &resolved, &registry)?;
            write(&export::Exported::new(files, &to, overwrite)?, json, out);
        }
        Verb::Verify => {
            let verified = verify::Verified::new(&name, &resolved, &registry)?;
            write(&verified, json, out);
            verified.outcome()?;
        }
    }
    Ok(exit::DONE)
}

#[derive(Debug, Clone)]
enum Verb {
    Show,
    Pull,
    Export { to: PathBuf, overwrite: bool },
    Verify,
}

/// Something to say, for people and for programs.
trait Report: Serialize {
    /// Writes it for people.
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// A reader that has gone away does not change the result.
fn write(report: &impl Report, json: bool, out: &mut dyn Write) {
    drop(if json { write_json(report, out) } else { write_plain(report, out) });
}

/// What a model says of itself may come from anybody, so only text and line breaks reach the terminal.
fn write_plain(report: &impl Report, out: &mut dyn Write) -> io::Result<()> {
    let mut text = Vec::new();
    report.write_text(&mut text)?;
    String::from_utf8_lossy(&text).lines().try_for_each(|line| writeln!(out, "{}", Plain(line)))
}

fn write_json(report: &impl Report, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

/// The model's files, fetched if need be as embedding would, with the progress that embedding shows.
fn fetched(name: &str, resolved: &Resolved, registry: &Registry) -> Result<ModelFiles, ModelsError> {
    let progress = Progress::new(shown(resolved.settings.progress));
    log_to(&resolved.settings, &progress);
    let log = Log::default();
    let files = find_files(name, resolved, registry, &Observers(vec![&progress, &log]));
    files.map_err(|error| ModelsError::of_model(name, error))
}

/// The model's files if they are on this machine; nobody else is asked.
fn at_hand(name: &str, resolved: &Resolved, registry: &Registry) -> Result<ModelFiles, ModelsError> {
    let mut resolved = resolved.clone();
    resolved.settings.offline = true;
    find_files(name, &resolved, registry, &Observers::default()).map_err(|error| match error {
        SourceError::Unavailable { name, tried, .. } => ModelsError::NotHere { name, tried },
        error => ModelsError::of_model(name, error),
    })
}

/// What there is of a model that is not whole.
fn partial(tried: &[Attempt]) -> String {
    let incomplete =
        tried.iter().filter(|attempt| matches!(attempt.error, AttemptError::Cache(CacheMiss::Incomplete { .. })));
    incomplete.fold(String::new(), |list, attempt| list + " (" + &attempt.error.to_string() + ")")
}

/// A path inside a directory as it is seen from there, else whole.
fn inside(path: &Path, directory: &Path) -> String {
    path.strip_prefix(directory).unwrap_or(path).display().to_string()
}
