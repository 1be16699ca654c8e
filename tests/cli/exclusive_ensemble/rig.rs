//! A machine of a test's own: input, output, locks, GPUs, and somebody who watches.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use embed_collections::config::{Mode, Settings};
use embed_collections::embedder::{EmbedError, Embedder, EnsembleConfig, Finished};
use embed_collections::lease::{Candidates, DeviceState, LeaseDirectory, State, survey};
use embed_collections::pipeline::StopSwitch;
use embed_collections::telemetry::event::{Event, Observer};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{check_schema, read_json, read_jsonl};
use crate::stand_in::StandIn;

/// Three models of one dimension, as they are named in outputs.
pub(crate) const MODELS: [&str; 3] = ["bert-minilm", "bert-bge", "bert-short"];

pub(crate) fn model(name: &str) -> String {
    format!("tests/fixtures/models/{name}")
}

pub(crate) const GIB: f64 = (1_u64 << 30) as f64;

/// Two GPUs of 15 GiB that nobody uses.
pub(crate) fn two_gpus(used_mib: [u64; 2], more: &str) -> String {
    let [first, second] = used_mib;
    format!(
        "driver 580.65.06\ncuda 13000\n\
         gpu GPU-aaaa1111-0000 7.5 15360 {first} 0 -1 0 Tesla T4\n\
         gpu GPU-bbbb2222-0000 7.5 15360 {second} 0 -1 0 Tesla T4\n{more}"
    )
}

pub(crate) const IDLE: [u64; 2] = [300, 300];

pub(crate) struct Rig {
    root: TempDir,
    /// The GPUs, if there are any.
    pub(crate) gpus: Option<StandIn>,
}

impl Rig {
    /// A machine without GPUs.
    pub(crate) fn cpu() -> Self {
        Self { root: tempfile::tempdir().unwrap(), gpus: None }
    }

    /// A machine with two.
    pub(crate) fn with_gpus() -> Self {
        Self { gpus: Some(StandIn::new(&two_gpus(IDLE, ""))), ..Self::cpu() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.path("leases")
    }

    /// The example collections with this ensemble into `output`.
    pub(crate) fn settings(&self, config: EnsembleConfig, output: &str) -> Settings {
        Settings {
            chunked_dir: "tests/data/Chunked".into(),
            output_dir: self.path(output),
            lease_dir: Some(self.leases()),
            nvml_library: Some(match &self.gpus {
                Some(gpus) => gpus.library(),
                None => self.path("no-library.so"),
            }),
            rehearse: self.gpus.is_some(),
            threads: Some(2),
            offline: true,
            ..Settings::from(config)
        }
    }

    pub(crate) fn run(&self, mode: Mode, output: &str, observer: &dyn Observer) -> Result<Finished, EmbedError> {
        Embedder::of_program(self.settings(ensemble(mode), output)).unwrap().run(&StopSwitch::default(), observer)
    }

    /// Who holds what at this moment.
    pub(crate) fn locks(&self) -> Vec<DeviceState> {
        let directory = LeaseDirectory::find(&Candidates::new(Some(self.leases()), None)).unwrap();
        directory.map_or_else(Vec::new, |directory| survey(&directory).unwrap())
    }

    /// Whether every one of so many devices is held for this model.
    #[track_caller]
    pub(crate) fn check_held(&self, devices: usize, model: &str) {
        let locks = self.locks();
        let held = |lock: &&DeviceState| {
            lock.state == State::Held
                && lock.holder.as_ref().is_some_and(|holder| holder.model.as_deref() == Some(model))
        };
        assert_eq!(locks.iter().filter(held).count(), devices, "{model}: {locks:?}");
    }

    #[track_caller]
    pub(crate) fn check_free(&self) {
        let locks = self.locks();
        assert!(locks.iter().all(|lock| lock.state == State::Free), "{locks:?}");
    }

    /// The summary of a run, which its schema allows.
    pub(crate) fn summary(&self, output: &str) -> Value {
        let summary = read_json(&self.path(output).join("run-summary.json"));
        check_schema("run-summary.schema.json", &summary);
        summary
    }

    pub(crate) fn events(&self, output: &str) -> Vec<Value> {
        read_jsonl(&self.path(output).join("events.jsonl"))
    }
}

/// The three models in these turns.
pub(crate) fn ensemble(mode: Mode) -> EnsembleConfig {
    EnsembleConfig {
        ensemble_models: MODELS.map(model).to_vec(),
        exclusive_mode: mode == Mode::Exclusive,
        sequential_passes: mode != Mode::Rotate,
        ..EnsembleConfig::default()
    }
}

/// Embeds with a change of the settings; the run must come to its end.
pub(crate) fn embedder(
    rig: &Rig,
    config: EnsembleConfig,
    output: &str,
    change: impl FnOnce(&mut Settings),
) -> Embedder {
    let mut settings = rig.settings(config, output);
    change(&mut settings);
    Embedder::of_program(settings).unwrap()
}

/// Does something at every event.
pub(crate) struct At<F: Fn(&Event) + Send + Sync>(pub(crate) F);

impl<F: Fn(&Event) + Send + Sync> Observer for At<F> {
    fn observe(&self, event: &Event) {
        (self.0)(event);
    }
}

/// Waits until something is so, a minute at most.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_mins(1), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Remembers what kinds of events there were, with their models.
#[derive(Default)]
pub(crate) struct Notes(Mutex<Vec<(String, String)>>);

impl Notes {
    pub(crate) fn take(&self, event: &Event) {
        let value = serde_json::to_value(event).unwrap();
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        self.0.lock().unwrap().push((text("event_type"), text("model")));
    }

    /// Those of some kinds, in order.
    pub(crate) fn of(&self, kinds: &[&str]) -> Vec<(String, String)> {
        self.0.lock().unwrap().iter().filter(|(kind, _)| kinds.contains(&kind.as_str())).cloned().collect()
    }
}

/// Every event of a kind.
pub(crate) fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event_type"] == kind).collect()
}

/// The kinds of some events and their models, in order.
pub(crate) fn sequence(events: &[Value], kinds: &[&str]) -> Vec<(String, String)> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .map(|event| (text(event, "event_type"), text(event, "model")))
        .filter(|(kind, _)| kinds.contains(&kind.as_str()))
        .collect()
}

/// `[(kind, model), …]` for each model in turn.
pub(crate) fn for_each_model(kinds: &[&str], models: &[&str]) -> Vec<(String, String)> {
    models.iter().flat_map(|model| kinds.iter().map(|kind| ((*kind).to_owned(), (*model).to_owned()))).collect()
}

/// A root with one collection of so many short chunks.
pub(crate) fn many_chunks(directory: &Path, chunks: usize) {
    let texts: Vec<String> = (0..chunks)
        .map(|number| format!("The chunk of number {number} speaks of {}.", "words ".repeat(number % 23)))
        .collect();
    std::fs::create_dir_all(directory.join("many")).unwrap();
    std::fs::write(directory.join("many/all_chunks.json"), serde_json::to_vec(&texts).unwrap()).unwrap();
}
