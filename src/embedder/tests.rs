//! The whole job on devices that are short of memory, and with code that panics: what is written, what is told, and the
//! exit code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::*;
use crate::config::Settings;
use crate::domain::{Embeddings, FailureKind, PackedBatch};
use crate::encoder::{EncodeError, Encoder};
use crate::exit;
use crate::model::Profile;
use crate::nn::NnError;
use crate::pipeline::StopSwitch;
use crate::telemetry::event::{Event, Observer, Observers};

/// What goes wrong with the encoders of a run.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// The device has room for so many tokens at once.
    Room(usize),
    /// It panics at a batch of so many tokens or more, after that many batches.
    Panic { tokens: usize, after: usize },
}

/// By the output of the run that is to have them.
static TROUBLES: Mutex<BTreeMap<PathBuf, Trouble>> = Mutex::new(BTreeMap::new());

/// An encoder with a trouble.
struct Troubled<'a> {
    encoder: Box<dyn Encoder + 'a>,
    trouble: Trouble,
    batches: usize,
}

impl Encoder for Troubled<'_> {
    fn encode(&mut self, batch: &PackedBatch, profile: &Profile) -> Result<Embeddings, EncodeError> {
        self.batches += 1;
        match self.trouble {
            Trouble::Room(room) if batch.tokens() > room => {
                let source = "CUDA_ERROR_OUT_OF_MEMORY".into();
                Err(NnError::Failed { kind: FailureKind::OutOfMemory, source }.into())
            }
            Trouble::Panic { tokens, after } if batch.tokens() >= tokens && self.batches > after => {
                panic!("an encoder panics on purpose")
            }
            _ => self.encoder.encode(batch, profile),
        }
    }

    fn use_cores(&mut self, cores: usize) {
        self.encoder.use_cores(cores);
    }
}

/// The encoders of a run, which may be one that is to have troubles.
pub(super) fn troubled<'a>(encoders: Vec<Box<dyn Encoder + 'a>>, settings: &Settings) -> Vec<Box<dyn Encoder + 'a>> {
    let Some(trouble) = TROUBLES.lock().unwrap().get(&settings.output_dir).copied() else { return encoders };
    let troubled = |encoder| -> Box<dyn Encoder + 'a> { Box::new(Troubled { encoder, trouble, batches: 0 }) };
    encoders.into_iter().map(troubled).collect()
}

/// The example collections into a directory of this one, on devices with room for so many tokens.
fn embed(root: &Path, output: &str, room: Option<usize>) -> (Finished, serde_json::Value) {
    let (finished, summary) = embed_with(root, output, room.map(Trouble::Room), &Observers::default());
    (finished.unwrap(), summary)
}

/// The same with a trouble that ends with the run, and somebody who is told of everything.
fn embed_with(
    root: &Path,
    output: &str,
    trouble: Option<Trouble>,
    observer: &dyn Observer,
) -> (Result<Finished, EmbedError>, serde_json::Value) {
    let config = EnsembleConfig {
        ensemble_models: vec!["tests/fixtures/models/bert-minilm".to_owned()],
        ..EnsembleConfig::default()
    };
    let settings = Settings {
        chunked_dir: "tests/data/Chunked".into(),
        output_dir: root.join(output),
        lease_dir: Some(root.join("leases")),
        nvml_library: Some(root.join("no-library.so")),
        threads: Some(2),
        offline: true,
        part_rows: 8,
        ..Settings::from(config)
    };
    match trouble {
        Some(trouble) => TROUBLES.lock().unwrap().insert(settings.output_dir.clone(), trouble),
        None => TROUBLES.lock().unwrap().remove(&settings.output_dir),
    };
    let finished = Embedder::of_program(settings).unwrap().run(&StopSwitch::default(), observer);
    let summary = std::fs::read(root.join(output).join("run-summary.json")).unwrap();
    (finished, serde_json::from_slice(&summary).unwrap())
}

/// Lines of all vectors, by file and place; those of other files are not compared.
fn rows(root: &Path, output: &str) -> BTreeMap<(PathBuf, usize), String> {
    let mut rows = BTreeMap::new();
    let root = root.join(output);
    for file in walkdir::WalkDir::new(&root).into_iter().map(|entry| entry.unwrap().into_path()) {
        if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-")) {
            let text = std::fs::read_to_string(&file).unwrap();
            let name = file.strip_prefix(&root).unwrap().to_owned();
            rows.extend(text.lines().enumerate().map(|(place, line)| ((name.clone(), place), line.to_owned())));
        }
    }
    rows
}

#[test]
fn batches_that_do_not_fit_are_split_and_every_byte_is_the_same() {
    let root = tempfile::tempdir().unwrap();
    let (undisturbed, _) = embed(root.path(), "undisturbed", None);
    assert_eq!(undisturbed.exit_code, exit::DONE);
    let (finished, summary) = embed(root.path(), "split", Some(200));
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

/// A run that ended by a panic says so in its summary, and the next one goes on from what is committed.
#[track_caller]
fn check_panic(name: &str, trouble: Option<Trouble>, observer: &dyn Observer, told: &str) {
    let root = tempfile::tempdir().unwrap();
    embed(root.path(), "undisturbed", None);
    let (ended, summary) = embed_with(root.path(), name, trouble, observer);
    let error = ended.unwrap_err();
    assert_eq!(error.exit_code(), exit::INTERNAL, "{error}");
    assert_eq!((&summary["status"], &summary["exit_code"]), (&"failed".into(), &exit::INTERNAL.into()), "{summary}");
    assert!(summary["error"].as_str().unwrap().contains(told), "{summary}");
    let committed = rows(root.path(), name);
    let (again, _) = embed(root.path(), name, None);
    assert_eq!(again.exit_code, exit::DONE);
    let all = rows(root.path(), "undisturbed");
    assert_eq!(rows(root.path(), name), all);
    assert!(!committed.is_empty() && committed.len() < all.len(), "{} of {} rows", committed.len(), all.len());
    assert!(committed.iter().all(|(place, row)| all[place] == *row));
}

/// Panics where the run tells of something for the so manieth time.
struct Panicking {
    event: fn(&Event) -> bool,
    left: Mutex<usize>,
}

impl Observer for Panicking {
    fn observe(&self, event: &Event) {
        if (self.event)(event) {
            let left = {
                let mut left = self.left.lock().unwrap();
                *left = left.wrapping_sub(1);
                *left
            };
            assert!(left != 0, "an observer panics on purpose");
        }
    }
}

#[test]
fn a_panic_in_the_model_is_told_and_nothing_committed_is_lost() {
    let trouble = Trouble::Panic { tokens: 1, after: 4 };
    check_panic("model", Some(trouble), &Observers::default(), "the encoder panicked");
}

#[test]
fn a_panic_in_any_thread_is_told_and_nothing_committed_is_lost() {
    let panicking = |event, left| Panicking { event, left: Mutex::new(left) };
    // Told by a worker, by the thread that assembles, by that of the run while it commits, and between collections.
    let worker = panicking(|event| matches!(event, Event::BatchEncoded { .. }), 5);
    check_panic("worker", None, &worker, "a thread of the encoding stage panicked");
    let assembler = panicking(|event| matches!(event, Event::Tokenized { .. }), 2);
    check_panic("assembler", None, &assembler, "panicked");
    let commit = panicking(|event| matches!(event, Event::ShardCommitted { .. }), 3);
    check_panic("commit", None, &commit, "the run panicked");
    let between = panicking(|event| matches!(event, Event::CollectionFinished { .. }), 2);
    check_panic("between", None, &between, "the run panicked");
}
