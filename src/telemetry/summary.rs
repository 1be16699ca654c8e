//! `run-summary.json`: what a run did, for people and programs that come afterwards.
//!
//! Its schema is `configs/schemas/run-summary.schema.json`. The keys in the first block are older than this program.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use super::epoch_seconds;
use super::event::{Event, LeaseSample, Observer, OutputFile, PassInfo, StageSeconds, VramSample};
use crate::config::{Resolved, Settings};
use crate::domain::{CollectionName, LoadingError, RowStatus};
use crate::exit;

/// Raised whenever a key changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// Faults listed one by one for each collection; all of them are in `events.jsonl`.
const MOST_LOADING_ERRORS: usize = 1000;

/// The whole summary.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// `single`: one model.
    pub ensemble_mode: &'static str,
    /// Models whose pass ended complete, in order.
    pub models_executed: Vec<String>,
    /// Vectors made by this run, over all models.
    pub total_embeddings_generated: u64,
    /// From start to end.
    pub processing_time_seconds: f64,
    /// The former two divided.
    pub chunks_per_second: f64,
    /// Each model's turn on the devices.
    pub lease_events: Vec<LeaseSpan>,
    /// The same, as sampled.
    pub gpu_lease_events: Vec<RawLeaseEvent>,

    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Name of the run in every output.
    pub run_id: String,
    /// How the run ended.
    pub status: RunStatus,
    /// The process's exit code.
    pub exit_code: u8,
    /// What went wrong, if the exit code is neither 0 nor 3.
    pub error: Option<String>,
    /// Seconds since 1970.
    pub started_at: f64,
    /// This program.
    pub tool: Tool,
    /// The command line.
    pub argv: Vec<String>,
    /// All settings, except secrets.
    pub config: Settings,
    /// Where each setting comes from.
    pub config_provenance: BTreeMap<String, String>,
    /// The machine.
    pub environment: Machine,
    /// What was read.
    pub collections: Vec<CollectionSummary>,
    /// Directories without chunk files.
    pub empty_directories: Vec<String>,
    /// Faults outside any collection.
    pub loading_errors: Vec<LoadingError>,
    /// What each model did.
    pub passes: Vec<PassSummary>,
    /// Files written, by this run or those before it.
    pub outputs: Vec<OutputFile>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// Still under way; left so by a crash.
    Running,
    /// Everything is embedded, except what is reported as failed.
    Done,
    /// Stopped by a signal or the time limit after a clean commit.
    Stopped,
    /// Ended by an error; what was committed stays.
    Failed,
}

/// A model's turn.
#[derive(Debug, Clone, Serialize)]
pub struct LeaseSpan {
    /// The model.
    pub model: String,
    /// Seconds between acquire and release.
    pub duration: f64,
    /// Used memory at release less that at acquire, in GiB, for `gpu_0` and so on; `None` where it cannot be read.
    pub vram_delta_gb: BTreeMap<String, Option<f64>>,
}

/// A lease event as it was sampled.
#[derive(Debug, Clone, Serialize)]
pub struct RawLeaseEvent {
    /// Seconds since 1970.
    pub timestamp: f64,
    /// `acquire` or `release`.
    pub event_type: &'static str,
    /// Model, devices and their memory.
    #[serde(flatten)]
    pub sample: LeaseSample,
}

/// This program.
#[derive(Debug, Clone, Serialize)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Commit that it was built from, where known.
    pub commit: Option<&'static str>,
    /// Optional parts that were built in.
    pub features: Vec<&'static str>,
}

impl Tool {
    /// The program that runs.
    pub fn this() -> Self {
        Self {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("EMBED_COLLECTIONS_COMMIT"),
            features: Vec::new(),
        }
    }
}

/// The machine that a run used.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub os: String,
    /// Processor.
    pub cpu: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// Version of the GPU driver.
    pub driver: Option<String>,
    /// Version of CUDA.
    pub cuda: Option<String>,
    /// Devices that encoders run on.
    pub devices: Vec<String>,
}

/// What was read of a collection, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct CollectionSummary {
    /// Its name.
    pub name: CollectionName,
    /// Number of chunk files.
    pub files: u64,
    /// Committed rows, of this run and those before it.
    pub chunks: u64,
    /// Rows embedded whole.
    pub ok: u64,
    /// Rows embedded without their end.
    pub truncated: u64,
    /// Tokens that were cut off.
    pub tokens_truncated: u64,
    /// Rows without text.
    pub empty: u64,
    /// Rows that could not be read or embedded.
    pub failed: u64,
    /// Rows committed by an earlier run and kept.
    pub kept: u64,
    /// Repeated ids and the like, which lost nothing; `events.jsonl` has them.
    pub warnings: u64,
    /// Whether all rows are committed.
    pub complete: bool,
    /// Files and entries that could not be read as they should.
    pub loading_errors_total: u64,
    /// The first thousand of these faults, and of rows that could not be embedded; `events.jsonl` has all.
    pub loading_errors: Vec<LoadingError>,
}

/// What a model did.
#[derive(Debug, Clone, Serialize)]
pub struct PassSummary {
    /// What was known before.
    #[serde(flatten)]
    pub info: PassInfo,
    /// Reading, converting and placing the weights.
    pub load_seconds: Option<f64>,
    /// Rate of the warm-up; not in any other figure.
    pub warmup_tokens_per_second: Option<f64>,
    /// From the first read to the last commit, without loading and warm-up.
    pub seconds: f64,
    /// Vectors made.
    pub rows: u64,
    /// Tokens encoded.
    pub tokens: u64,
    /// The same after the padding that the encoder needed.
    pub padded_tokens: u64,
    /// `tokens / seconds`.
    pub tokens_per_second: f64,
    /// Number of batches.
    pub batches: u64,
    /// Limits of a batch and the number of the first batch that they held for.
    pub batch_trajectory: Vec<BatchStep>,
    /// Steps taken against shortage of memory.
    pub mitigation_events: Vec<String>,
    /// Where the time went, summed over threads.
    pub stage_seconds: StageSeconds,
    /// Memory of each device.
    pub vram: BTreeMap<String, VramSpan>,
    /// p95 / p5 of tokens/s over the batches of the most frequent length (in steps of 32 tokens); `None` below 20.
    pub throughput_spread: Option<f64>,
}

/// A change of the batch limits.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BatchStep {
    /// Number of the first batch.
    pub batch: u64,
    /// Most tokens.
    pub tokens: usize,
    /// Most sequences.
    pub sequences: Option<usize>,
}

/// Memory of a device over a pass.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct VramSpan {
    /// At acquire.
    pub before: Option<VramSample>,
    /// At its highest.
    pub peak: Option<VramSample>,
    /// At release.
    pub after: Option<VramSample>,
}

/// Collects a summary from events.
pub struct SummaryBuilder {
    started: Instant,
    state: Mutex<State>,
}

struct State {
    summary: Summary,
    rates: BTreeMap<u64, Vec<f64>>,
}

/// Batches of one length whose rates are kept.
const MOST_RATES: usize = 4096;

impl SummaryBuilder {
    /// Begins a summary at the start of a run.
    pub fn new(run_id: String, argv: Vec<String>, resolved: &Resolved, environment: Machine) -> Self {
        let summary = Summary {
            ensemble_mode: "single",
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
            outputs: Vec::new(),
        };
        Self { started: Instant::now(), state: Mutex::new(State { summary, rates: BTreeMap::new() }) }
    }

    /// The summary of everything up to now.
    pub fn summary(&self) -> Summary {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut summary = state.summary.clone();
        summary.processing_time_seconds = self.started.elapsed().as_secs_f64();
        summary.chunks_per_second =
            summary.total_embeddings_generated as f64 / summary.processing_time_seconds.max(f64::MIN_POSITIVE);
        summary
    }

    /// Whether every collection is complete.
    pub fn complete(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.summary.collections.iter().all(|collection| collection.complete)
    }

    /// Whether any file, entry or row failed up to now.
    pub fn has_faults(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut collections = state.summary.collections.iter();
        collections.any(|collection| collection.failed + collection.loading_errors_total > 0)
            || !state.summary.loading_errors.is_empty()
    }
}

impl Summary {
    /// The summary as it is written.
    pub fn to_json(&self) -> Vec<u8> {
        // Every key is a string and every number is plain: there is nothing that could fail.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// What a person should know at the end, in two or three lines.
    pub fn closing_lines(&self, output_dir: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        let sum = |figure: fn(&CollectionSummary) -> u64| self.collections.iter().map(figure).sum::<u64>();
        let (chunks, kept, failed) = (sum(|c| c.chunks), sum(|c| c.kept), sum(|c| c.failed));
        let rate = self.passes.last().map_or(0.0, |pass| pass.tokens_per_second);
        let mut counts = vec![
            format!("{} embedded whole", sum(|c| c.ok)),
            format!("{} truncated", sum(|c| c.truncated)),
            format!("{} empty", sum(|c| c.empty)),
            format!("{failed} failed"),
        ];
        if kept > 0 {
            counts.push(format!("{kept} of them kept from an earlier run"));
        }
        let collections = self.collections.len();
        lines.push(format!(
            "{chunks} chunks of {collections} collection{}: {}",
            if collections == 1 { "" } else { "s" },
            counts.join(", ")
        ));
        lines.push(format!("{:.1} s in all, {rate:.0} tokens/s while embedding", self.processing_time_seconds));
        let faults = sum(|c| c.loading_errors_total) + self.loading_errors.len() as u64;
        if faults + failed > 0 {
            lines.push(format!(
                "{faults} faults in the input and {failed} rows without a vector; they are listed in events.jsonl"
            ));
        }
        if self.status == RunStatus::Stopped {
            lines.push("stopped before the end; the same command goes on from what is committed".to_owned());
        }
        lines.push(format!("results are in {}", output_dir.display()));
        lines
    }
}

impl CollectionSummary {
    fn list(&mut self, error: LoadingError) {
        if self.loading_errors.len() < MOST_LOADING_ERRORS {
            self.loading_errors.push(error);
        }
    }
}

impl State {
    fn collection(&mut self, name: &CollectionName) -> Option<&mut CollectionSummary> {
        self.summary.collections.iter_mut().find(|collection| collection.name == *name)
    }

    fn count(&mut self, name: &CollectionName, by_status: &BTreeMap<RowStatus, u64>) {
        if let Some(collection) = self.collection(name) {
            for (status, &rows) in by_status {
                collection.chunks += rows;
                *match status {
                    RowStatus::Ok => &mut collection.ok,
                    RowStatus::Truncated => &mut collection.truncated,
                    RowStatus::Empty => &mut collection.empty,
                    RowStatus::Failed => &mut collection.failed,
                } += rows;
            }
        }
    }

    fn observe(&mut self, event: &Event) {
        match event {
            Event::CollectionFound { collection, files, .. } => {
                self.summary.collections.push(CollectionSummary {
                    name: collection.clone(),
                    files: *files,
                    chunks: 0,
                    ok: 0,
                    truncated: 0,
                    tokens_truncated: 0,
                    empty: 0,
                    failed: 0,
                    kept: 0,
                    warnings: 0,
                    complete: false,
                    loading_errors_total: 0,
                    loading_errors: Vec::new(),
                });
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
            Event::Acquire(sample) => self.lease("acquire", sample),
            Event::Release(sample) => self.lease("release", sample),
            Event::Resumed { collection, rows, by_status, tokens_truncated, .. } => {
                self.count(collection, by_status);
                if let Some(collection) = self.collection(collection) {
                    collection.tokens_truncated += tokens_truncated;
                    collection.kept += rows;
                }
            }
            Event::ShardCommitted { collection, by_status, tokens_truncated, .. } => {
                self.count(collection, by_status);
                if let Some(collection) = self.collection(collection) {
                    collection.tokens_truncated += tokens_truncated;
                }
                let made = by_status.iter().filter(|(status, _)| status.has_vector()).map(|(_, rows)| rows);
                self.summary.total_embeddings_generated += made.sum::<u64>();
            }
            Event::CollectionFinished { collection, complete, outputs, .. } => {
                if let Some(collection) = self.collection(collection) {
                    collection.complete = *complete;
                }
                self.summary.outputs.extend(outputs.iter().cloned());
            }
            Event::RunFinished { exit_code, error } => {
                self.summary.exit_code = *exit_code;
                self.summary.error.clone_from(error);
                self.summary.status = match (error, *exit_code) {
                    (Some(_), _) => RunStatus::Failed,
                    (None, exit::INTERRUPTED | exit::TERMINATED) => RunStatus::Stopped,
                    (None, _) => RunStatus::Done,
                };
            }
            _ => self.observe_pass(event),
        }
    }

    fn observe_pass(&mut self, event: &Event) {
        if let Event::PassStarted(info) = event {
            self.rates.clear();
            self.summary.passes.push(PassSummary {
                batch_trajectory: vec![BatchStep { batch: 0, tokens: info.batch_tokens, sequences: info.batch_size }],
                info: info.clone(),
                load_seconds: None,
                warmup_tokens_per_second: None,
                seconds: 0.0,
                rows: 0,
                tokens: 0,
                padded_tokens: 0,
                tokens_per_second: 0.0,
                batches: 0,
                mitigation_events: Vec::new(),
                stage_seconds: StageSeconds::default(),
                vram: BTreeMap::new(),
                throughput_spread: None,
            });
        }
        let Some(pass) = self.summary.passes.last_mut() else { return };
        match event {
            Event::ModelLoaded { load_seconds, .. } => pass.load_seconds = Some(*load_seconds),
            Event::WarmUp { tokens, seconds, .. } => {
                pass.warmup_tokens_per_second = Some(*tokens as f64 / seconds.max(f64::MIN_POSITIVE));
            }
            Event::BatchEncoded { rows, tokens, padded_tokens, longest, seconds, .. } => {
                pass.rows += rows;
                pass.tokens += tokens;
                pass.padded_tokens += padded_tokens;
                pass.batches += 1;
                let rates = self.rates.entry(longest.div_ceil(32)).or_default();
                if rates.len() < MOST_RATES && *seconds > 0.0 {
                    rates.push(*tokens as f64 / seconds);
                }
            }
            Event::PassFinished { model, seconds, stage_seconds, complete } => {
                pass.seconds = *seconds;
                pass.stage_seconds = *stage_seconds;
                pass.tokens_per_second = pass.tokens as f64 / seconds.max(f64::MIN_POSITIVE);
                pass.throughput_spread =
                    self.rates.values().max_by_key(|rates| rates.len()).and_then(|rates| spread(rates));
                if *complete {
                    self.summary.models_executed.push(model.clone());
                }
            }
            _ => {}
        }
    }

    fn lease(&mut self, event_type: &'static str, sample: &LeaseSample) {
        let timestamp = epoch_seconds();
        let same_turn = |event: &&RawLeaseEvent| event.sample.model == sample.model && event.event_type == "acquire";
        if let Some(acquired) =
            self.summary.gpu_lease_events.iter().rfind(same_turn).filter(|_| event_type == "release")
        {
            let used = |sample: &LeaseSample, device: &String| sample.vram.get(device).and_then(|vram| vram.used_gb);
            let delta = |device: &String| Some(used(sample, device)? - used(&acquired.sample, device)?);
            let deltas = sample.vram.keys().map(|device| (format!("gpu_{device}"), delta(device))).collect();
            let duration = timestamp - acquired.timestamp;
            self.summary.lease_events.push(LeaseSpan { model: sample.model.clone(), duration, vram_delta_gb: deltas });
        }
        self.summary.gpu_lease_events.push(RawLeaseEvent { timestamp, event_type, sample: sample.clone() });
    }
}

impl Observer for SummaryBuilder {
    fn observe(&self, event: &Event) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).observe(event);
    }
}

/// p95 / p5; `None` for fewer than 20 rates, whose tails mean nothing.
fn spread(rates: &[f64]) -> Option<f64> {
    if rates.len() < 20 {
        return None;
    }
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    Some(at(95) / at(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_compares_the_tails() {
        let rates: Vec<f64> = (1..=101).rev().map(f64::from).collect();
        assert_eq!(spread(&rates), Some(96.0 / 6.0));
        assert_eq!(spread(&rates[..19]), None);
    }
}
