//! What a run says of itself while it works and when it ends, however it ends.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::arch::LoadError;
use crate::collection::DiscoverError;
use crate::config::Resolved;
use crate::device::ChoiceError;
use crate::exit;
use crate::model::source::SourceError;
use crate::model::spec::SpecError;
use crate::model::weights::WeightError;
use crate::output::{CommitError, LockError, OpenError, OutputLock, StorageError, replace_file};
use crate::pipeline::{PassError, StopSwitch};
use crate::telemetry::event::{Event, Observer, Observers, StopCause};
use crate::telemetry::{Log, Machine, Progress, Recorder, Summary, SummaryBuilder};
use crate::tokenize::TokenizerError;

use super::embed::Done;

/// Why collections could not be embedded. What was committed before stays.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// There is nothing to read.
    #[error(transparent)]
    Input(#[from] DiscoverError),
    /// The model's files cannot be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The model's directory asks for something that cannot be done.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A weight file cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The weights do not make a model.
    #[error("model {model}: {source}")]
    Load {
        /// The model.
        model: String,
        /// Why.
        source: LoadError,
    },
    /// More tokens are asked for than the model takes.
    #[error("--max-length {wanted} is more than the {limit} tokens that {model} takes; ask for at most {limit}")]
    TooLong {
        /// The model.
        model: String,
        /// What was asked for.
        wanted: usize,
        /// What there is.
        limit: usize,
    },
    /// More components are asked for than a vector has.
    #[error("--truncate-dim {wanted} is more than the {dimension} components of {model}; ask for at most {dimension}")]
    TooWide {
        /// The model.
        model: String,
        /// What was asked for.
        wanted: usize,
        /// What there is.
        dimension: usize,
    },
    /// The output directory is not to be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The output of an earlier run cannot be continued.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// The devices asked for are not to be had.
    #[error("--devices: {0}")]
    Devices(#[from] ChoiceError),
    /// The stream of events cannot be written.
    #[error("cannot write {}: {source}; make the directory writable, or choose another --output-dir", path.display())]
    Events {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The summary cannot be written.
    #[error(transparent)]
    Summary(StorageError),
}

impl EmbedError {
    /// The exit code that tells other programs what kind of error it is.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) => exit::INPUT,
            Self::TooLong { .. } | Self::TooWide { .. } | Self::Devices(_) => exit::USAGE,
            Self::Source(_) | Self::Spec(_) | Self::Weights(_) | Self::Tokenizer(_) | Self::Load { .. } => exit::MODEL,
            Self::Lock(_) | Self::Open(OpenError::Storage(_)) | Self::Events { .. } | Self::Summary(_) => exit::OUTPUT,
            Self::Open(_) => exit::RESUME_MISMATCH,
            Self::Pass(error) => pass_exit_code(error),
        }
    }
}

fn pass_exit_code(error: &PassError) -> u8 {
    match error {
        PassError::Encode(_) => exit::MODEL,
        PassError::InputChanged(_)
        | PassError::Commit(CommitError::InputDiffers { .. } | CommitError::LedgerLost { .. }) => exit::RESUME_MISMATCH,
        PassError::Commit(CommitError::Invalid { .. } | CommitError::RowsLost { .. }) | PassError::Panicked { .. } => {
            exit::INTERNAL
        }
        PassError::Commit(_) => exit::OUTPUT,
    }
}

/// The observers of a run and the lock on its output directory.
pub(super) struct Report<'a> {
    summary: SummaryBuilder,
    recorder: Recorder,
    log: Log,
    progress: &'a Progress,
    summary_path: PathBuf,
    /// Held until the summary is written.
    _lock: OutputLock,
}

impl<'a> Report<'a> {
    /// Locks the output directory and begins to report in it.
    pub(super) fn begin(resolved: &Resolved, machine: Machine, progress: &'a Progress) -> Result<Self, EmbedError> {
        let output_dir = &resolved.settings.output_dir;
        let lock = OutputLock::acquire(output_dir)?;
        let run_id = resolved.settings.run_id.clone().unwrap_or_else(new_run_id);
        let events_path = output_dir.join("events.jsonl");
        let recorder = Recorder::append(&events_path, &run_id)
            .map_err(|source| EmbedError::Events { path: events_path, source })?;
        let argv = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let report = Self {
            summary: SummaryBuilder::new(run_id.clone(), argv, resolved, machine),
            recorder,
            log: Log::default(),
            progress,
            summary_path: output_dir.join("run-summary.json"),
            _lock: lock,
        };
        report.observe(&Event::RunStarted { run_id });
        Ok(report)
    }

    /// Says how the run ended: the last event, the summary on disk, the lines for people.
    pub(super) fn end(
        self,
        output_dir: &Path,
        stop: &StopSwitch,
        outcome: Result<(), EmbedError>,
    ) -> Result<Done, EmbedError> {
        let exit_code = match (&outcome, stop.cause()) {
            (Err(error), _) => error.exit_code(),
            (Ok(()), Some(StopCause::Interrupt)) if !self.summary.complete() => exit::INTERRUPTED,
            (Ok(()), Some(StopCause::Terminate | StopCause::TimeLimit)) if !self.summary.complete() => exit::TERMINATED,
            (Ok(()), _) if self.summary.has_faults() => exit::DONE_WITH_FAULTS,
            (Ok(()), _) => exit::DONE,
        };
        let error = outcome.as_ref().err().map(ToString::to_string);
        self.observe(&Event::RunFinished { exit_code, error });
        let summary = self.summary.summary();
        let written = self.write(&summary);
        let recorded = self.recorder.finish();
        // The cause comes first; a report that cannot be written is only the next thing to say.
        outcome?;
        written?;
        recorded.map_err(|(path, source)| EmbedError::Events { path, source })?;
        Ok(Done { closing_lines: summary.closing_lines(output_dir), exit_code })
    }

    fn write(&self, summary: &Summary) -> Result<(), EmbedError> {
        replace_file(&self.summary_path, &summary.to_json()).map_err(EmbedError::Summary)
    }
}

impl Observer for Report<'_> {
    fn observe(&self, event: &Event) {
        Observers(vec![&self.summary, &self.recorder, self.progress as &dyn Observer, &self.log]).observe(event);
        // After every turn of a model the summary on disk is up to date. If that fails, the last write will say so.
        if let Event::PassFinished { .. } = event {
            drop(self.write(&self.summary.summary()));
        }
    }
}

/// The time in seconds and the process, so that two runs have two names.
fn new_run_id() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{}-{}", since.as_secs(), std::process::id())
}
