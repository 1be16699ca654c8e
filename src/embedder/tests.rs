//! The whole job on devices that are short of memory: what is written, what is told, and the exit code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::*;
use crate::config::Settings;
use crate::domain::{Embeddings, PackedBatch};
use crate::encoder::{EncodeError, Encoder};
use crate::exit;
use crate::nn::NnError;
use crate::pipeline::StopSwitch;
use crate::telemetry::event::Observers;

/// Tokens for which there is room at once, by the output of the run that is to be short of it.
static ROOMS: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

/// An encoder on a device with room for so many tokens at once.
struct Short<'a> {
    encoder: Box<dyn Encoder + 'a>,
    room: usize,
}

impl Encoder for Short<'_> {
    fn encode(&mut self, batch: &PackedBatch) -> Result<Embeddings, EncodeError> {
        if batch.tokens() > self.room {
            let code = candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".into());
            return Err(NnError::OutOfMemory(code).into());
        }
        self.encoder.encode(batch)
    }

    fn use_cores(&mut self, cores: usize) {
        self.encoder.use_cores(cores);
    }
}

/// The encoders of a run, which may be one that is to be short of memory.
pub(super) fn short_of_memory<'a>(
    encoders: Vec<Box<dyn Encoder + 'a>>,
    settings: &Settings,
) -> Vec<Box<dyn Encoder + 'a>> {
    let Some(room) = ROOMS.lock().unwrap().get(&settings.output_dir).copied() else { return encoders };
    let short = |encoder| -> Box<dyn Encoder + 'a> { Box::new(Short { encoder, room }) };
    encoders.into_iter().map(short).collect()
}

/// The example collections into a directory of this one.
fn embed(root: &Path, output: &str, room: Option<usize>) -> (Finished, serde_json::Value) {
    let settings = Settings {
        chunked_dir: "tests/data/Chunked".into(),
        output_dir: root.join(output),
        lease_dir: Some(root.join("leases")),
        nvml_library: Some(root.join("no-library.so")),
        threads: Some(2),
        offline: true,
        ..Settings::default()
    };
    room.into_iter().for_each(|room| {
        ROOMS.lock().unwrap().insert(settings.output_dir.clone(), room);
    });
    let config = EnsembleConfig {
        ensemble_models: vec!["tests/fixtures/models/bert-minilm".to_owned()],
        ..EnsembleConfig::default()
    };
    let finished = config.embedder(settings).unwrap().run(&StopSwitch::default(), &Observers::default()).unwrap();
    let summary = std::fs::read(root.join(output).join("run-summary.json")).unwrap();
    (finished, serde_json::from_slice(&summary).unwrap())
}

/// Lines of all vectors, by file and place; those of other files are not compared.
fn rows(root: &Path, output: &str) -> BTreeMap<(PathBuf, usize), String> {
    let mut rows = BTreeMap::new();
    for collection in std::fs::read_dir(root.join(output)).unwrap().map(|entry| entry.unwrap()) {
        let part = collection.path().join("bert-minilm/part-00000.jsonl");
        let Ok(text) = std::fs::read_to_string(part) else { continue };
        let name = PathBuf::from(collection.file_name());
        rows.extend(text.lines().enumerate().map(|(place, line)| ((name.clone(), place), line.to_owned())));
    }
    rows
}

#[test]
fn batches_that_do_not_fit_are_split_and_every_byte_is_the_same() {
    let root = tempfile::tempdir().unwrap();
    let (undisturbed, _) = embed(root.path(), "undisturbed", None);
    assert_eq!(undisturbed.exit_code, exit::DONE);
    let (finished, summary) = embed(root.path(), "split", Some(600));
    assert_eq!(finished.exit_code, undisturbed.exit_code);
    let counts = &summary["passes"][0]["mitigation_counts"];
    assert!(counts["free_caches"].as_u64() > Some(0) && counts["split_batch"].as_u64() > Some(0), "{counts}");
    assert!(counts["fail_row"].is_null(), "{counts}");
    assert_eq!(rows(root.path(), "split"), rows(root.path(), "undisturbed"));
}

#[test]
fn texts_that_fit_on_no_device_fail_alone_and_the_run_goes_on() {
    let root = tempfile::tempdir().unwrap();
    embed(root.path(), "undisturbed", None);
    let (finished, summary) = embed(root.path(), "short", Some(40));
    assert_eq!(finished.exit_code, exit::DONE_WITH_FAULTS);
    let (expected, found) = (rows(root.path(), "undisturbed"), rows(root.path(), "short"));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    let differ: Vec<_> = found.iter().filter(|(place, row)| expected[*place] != **row).map(|(_, row)| row).collect();
    assert!(!differ.is_empty() && differ.len() < found.len(), "{} of {}", differ.len(), found.len());
    for row in &differ {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        assert_eq!((row["status"].as_str(), row["vector"].is_null()), (Some("failed"), true), "{row}");
    }
    assert_eq!(summary["passes"][0]["mitigation_counts"]["fail_row"], differ.len());
    assert!(summary["status"] == "done" && summary["error"].is_null(), "{summary}");
}

#[test]
fn a_model_without_a_single_vector_for_want_of_memory_is_exit_code_7() {
    let root = tempfile::tempdir().unwrap();
    let (finished, summary) = embed(root.path(), "full", Some(0));
    assert_eq!((finished.exit_code, exit::MEMORY), (exit::MEMORY, 7));
    let error = summary["error"].as_str().unwrap();
    assert!(error.contains("no row could be embedded with bert-minilm") && error.contains("text at a time; free"));
    let of = |row: &String| serde_json::from_str::<serde_json::Value>(row).unwrap()["status"].clone();
    let rows = rows(root.path(), "full");
    assert!(rows.len() > 20 && rows.values().all(|row| of(row) == "failed" || of(row) == "empty"));
}
