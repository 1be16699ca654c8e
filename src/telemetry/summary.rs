//! `run-summary.json`: what a run did, for people and programs that come afterwards.
//!
//! Its schema is `configs/schemas/run-summary.schema.json`. The keys in the first block are older than this program.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::event::{Changes, LeaseSample, Mitigation, OutputFile, PassInfo, Prediction, StageSeconds, VramSample};
use crate::config::{Fusion, Settings};
use crate::domain::{CollectionName, LoadingError, VectorKind};

mod bottleneck;
mod builder;

pub use bottleneck::Bottleneck;
pub use builder::SummaryBuilder;

/// Raised whenever a key changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// The whole summary.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// `single`: one model. `sequential`: several take turns, after every batch or after everything, on devices that are
    /// held throughout. `exclusive`: each has a lease of its own.
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
    /// Models that could not be found, loaded or run.
    pub failures: Vec<Failure>,
    /// What was made of the members' vectors; `None` for one model, or if nothing was to be made.
    pub fusion: Option<FusionSummary>,
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

/// What was read of a collection, and what became of it. Rows are counted for the first model that has any; all models
/// are listed under `models`.
#[derive(Debug, Clone, Serialize)]
pub struct CollectionSummary {
    /// Its name.
    pub name: CollectionName,
    /// Number of chunk files.
    pub files: u64,
    /// Rows of the first model.
    #[serde(flatten)]
    pub rows: RowCounts,
    /// Repeated ids and the like, which lost nothing; `events.jsonl` has them.
    pub warnings: u64,
    /// Whether all rows of all models are committed.
    pub complete: bool,
    /// In what the input differs from that of earlier outputs, where an incremental run has found that it does.
    pub changes: Option<Changes>,
    /// Rows of each model.
    pub models: Vec<ModelRows>,
    /// Files and entries that could not be read as they should.
    pub loading_errors_total: u64,
    /// The first thousand of these faults, and of rows that could not be embedded; `events.jsonl` has all.
    pub loading_errors: Vec<LoadingError>,
}

/// Rows of a collection and a model.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct RowCounts {
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
}

/// What became of a collection with one model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelRows {
    /// The model.
    pub model: String,
    /// Its rows.
    #[serde(flatten)]
    pub rows: RowCounts,
    /// Whether all rows are committed.
    pub complete: bool,
}

/// What a model did.
#[derive(Debug, Clone, Serialize)]
pub struct PassSummary {
    /// What was known before.
    #[serde(flatten)]
    pub info: PassInfo,
    /// How it ended.
    pub status: RunStatus,
    /// What went wrong, if it failed.
    pub error: Option<String>,
    /// Reading, converting and placing the weights; 0 when they were on the devices already.
    pub load_seconds: Option<f64>,
    /// Whether they were.
    pub warm: bool,
    /// Rate of the warm-up; not in any other figure.
    pub warmup_tokens_per_second: Option<f64>,
    /// What the plan said before.
    pub predictions: Vec<Prediction>,
    /// From the first read to the last commit, without loading and warm-up.
    pub seconds: f64,
    /// Vectors made.
    pub rows: u64,
    /// Rows whose vectors were there already: in the cache, or in what an incremental run has set aside.
    pub rows_known: u64,
    /// Rows that got the vector of another row with the same text.
    pub rows_repeated: u64,
    /// Tokens encoded.
    pub tokens: u64,
    /// The same after the padding that the encoder needed.
    pub padded_tokens: u64,
    /// `tokens / seconds`.
    pub tokens_per_second: f64,
    /// Number of batches.
    pub batches: u64,
    /// Batches that each device did.
    pub batches_by_device: BTreeMap<String, u64>,
    /// Limits of a batch and the number of the first batch that they held for.
    pub batch_trajectory: Vec<BatchStep>,
    /// Steps taken against shortage of memory.
    pub mitigation_events: Vec<Mitigation>,
    /// How many there were of each kind; of many, only the first are listed, and all are in `events.jsonl`.
    pub mitigation_counts: BTreeMap<String, u64>,
    /// Programs without a lease that came onto the devices.
    pub intrusions: Vec<Intrusion>,
    /// Memory that did not come back.
    pub leaks: Vec<Leak>,
    /// Devices that were lost meanwhile.
    pub lost_devices: Vec<String>,
    /// Where the time went, summed over threads.
    pub stage_seconds: StageSeconds,
    /// What would have to be faster for the pass to be faster; `None` before its end.
    pub bottleneck: Option<Bottleneck>,
    /// Memory of each device, by `gpu_0` and so on.
    pub vram: BTreeMap<String, VramSpan>,
    /// p95 / p5 of tokens/s over the batches of the most frequent length (in steps of 32 tokens); `None` below 20.
    pub throughput_spread: Option<f64>,
}

/// Programs that came onto a leased device.
#[derive(Debug, Clone, Serialize)]
pub struct Intrusion {
    /// The device.
    pub device: String,
    /// Their numbers and programs.
    pub processes: Vec<String>,
}

/// Memory that did not come back.
#[derive(Debug, Clone, Serialize)]
pub struct Leak {
    /// The device.
    pub device: String,
    /// Used before the model was loaded.
    pub before_bytes: u64,
    /// Used after it was gone.
    pub after_bytes: u64,
}

/// A model that could not be found, loaded or run.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// The model.
    pub model: String,
    /// Why.
    pub error: String,
    /// The exit code that stands for it.
    pub exit_code: u8,
}

/// What was made of the members' vectors.
#[derive(Debug, Clone, Serialize)]
pub struct FusionSummary {
    /// `mean` or `concat`.
    pub method: Fusion,
    /// Length of a fused vector.
    pub dimension: usize,
    /// Each member with its weight; the sum is 1.
    pub weights: Vec<MemberWeight>,
    /// What to know before the vectors are used.
    pub advice: &'static str,
    /// What became of each collection.
    pub collections: Vec<FusedCollection>,
}

/// A member of fused vectors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemberWeight {
    /// The model.
    pub model: String,
    /// Its weight.
    pub weight: f64,
}

/// Fused vectors of a collection.
#[derive(Debug, Clone, Serialize)]
pub struct FusedCollection {
    /// Its name.
    pub name: CollectionName,
    /// Rows with a vector, committed by this run.
    pub vectors: u64,
    /// Rows without one.
    pub without_vector: u64,
    /// Whether all rows are committed.
    pub complete: bool,
    /// Time that it took.
    pub seconds: f64,
}

/// A change of the batch limits.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BatchStep {
    /// Number of the first batch.
    pub batch: u64,
    /// Most tokens.
    pub tokens: usize,
    /// Most sequences.
    pub sequences: usize,
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

impl Summary {
    /// The summary as it is written.
    pub fn to_json(&self) -> Vec<u8> {
        // Every key is a string and every number is plain: there is nothing that could fail.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// What a person should know at the end, in a few lines.
    pub fn closing_lines(&self, output_dir: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        let sum = |figure: fn(&CollectionSummary) -> u64| self.collections.iter().map(figure).sum::<u64>();
        let (chunks, kept, failed) = (sum(|c| c.rows.chunks), sum(|c| c.rows.kept), sum(|c| c.rows.failed));
        let mut counts = vec![
            format!("{} embedded whole", sum(|c| c.rows.ok)),
            format!("{} truncated", sum(|c| c.rows.truncated)),
            format!("{} empty", sum(|c| c.rows.empty)),
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
        match self.passes.as_slice() {
            [] => lines.push(format!("{:.1} s in all", self.processing_time_seconds)),
            [pass] => lines.push(format!(
                "{:.1} s in all, {:.0} tokens/s while embedding",
                self.processing_time_seconds, pass.tokens_per_second
            )),
            passes => {
                lines.extend(passes.iter().map(PassSummary::closing_line));
                lines.push(format!("{:.1} s in all", self.processing_time_seconds));
            }
        }
        lines.extend(self.passes.iter().filter_map(PassSummary::hint));
        if let Some(fusion) = &self.fusion {
            let complete = fusion.collections.iter().filter(|collection| collection.complete).count();
            lines.push(format!(
                "fused ({}, {} components): {complete} of {collections} collections; {}",
                fusion.method.as_str(),
                fusion.dimension,
                fusion.advice
            ));
        }
        let faults = sum(|c| c.loading_errors_total) + self.loading_errors.len() as u64;
        if faults + failed > 0 {
            lines.push(format!(
                "{faults} faults in the input and {failed} rows without a vector; they are listed in events.jsonl"
            ));
        }
        lines.extend(self.failures.iter().map(|failure| format!("FAILED {}", failure.error)));
        if self.status == RunStatus::Stopped {
            lines.push("stopped before the end; the same command goes on from what is committed".to_owned());
        }
        lines.push(format!("results are in {}", output_dir.display()));
        lines
    }
}

/// A pass that is shorter says little about what holds it up.
const TELLING_SECONDS: f64 = 5.0;

impl PassSummary {
    /// What would make it faster, if that is not the model itself.
    fn hint(&self) -> Option<String> {
        let slow = self.bottleneck.filter(|slow| slow.stage != "forward" && self.seconds > TELLING_SECONDS)?;
        let idle = slow.encoders_idle * 100.0;
        Some(format!("{}: encoders were idle for {idle:.0} % of their time: {}", self.info.model, slow.hint))
    }

    fn closing_line(&self) -> String {
        let Self { info, rows, tokens_per_second, status, .. } = self;
        let end = match status {
            RunStatus::Done => String::new(),
            status => format!(" ({})", status.as_str()),
        };
        let what = |kind: &VectorKind| match kind {
            VectorKind::Dense => format!("vectors of {} components", info.dimension),
            VectorKind::Sparse => "sparse vectors".to_owned(),
            VectorKind::Multi => format!("lists of vectors of {} components", info.multi_dimension.unwrap_or_default()),
        };
        let what = info.emit.iter().map(what).collect::<Vec<_>>().join(" and ");
        format!("{}: {rows} {what}, {tokens_per_second:.0} tokens/s{end}", info.model)
    }
}

impl RunStatus {
    /// In lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}
