//! `embed-collections devices`: what this machine has to encode with, how full it is, and what will be used.

mod report;
mod watch;

use std::io::Write;
use std::sync::Arc;

use crate::cli::DevicesCommand;
use crate::config::{self, ConfigError, Environment};
use crate::device::{ChoiceError, Detection, EndReason, Probe};
use crate::embedder::{choice, look, thresholds};
use crate::exit;

use report::Report;
pub(super) use report::describe as describe_process;

/// Why devices cannot be listed or used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevicesError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The devices asked for are not to be had.
    #[error("--devices: {0}")]
    Choice(#[from] ChoiceError),
    /// There is no thread to look at devices.
    #[error("cannot start a thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(#[source] std::io::Error),
}

/// Writes to `out` what there is; returns the exit code.
pub(super) fn run(command: DevicesCommand, environment: &Environment, out: &mut dyn Write) -> Result<u8, DevicesError> {
    let resolved = config::resolve(&command.settings.into_settings(), environment)?;
    let detection = look(&resolved);
    let choice = choice(&resolved.settings, &detection);
    if let Some(interval) = command.watch {
        choice?;
        let detection: Arc<dyn Probe> = Arc::new(detection);
        let thresholds = thresholds(&resolved.settings);
        let (samples, json) = (command.samples, command.json);
        watch::watch(detection, interval.0, thresholds, samples, json, out).map_err(DevicesError::Thread)?;
        return Ok(exit::DONE);
    }
    let report = Report::new(&detection, choice.as_ref().ok(), thresholds(&resolved.settings));
    // A reader that has gone away does not change the result.
    drop(if command.json { report.write_json(out) } else { report.write_table(out) });
    choice?;
    Ok(exit::DONE)
}

/// What is odd about `CUDA_VISIBLE_DEVICES`.
pub(super) fn visibility_notes(detection: &Detection) -> Vec<String> {
    let visible = detection.visible();
    let ended = visible.end.as_ref().filter(|end| end.reason != EndReason::None && detection.driver().is_ok());
    let ended = ended.map(|end| {
        format!("CUDA_VISIBLE_DEVICES: {:?} {}; CUDA ignores the rest of the list", end.entry, end.reason.as_str())
    });
    let order = visible.order_uncertain.then(|| {
        "the GPUs differ, and CUDA may number them otherwise; set CUDA_DEVICE_ORDER=PCI_BUS_ID or use UUIDs".to_owned()
    });
    ended.into_iter().chain(order).collect()
}
