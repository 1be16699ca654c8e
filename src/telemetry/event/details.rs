//! What events are about: models, predictions, files, samples.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{Digest, VectorKind};

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
