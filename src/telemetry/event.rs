//! Events: the only way in which work speaks of itself.
//!
//! Whatever does work emits values of [`Event`] and never prints; what a person sees, what is written to
//! `events.jsonl` and what is summed up in `run-summary.json` are three observers of the same stream.

mod details;

pub use details::{
    Changes, LeaseSample, Mitigation, OutputFile, PassInfo, Prediction, StageSeconds, StopCause, VramSample,
};

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::{Fusion, Mode};
use crate::domain::{ChunkId, CollectionName, Fetching, LoadingError, Row, RowStatus, Source};

/// Something that happened. Serialised as an object tagged with `event_type`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event_type", rename_all = "snake_case")]
pub enum Event {
    /// The settings are valid and work begins.
    RunStarted {
        /// Name of this run in every output.
        run_id: String,
    },
    /// A collection will be embedded.
    CollectionFound {
        /// Its name.
        collection: CollectionName,
        /// Number of chunk files.
        files: u64,
        /// Their size as stored.
        bytes: u64,
    },
    /// A directory holds no chunk file and is not scheduled.
    EmptyDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A file or an entry could not be read as it should.
    LoadingError {
        /// The collection, if the fault lies in one.
        collection: Option<CollectionName>,
        /// Place and reason.
        error: LoadingError,
    },
    /// Something of the input is not as its author may think, though nothing is lost.
    InputWarning {
        /// The collection.
        collection: CollectionName,
        /// Place and matter.
        warning: LoadingError,
    },
    /// Something about a model that its user should know.
    ModelNote {
        /// The model.
        model: String,
        /// One sentence.
        note: String,
    },
    /// Something about the devices of this machine that its user should know.
    DeviceNote {
        /// One sentence.
        note: String,
    },
    /// Something about this run that its user should know.
    RunNote {
        /// One sentence.
        note: String,
    },
    /// Model files are being fetched.
    ModelFetching {
        /// The model.
        model: String,
        /// What is going on.
        #[serde(flatten)]
        what: Fetching,
    },
    /// What will be done, once the models are found.
    Planned {
        /// How the models take turns.
        mode: Mode,
        /// Models that are ready, in order.
        models: Vec<String>,
        /// How often the input will be read.
        turns: u64,
    },
    /// A model's files are mapped into memory: nothing of it is on a device.
    ModelStaged {
        /// The model.
        model: String,
        /// Size of its weight files.
        bytes: u64,
        /// Finding, reading and checking the files.
        seconds: f64,
    },
    /// What the plan says that a model needs on a device, before it is loaded.
    Predicted(Prediction),
    /// A device is leased by somebody else, or used without a lease, and is waited for.
    LeaseWaiting {
        /// Who has it, in words.
        holder: String,
    },
    /// The first event of a pass: the devices are this model's. Sampled before the model is loaded.
    Acquire(LeaseSample),
    /// A model's turn begins.
    PassStarted(Box<PassInfo>),
    /// The weights are on the devices.
    ModelLoaded {
        /// The model.
        model: String,
        /// Reading, converting and placing the weights; 0 when they were there.
        load_seconds: f64,
        /// Whether they were there from an earlier turn.
        warm: bool,
    },
    /// Nothing of a model is on a device any more.
    ModelEvicted {
        /// The model.
        model: String,
    },
    /// A model stays on its devices after its turn.
    ModelKept {
        /// The model.
        model: String,
    },
    /// A few tokens went through the model, so that the first batch is like the others.
    WarmUp {
        /// The model.
        model: String,
        /// Tokens encoded.
        tokens: u64,
        /// Time that they took.
        seconds: f64,
    },
    /// Committed shards of an earlier run were checked and are kept.
    Resumed {
        /// The collection.
        collection: CollectionName,
        /// The model.
        model: String,
        /// Shards kept.
        shards: u64,
        /// Rows kept.
        rows: u64,
        /// Rows kept, by status.
        by_status: BTreeMap<RowStatus, u64>,
        /// Tokens that were cut off in the rows kept.
        tokens_truncated: u64,
        /// What was missing or damaged; it and all that follows is made anew.
        damage: Option<String>,
    },
    /// A device begins with a batch.
    BatchBegun {
        /// The model.
        model: String,
        /// The collection.
        collection: CollectionName,
        /// The shard that its rows belong to.
        shard: u32,
        /// The device, as in `--devices`.
        device: String,
        /// Sequences.
        rows: u64,
        /// Tokens over all sequences.
        tokens: u64,
    },
    /// A batch went through a model.
    BatchEncoded {
        /// The model.
        model: String,
        /// The device, as in `--devices`.
        device: String,
        /// The worker that encoded it.
        worker: usize,
        /// Sequences.
        rows: u64,
        /// Tokens over all sequences.
        tokens: u64,
        /// Tokens after the padding that the encoder needed; equal to `tokens` without any.
        padded_tokens: u64,
        /// Longest sequence in tokens.
        longest: u64,
        /// Time in the encoder.
        seconds: f64,
    },
    /// Chunks were tokenised.
    Tokenized {
        /// Chunks.
        rows: u64,
        /// Tokens that will be encoded.
        tokens: u64,
        /// Size in the input of what has been read of the collection so far.
        bytes_read: u64,
    },
    /// A row has no vector because something went wrong.
    RowFailed {
        /// The collection.
        collection: CollectionName,
        /// The model.
        model: String,
        /// The row.
        row: Row,
        /// Its id.
        id: ChunkId,
        /// Where it was read.
        source: Source,
        /// Why.
        reason: String,
    },
    /// A shard and its manifest entry are on disk.
    ShardCommitted {
        /// The collection.
        collection: CollectionName,
        /// The model.
        model: String,
        /// Number of the shard.
        shard: u32,
        /// Its rows.
        rows: u64,
        /// Rows by status.
        by_status: BTreeMap<RowStatus, u64>,
        /// Tokens that were cut off.
        tokens_truncated: u64,
        /// Tokens that were encoded.
        tokens: u64,
        /// Bytes written.
        bytes: u64,
    },
    /// Rows of a shard that need not be encoded.
    VectorsReused {
        /// The collection.
        collection: CollectionName,
        /// The model.
        model: String,
        /// Rows whose vectors were there: in the cache, or in what an incremental run has set aside.
        known: u64,
        /// Rows with the text of an earlier row of the shard.
        repeated: u64,
    },
    /// The input is not that of the outputs that are there, and an incremental run brings them up to it.
    InputUpdated {
        /// The collection.
        collection: CollectionName,
        /// In what it differs.
        changes: Changes,
    },
    /// A pass over one collection begins.
    CollectionStarted {
        /// The collection.
        collection: CollectionName,
        /// The model.
        model: String,
    },
    /// A pass over one collection ended, complete or stopped.
    CollectionFinished {
        /// The collection.
        collection: CollectionName,
        /// The model.
        model: String,
        /// Whether all rows are committed.
        complete: bool,
        /// The files of the collection and model, committed now or before.
        outputs: Vec<OutputFile>,
    },
    /// A model's turn is over.
    PassFinished {
        /// The model.
        model: String,
        /// Whether all rows of all collections are committed.
        complete: bool,
        /// From the first batch to the last commit, without loading and warm-up.
        seconds: f64,
        /// Where the time went, summed over threads.
        stage_seconds: StageSeconds,
    },
    /// A model could not be found, loaded or run; the others go on.
    PassFailed {
        /// The model.
        model: String,
        /// Why.
        error: String,
        /// The exit code that stands for it.
        exit_code: u8,
    },
    /// The last event of a pass. Sampled after the model is gone.
    Release(LeaseSample),
    /// The memory of a device at its highest, over one turn.
    VramPeak {
        /// The models of the turn.
        models: Vec<String>,
        /// The device, as its number.
        device_id: u32,
        /// What was seen.
        vram: VramSample,
    },
    /// The memory of a device went over or under a threshold.
    MemoryLevel {
        /// The device.
        device: String,
        /// `normal`, `warning` or `critical`.
        from: &'static str,
        /// Likewise.
        to: &'static str,
        /// The part of its memory that is taken.
        utilisation: f64,
    },
    /// A step against shortage of memory.
    Mitigation(Mitigation),
    /// Programs without a lease began to compute on a device that is leased.
    Intrusion {
        /// The device.
        device: String,
        /// Their numbers and programs.
        processes: Vec<String>,
    },
    /// Memory of a device did not come back after the model was gone.
    Leak {
        /// The models of the turn.
        models: Vec<String>,
        /// The device.
        device: String,
        /// Used before the model was loaded, in bytes.
        before_bytes: u64,
        /// Used after it was gone.
        after_bytes: u64,
        /// What would have been tolerated.
        tolerance_bytes: u64,
    },
    /// A device does not answer any more; its work is done by the others.
    DeviceLost {
        /// The device.
        device: String,
        /// What its driver says.
        reason: String,
    },
    /// A device answers again.
    DeviceBack {
        /// The device.
        device: String,
    },
    /// The members' vectors will be fused.
    FusionPlanned {
        /// How.
        method: Fusion,
        /// Length of a fused vector.
        dimension: usize,
        /// Each model with its weight; the sum is 1.
        members: Vec<(String, f64)>,
    },
    /// A shard of fused vectors is on disk.
    FusedShard {
        /// The collection.
        collection: CollectionName,
        /// Number of the shard.
        shard: u32,
        /// Rows by status.
        by_status: BTreeMap<RowStatus, u64>,
    },
    /// The members of a collection were fused, completely or up to a stop.
    CollectionFused {
        /// The collection.
        collection: CollectionName,
        /// Whether all rows are committed.
        complete: bool,
        /// Time that it took.
        seconds: f64,
        /// The files, committed now or before.
        outputs: Vec<OutputFile>,
    },
    /// A signal or the time limit asked for an end; what is complete is committed.
    Stopping {
        /// What asked.
        cause: StopCause,
    },
    /// The end.
    RunFinished {
        /// The exit code of the process.
        exit_code: u8,
        /// Why it is not 0, if something went wrong.
        error: Option<String>,
    },
}

/// Whoever wants to know. Called from any thread, in the order in which each thread emits.
pub trait Observer: Send + Sync {
    /// Takes note of one event; must be quick, for work waits meanwhile.
    fn observe(&self, event: &Event);
}

/// Tells every observer in turn.
#[derive(Default)]
pub struct Observers<'a>(pub Vec<&'a dyn Observer>);

impl Observer for Observers<'_> {
    fn observe(&self, event: &Event) {
        self.0.iter().for_each(|observer| observer.observe(event));
    }
}
