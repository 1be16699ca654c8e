//! `events.jsonl`: every event that someone may want to read afterwards, one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::epoch_seconds;
use super::event::{Event, Observer};
use crate::domain::Fetching;

/// Appends events to a file. A line is written whole and at once, so that runs one after the other never mix.
pub struct Recorder {
    run_id: String,
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    file: File,
    /// The first failure; nothing is written after it.
    failure: Option<io::Error>,
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: f64,
    run_id: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

impl Recorder {
    /// Opens the file for appending.
    ///
    /// # Errors
    /// Whatever the operating system reports.
    pub fn append(path: &Path, run_id: &str) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { run_id: run_id.to_owned(), path: path.into(), state: Mutex::new(State { file, failure: None }) })
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The first error of any write, with the path.
    pub fn finish(self) -> Result<(), (PathBuf, io::Error)> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failure.map_or_else(|| state.file.sync_all(), Err).map_err(|error| (self.path, error))
    }
}

/// Events that come by the thousand; their sums are in the summary.
fn is_too_frequent(event: &Event) -> bool {
    matches!(
        event,
        Event::BatchBegun { .. }
            | Event::BatchEncoded { .. }
            | Event::Tokenized { .. }
            | Event::ModelFetching { what: Fetching::File { bytes: 1.., .. }, .. }
    )
}

impl Observer for Recorder {
    fn observe(&self, event: &Event) {
        if is_too_frequent(event) {
            return;
        }
        let line = Line { timestamp: epoch_seconds(), run_id: &self.run_id, event };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failure.is_none() {
            let written = serde_json::to_vec(&line).map_err(io::Error::from).and_then(|mut bytes| {
                bytes.push(b'\n');
                state.file.write_all(&bytes)
            });
            state.failure = written.err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::event::LeaseSample;

    #[test]
    fn events_are_appended_with_time_and_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        for run in ["one", "two"] {
            let recorder = Recorder::append(&path, run).unwrap();
            recorder.observe(&Event::Acquire(LeaseSample {
                model: "m".into(),
                device_ids: vec![],
                vram: std::collections::BTreeMap::new(),
            }));
            recorder.observe(&Event::Tokenized { rows: 1, tokens: 2, bytes_read: 3 });
            recorder.finish().unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[1]["run_id"], "two");
        assert_eq!(lines[0]["event_type"], "acquire");
        assert_eq!(lines[0]["device_ids"], serde_json::json!([]));
        assert!(lines[0]["timestamp"].as_f64().unwrap() > 1.6e9);
    }
}
