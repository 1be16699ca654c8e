//! What a run says of itself while it works and when it ends, however it ends.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::error::{EmbedError, with_causes};
use super::{Finished, ModelError};
use crate::config::Resolved;
use crate::exit;
use crate::output::{replace_file, report_file};
use crate::pipeline::StopSwitch;
use crate::telemetry::event::{Event, Observer, StopCause};
use crate::telemetry::{Machine, Recorder, Summary, SummaryBuilder};

/// The observers of a run.
pub(super) struct Report<'a> {
    summary: SummaryBuilder,
    recorder: Recorder,
    caller: &'a dyn Observer,
    summary_path: PathBuf,
    run_id: String,
}

impl<'a> Report<'a> {
    /// Begins to report in the output directory.
    pub(super) fn begin(resolved: &Resolved, machine: Machine, caller: &'a dyn Observer) -> Result<Self, EmbedError> {
        let output_dir = &resolved.settings.output_dir;
        let share = resolved.settings.share();
        let run_id = resolved.settings.run_id.clone().unwrap_or_else(new_run_id);
        let events_path = output_dir.join(report_file("events", share, "jsonl"));
        let recorder = Recorder::append(&events_path, &run_id)
            .map_err(|source| EmbedError::Events { path: events_path, source })?;
        let argv = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let report = Self {
            summary: SummaryBuilder::new(run_id.clone(), argv, resolved, machine),
            recorder,
            caller,
            summary_path: output_dir.join(report_file("run-summary", share, "json")),
            run_id: run_id.clone(),
        };
        report.observe(&Event::RunStarted { run_id });
        Ok(report)
    }

    /// The name of the run.
    pub(super) fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Says how the run ended: the last event, the summary on disk. Models that failed while others were embedded with
    /// are no error of the run, but they are in its exit code.
    pub(super) fn end(
        self,
        stop: &StopSwitch,
        outcome: Result<Vec<ModelError>, EmbedError>,
    ) -> Result<Finished, EmbedError> {
        let complete = self.summary.complete();
        let exit_code = match (&outcome, stop.cause()) {
            (Err(error), _) => error.exit_code(),
            (Ok(failed), _) if !failed.is_empty() => failed.first().map_or(exit::MODEL, ModelError::exit_code),
            (Ok(_), Some(StopCause::Interrupt)) if !complete => exit::INTERRUPTED,
            (Ok(_), Some(StopCause::Terminate | StopCause::TimeLimit)) if !complete => exit::TERMINATED,
            (Ok(_), _) if self.summary.without_memory().is_some() => exit::MEMORY,
            (Ok(_), _) if self.summary.has_faults() => exit::DONE_WITH_FAULTS,
            (Ok(_), _) => exit::DONE,
        };
        let error = match &outcome {
            Err(error) => Some(with_causes(error)),
            Ok(failed) if failed.is_empty() => self.summary.without_memory().map(|model| {
                format!(
                    "no row could be embedded with {model}: the device was out of memory even with one text at a time; \
                     free memory on it or give a shorter --max-length, and run again with --overwrite"
                )
            }),
            Ok(failed) => Some(failed.iter().map(|error| with_causes(error)).collect::<Vec<_>>().join("; ")),
        };
        self.observe(&Event::RunFinished { exit_code, error });
        let summary = self.summary.summary();
        let written = self.write(&summary);
        let recorded = self.recorder.finish();
        // The cause comes first; a report that cannot be written is only the next thing to say.
        outcome?;
        written?;
        recorded.map_err(|(path, source)| EmbedError::Events { path, source })?;
        Ok(Finished { summary, exit_code, complete })
    }

    fn write(&self, summary: &Summary) -> Result<(), EmbedError> {
        replace_file(&self.summary_path, &summary.to_json()).map_err(EmbedError::Summary)
    }
}

impl Observer for Report<'_> {
    fn observe(&self, event: &Event) {
        self.summary.observe(event);
        self.recorder.observe(event);
        self.caller.observe(event);
        // After every turn of a model the summary on disk is up to date. If that fails, the last write will say so.
        if let Event::PassFinished { .. } | Event::Release(_) = event {
            drop(self.write(&self.summary.summary()));
        }
    }
}

/// The time in seconds and the process, so that two runs have two names.
fn new_run_id() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{}-{}", since.as_secs(), std::process::id())
}
