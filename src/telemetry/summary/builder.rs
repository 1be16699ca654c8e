//! Makes a summary of the events of a run.

mod passes;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::passes::{see, with_vector};
use super::{
    BatchStep, Bottleneck, CollectionSummary, Failure, FusedCollection, FusionSummary, Intrusion, Leak, LeaseSpan,
    Machine, MemberWeight, ModelRows, PassSummary, RawLeaseEvent, RowCounts, RunStatus, SCHEMA_VERSION, Summary, Tool,
    VramSpan,
};
use crate::config::{Mode, Resolved};
use crate::domain::{CollectionName, LoadingError, RowStatus};
use crate::exit;
use crate::telemetry::epoch_seconds;
use crate::telemetry::event::{Event, LeaseSample, Observer, Prediction};

/// Faults listed one by one for each collection; all of them are in `events.jsonl`.
const MOST_LOADING_ERRORS: usize = 1000;

/// Steps against shortage of memory listed one by one for each pass.
const MOST_MITIGATIONS: usize = 1000;

/// Batches of one length whose rates are kept.
const MOST_RATES: usize = 4096;

/// What everybody should know who uses fused vectors.
const ADVICE: &str = "models that were trained apart share no space: measure whether fused vectors serve you better \
                      than the best member alone";

/// Collects a summary from events.
pub struct SummaryBuilder {
    started: Instant,
    state: Mutex<State>,
}

struct State {
    summary: Summary,
    /// Tokens per second of single batches, by model and length.
    rates: BTreeMap<String, BTreeMap<u64, Vec<f64>>>,
    /// Of models that have not begun.
    predictions: Vec<Prediction>,
    /// Memory at the last acquire.
    acquired: Option<LeaseSample>,
    /// Passes of the turn under way.
    open: Vec<usize>,
}

impl SummaryBuilder {
    /// Begins a summary at the start of a run.
    pub fn new(run_id: String, argv: Vec<String>, resolved: &Resolved, environment: Machine) -> Self {
        let summary = Summary {
            ensemble_mode: resolved.ensemble.mode.summary_name(),
            models_executed: Vec::new(),
            total_embeddings_generated: 0,
            processing_time_seconds: 0.0,
            chunks_per_second: 0.0,
            lease_events: Vec::new(),
            gpu_lease_events: Vec::new(),
            schema_version: SCHEMA_VERSION,
            run_id,
            status: RunStatus::Running,
            exit_code: 0,
            error: None,
            started_at: epoch_seconds(),
            tool: Tool::this(),
            argv,
            config: resolved.settings.clone(),
            config_provenance: resolved.provenance.clone(),
            environment,
            collections: Vec::new(),
            empty_directories: Vec::new(),
            loading_errors: Vec::new(),
            passes: Vec::new(),
            failures: Vec::new(),
            fusion: None,
            outputs: Vec::new(),
        };
        let (rates, predictions) = (BTreeMap::new(), Vec::new());
        let state = State { summary, rates, predictions, acquired: None, open: Vec::new() };
        Self { started: Instant::now(), state: Mutex::new(state) }
    }

    /// The summary of everything up to now.
    pub fn summary(&self) -> Summary {
        let mut summary = self.lock().summary.clone();
        summary.processing_time_seconds = self.started.elapsed().as_secs_f64();
        summary.chunks_per_second =
            summary.total_embeddings_generated as f64 / summary.processing_time_seconds.max(f64::MIN_POSITIVE);
        summary
    }

    /// Whether every collection is complete, fused vectors included.
    pub fn complete(&self) -> bool {
        let state = self.lock();
        let Summary { collections, fusion, .. } = &state.summary;
        let is_fused = |fusion: &FusionSummary| {
            let complete = fusion.collections.iter().filter(|collection| collection.complete);
            complete.count() == collections.len()
        };
        collections.iter().all(|collection| collection.complete) && fusion.as_ref().is_none_or(is_fused)
    }

    /// Whether any file, entry or row failed up to now.
    pub fn has_faults(&self) -> bool {
        let state = self.lock();
        let failed = |rows: &RowCounts| rows.failed > 0;
        let mut collections = state.summary.collections.iter();
        collections.any(|collection| {
            collection.loading_errors_total > 0 || collection.models.iter().any(|model| failed(&model.rows))
        }) || !state.summary.loading_errors.is_empty()
    }

    /// A model for which memory did not suffice for a single text, if there is one.
    pub fn without_memory(&self) -> Option<String> {
        let state = self.lock();
        let failed = state.summary.passes.iter().filter(|pass| pass.mitigation_counts.contains_key("fail_row"));
        let rows = || state.summary.collections.iter().flat_map(|collection| &collection.models);
        let has_vectors = |model: &str| rows().any(|of| of.model == model && of.rows.ok + of.rows.truncated > 0);
        failed.map(|pass| pass.info.model.clone()).find(|model| !has_vectors(model))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for SummaryBuilder {
    fn observe(&self, event: &Event) {
        self.lock().observe(event);
    }
}

impl CollectionSummary {
    fn new(name: &CollectionName, files: u64) -> Self {
        Self {
            name: name.clone(),
            files,
            rows: RowCounts::default(),
            warnings: 0,
            complete: false,
            models: Vec::new(),
            changes: None,
            loading_errors_total: 0,
            loading_errors: Vec::new(),
        }
    }

    fn list(&mut self, error: LoadingError) {
        if self.loading_errors.len() < MOST_LOADING_ERRORS {
            self.loading_errors.push(error);
        }
    }

    /// Counts rows of a model, whose place among the models is that of its first event.
    fn update(&mut self, model: &str, change: impl FnOnce(&mut ModelRows)) {
        let known = self.models.iter().position(|rows| rows.model == model);
        let place = known.unwrap_or_else(|| {
            self.models.push(ModelRows { model: model.to_owned(), rows: RowCounts::default(), complete: false });
            self.models.len() - 1
        });
        change(&mut self.models[place]);
        self.complete = self.models.iter().all(|model| model.complete);
        if let Some(first) = self.models.iter().find(|model| model.rows.chunks > 0) {
            self.rows = first.rows;
        }
    }
}

impl RowCounts {
    fn add(&mut self, by_status: &BTreeMap<RowStatus, u64>, tokens_truncated: u64) {
        self.tokens_truncated += tokens_truncated;
        for (status, &rows) in by_status {
            self.chunks += rows;
            *match status {
                RowStatus::Ok => &mut self.ok,
                RowStatus::Truncated => &mut self.truncated,
                RowStatus::Empty => &mut self.empty,
                RowStatus::Failed => &mut self.failed,
            } += rows;
        }
    }
}

impl State {
    fn collection(&mut self, name: &CollectionName) -> Option<&mut CollectionSummary> {
        self.summary.collections.iter_mut().find(|collection| collection.name == *name)
    }

    fn update(&mut self, name: &CollectionName, model: &str, change: impl FnOnce(&mut ModelRows)) {
        if let Some(collection) = self.collection(name) {
            collection.update(model, change);
        }
    }

    fn observe(&mut self, event: &Event) {
        match event {
            Event::CollectionFound { collection, files, .. } => {
                self.summary.collections.push(CollectionSummary::new(collection, *files));
            }
            Event::EmptyDirectory { path } => {
                self.summary.empty_directories.push(path.to_string_lossy().into_owned());
            }
            Event::LoadingError { collection: None, error } => self.summary.loading_errors.push(error.clone()),
            Event::LoadingError { collection: Some(name), error } => {
                if let Some(collection) = self.collection(name) {
                    collection.loading_errors_total += 1;
                    collection.list(error.clone());
                }
            }
            Event::RowFailed { collection, source, reason, .. } => {
                let path = format!("{collection}/{}", source.file);
                let (index, reason) = (Some(source.index), reason.clone());
                let error = LoadingError { path, line: None, column: None, index, reason };
                if let Some(collection) = self.collection(collection) {
                    collection.list(error);
                }
            }
            Event::InputWarning { collection, .. } => {
                if let Some(collection) = self.collection(collection) {
                    collection.warnings += 1;
                }
            }
            Event::CollectionStarted { collection, model } => self.update(collection, model, |_| {}),
            Event::Resumed { collection, model, rows, by_status, tokens_truncated, .. } => {
                self.update(collection, model, |counts| {
                    counts.rows.add(by_status, *tokens_truncated);
                    counts.rows.kept += rows;
                });
            }
            Event::ShardCommitted { collection, model, by_status, tokens_truncated, .. } => {
                self.update(collection, model, |counts| counts.rows.add(by_status, *tokens_truncated));
                self.summary.total_embeddings_generated += with_vector(by_status);
            }
            Event::VectorsReused { model, known, repeated, .. } => {
                if let Some(pass) = self.pass(model) {
                    pass.rows_known += known;
                    pass.rows_repeated += repeated;
                }
            }
            Event::InputUpdated { collection, changes } => {
                if let Some(collection) = self.collection(collection) {
                    collection.changes.get_or_insert(*changes);
                }
            }
            Event::CollectionFinished { collection, model, complete, outputs } => {
                self.update(collection, model, |counts| counts.complete = *complete);
                self.summary.outputs.extend(outputs.iter().cloned());
            }
            Event::RunFinished { exit_code, error } => self.finish(*exit_code, error.as_ref()),
            _ => self.observe_turn(event),
        }
    }

    fn finish(&mut self, exit_code: u8, error: Option<&String>) {
        self.summary.exit_code = exit_code;
        self.summary.error = error.cloned();
        self.summary.status = match (error, exit_code) {
            (Some(_), _) => RunStatus::Failed,
            (None, exit::INTERRUPTED | exit::TERMINATED) => RunStatus::Stopped,
            (None, _) => RunStatus::Done,
        };
        let status = self.summary.status;
        let running = self.summary.passes.iter_mut().filter(|pass| pass.status == RunStatus::Running);
        running.for_each(|pass| pass.status = status);
    }

    fn observe_turn(&mut self, event: &Event) {
        match event {
            Event::Acquire(sample) => {
                self.open.clear();
                self.acquired = Some(sample.clone());
                self.lease("acquire", sample);
            }
            Event::Release(sample) => {
                self.lease("release", sample);
                for (id, vram) in &sample.vram {
                    self.each_open(|pass| see(pass, id, |span| span.after = Some(*vram)));
                }
                self.open.clear();
            }
            Event::Predicted(prediction) => self.predictions.push(prediction.clone()),
            Event::PassStarted(info) => self.start(info),
            Event::PassFailed { model, error, exit_code } => {
                if let Some(pass) = self.pass(model) {
                    (pass.status, pass.error) = (RunStatus::Failed, Some(error.clone()));
                }
                let (model, error) = (model.clone(), error.clone());
                self.summary.failures.push(Failure { model, error, exit_code: *exit_code });
            }
            Event::VramPeak { device_id, vram, .. } => {
                let id = device_id.to_string();
                self.each_open(|pass| see(pass, &id, |span| span.peak = Some(*vram)));
            }
            Event::Intrusion { device, processes } => self.each_open(|pass| {
                pass.intrusions.push(Intrusion { device: device.clone(), processes: processes.clone() });
            }),
            Event::Leak { device, before_bytes, after_bytes, .. } => self.each_open(|pass| {
                let (before_bytes, after_bytes) = (*before_bytes, *after_bytes);
                pass.leaks.push(Leak { device: device.clone(), before_bytes, after_bytes });
            }),
            Event::DeviceLost { device, .. } => self.each_open(|pass| pass.lost_devices.push(device.clone())),
            Event::FusionPlanned { method, dimension, members } => {
                let weights = members
                    .iter()
                    .map(|(model, weight)| MemberWeight { model: model.clone(), weight: *weight })
                    .collect();
                let collections = Vec::new();
                self.summary.fusion = Some(FusionSummary {
                    method: *method,
                    dimension: *dimension,
                    weights,
                    advice: ADVICE,
                    collections,
                });
            }
            Event::FusedShard { .. } | Event::CollectionFused { .. } => self.observe_fusion(event),
            Event::Planned { mode: Mode::Single, .. } => {}
            _ => self.observe_pass(event),
        }
    }

    fn observe_fusion(&mut self, event: &Event) {
        let Some(fusion) = &mut self.summary.fusion else { return };
        let (Event::FusedShard { collection, .. } | Event::CollectionFused { collection, .. }) = event else { return };
        if !fusion.collections.iter().any(|fused| fused.name == *collection) {
            let name = collection.clone();
            fusion.collections.push(FusedCollection {
                name,
                vectors: 0,
                without_vector: 0,
                complete: false,
                seconds: 0.0,
            });
        }
        let Some(fused) = fusion.collections.iter_mut().find(|fused| fused.name == *collection) else { return };
        match event {
            Event::FusedShard { by_status, .. } => {
                fused.vectors += with_vector(by_status);
                fused.without_vector += by_status.values().sum::<u64>() - with_vector(by_status);
            }
            Event::CollectionFused { complete, seconds, outputs, .. } => {
                (fused.complete, fused.seconds) = (*complete, *seconds);
                self.summary.outputs.extend(outputs.iter().cloned());
            }
            _ => {}
        }
    }
}
