//! Every setting with its default.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{PerModel, ShardWish};
use crate::domain::{Foreign, LeasePolicy, Share, VectorKind};

/// The settings of `embed-collections` without a sub-command. Field names are the keys of the configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Input root, or one chunk file.
    pub chunked_dir: PathBuf,
    /// Output root.
    pub output_dir: PathBuf,
    /// Names of the collections to embed; empty for all.
    pub collections: Vec<String>,
    /// Registry name, hub id or directory; the only model unless an ensemble is asked for.
    pub model: String,
    /// A file of short names for models, which come before the built-in ones.
    pub models_file: Option<PathBuf>,
    /// Models of the ensemble, in order; the first is the primary one.
    pub ensemble_models: Vec<String>,
    /// Weights of the models in fused vectors; equal if none is given.
    pub ensemble_weights: PerModel<f64>,
    /// Whether several models are wanted, for those who do not name them.
    pub ensemble: Option<bool>,
    /// Each model in turn has a lease on all devices.
    pub exclusive_ensemble: Option<bool>,
    /// One model after the other.
    pub sequential_ensemble: Option<bool>,
    /// How the models of an ensemble take turns.
    pub strategy: Option<Strategy>,
    /// Keep models on their devices after their turn, if all fit.
    pub warm_cache_after_release: bool,
    /// One replica of a model on each device.
    pub data_parallel: Option<bool>,
    /// What becomes of the vectors that several models have given one chunk, besides their own outputs.
    pub fusion: Fusion,
    /// Arithmetic of the model.
    pub dtype: Dtype,
    /// Longest text in tokens; never more than the model's own limit.
    pub max_length: Option<usize>,
    /// Name of the prompt to put before every text.
    pub prompt_name: Option<String>,
    /// The prompt itself; empty for none.
    pub prompt: Option<String>,
    /// Keep only so many leading components of each vector (Matryoshka).
    pub truncate_dim: PerModel<usize>,
    /// Kinds of vectors to write; what the model is for if empty.
    pub emit: Vec<VectorKind>,
    /// Output formats.
    pub format: Vec<Format>,
    /// Rows in a shard, the unit of commit.
    pub shard_rows: u32,
    /// The share that this machine does, if several divide the job among themselves.
    pub shard: Option<ShardWish>,
    /// Most sequences in a batch; the plan says if absent.
    pub batch_size: PerModel<usize>,
    /// Smaller batches when memory runs short.
    pub adaptive_batch: bool,
    /// A few tokens through every model before its first batch.
    pub warm_up: bool,
    /// Most tokens in a batch of more than one sequence.
    pub batch_tokens: usize,
    /// Encoder threads; the cores available if absent.
    pub threads: Option<usize>,
    /// Best vector instructions to use on the processor, for tests and comparisons.
    pub cpu_instructions: CpuInstructions,
    /// Devices to use, in order; the best that can be used if empty.
    pub devices: Vec<String>,
    /// The library of the NVIDIA driver, where it is not in its place.
    pub nvml_library: Option<PathBuf>,
    /// Use no GPU even if there is one.
    pub force_cpu: bool,
    /// Lease and watch GPUs as if models ran on them, and compute on the processor.
    pub rehearse: bool,
    /// Most memory of this process on a device, in GiB.
    pub soft_limit_gb: Option<f64>,
    /// Memory that the plan leaves free on each device besides, in GiB.
    pub memory_buffer_gb: f64,
    /// Part of a device's memory from which on a warning is given.
    pub memory_warning: f64,
    /// Part of a device's memory from which on the next allocation may fail.
    pub memory_critical: f64,
    /// What to do if a device is leased already.
    pub lease_policy: Option<LeasePolicy>,
    /// Wait so long for devices.
    pub lease_wait: Option<Seconds>,
    /// What to do if processes without a lease compute on a device.
    pub foreign: Foreign,
    /// Directory of the lock files of leases, if not the usual one.
    pub lease_dir: Option<PathBuf>,
    /// Go on where an earlier run with the same settings stopped.
    pub resume: bool,
    /// Throw away what an earlier run wrote.
    pub overwrite: bool,
    /// Embed what is new or has another text than before, and keep the vectors of the rest.
    pub incremental: bool,
    /// Directory of vectors that runs share, by vector space and text.
    pub cache_dir: Option<PathBuf>,
    /// Open no network connection.
    pub offline: bool,
    /// Root of the Hugging Face cache.
    pub hf_cache_dir: Option<PathBuf>,
    /// Cache of repositories inside that root, where it lies elsewhere.
    pub hf_hub_cache: Option<PathBuf>,
    /// Address of the hub.
    pub hf_endpoint: Option<String>,
    /// Access token for the hub.
    #[serde(skip_serializing)]
    pub hf_token: Option<String>,
    /// Name of this run; made from the time if absent.
    pub run_id: Option<String>,
    /// Stop cleanly after this time.
    pub max_duration: Option<Seconds>,
    /// How to show progress.
    pub progress: ProgressStyle,
    /// The least of what is worth a log message.
    pub log_level: LogLevel,
    /// How to write log messages.
    pub log_format: LogFormat,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            chunked_dir: "Chunked".into(),
            output_dir: "Embeddings".into(),
            collections: Vec::new(),
            model: "all-MiniLM-L6-v2".into(),
            models_file: None,
            ensemble_models: Vec::new(),
            ensemble_weights: PerModel::default(),
            ensemble: None,
            exclusive_ensemble: None,
            sequential_ensemble: None,
            strategy: None,
            warm_cache_after_release: false,
            data_parallel: None,
            fusion: Fusion::Mean,
            dtype: Dtype::Auto,
            max_length: None,
            prompt_name: None,
            prompt: None,
            truncate_dim: PerModel::default(),
            emit: Vec::new(),
            format: vec![Format::Jsonl],
            // About ten seconds of work for a small model on two cores: what a crash can cost.
            shard_rows: 1024,
            shard: None,
            batch_size: PerModel::default(),
            adaptive_batch: true,
            warm_up: true,
            // Activations of a few hundred tokens stay in the cache of one core.
            batch_tokens: 1024,
            threads: None,
            cpu_instructions: CpuInstructions::Auto,
            devices: Vec::new(),
            nvml_library: None,
            force_cpu: false,
            rehearse: false,
            soft_limit_gb: None,
            memory_buffer_gb: 0.0,
            memory_warning: 0.85,
            memory_critical: 0.95,
            lease_policy: None,
            lease_wait: None,
            foreign: Foreign::Refuse,
            lease_dir: None,
            resume: true,
            overwrite: false,
            incremental: false,
            cache_dir: None,
            offline: false,
            hf_cache_dir: None,
            hf_hub_cache: None,
            hf_endpoint: None,
            hf_token: None,
            run_id: None,
            max_duration: None,
            progress: ProgressStyle::Auto,
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
        }
    }
}

impl Settings {
    /// The share that this machine does; resolved settings say which it is if there is any.
    pub fn share(&self) -> Option<Share> {
        self.shard.and_then(ShardWish::share)
    }
}

/// How the models of an ensemble take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// All models are loaded, and every batch of texts goes through each of them.
    Rotate,
    /// One model after the other, each with all devices for itself.
    Exclusive,
}

/// What becomes of the vectors that several models have given one chunk, besides their own outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fusion {
    /// Their weighted mean, of unit length; all must have one dimension.
    Mean,
    /// One after the other, weighted, of unit length together.
    Concat,
    /// Nothing.
    None,
}

impl Fusion {
    /// As in `--fusion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Concat => "concat",
            Self::None => "none",
        }
    }
}

/// Arithmetic of the model's layers. Pooling and normalisation are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// The fastest that is exact enough on the device; f32 on a CPU.
    Auto,
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point; GPUs only.
    F16,
    /// 16-bit floating point with the range of f32: sums in f32 of products of numbers with eight bits of mantissa.
    Bf16,
    /// Eight-bit integers with scales; processors only.
    Int8,
}

/// Vector instructions of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CpuInstructions {
    /// The best that it has.
    Auto,
    /// At most AVX-512.
    Avx512,
    /// At most AVX2 with FMA.
    Avx2,
    /// What every processor has.
    Portable,
}

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a row.
    Jsonl,
    /// Parquet, compressed with zstd.
    Parquet,
    /// Arrow IPC file, uncompressed, so that it can be mapped into memory.
    Arrow,
    /// NumPy array beside a JSON list of ids.
    Npy,
}

/// How progress is shown on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProgressStyle {
    /// A bar on a terminal, plain lines elsewhere.
    Auto,
    /// A bar.
    Bar,
    /// A line every few seconds.
    Plain,
    /// A JSON object every few seconds.
    Json,
    /// Nothing.
    None,
}

/// The least of what is told in log messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What ends the run or a part of it.
    Error,
    /// What the user should look at, too.
    Warn,
    /// The way of the run as well.
    Info,
    /// Each batch, before it is encoded, as well.
    Debug,
}

/// How log messages are written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a message.
    Json,
}

/// A time span, written as `90`, `90s`, `15m`, `1h30m` or `2d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl std::str::FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unreadable = || format!("{text:?} is not a duration such as 90s, 15m, 1h30m or 2d");
        let (mut seconds, mut rest) = (0_u64, text.trim());
        if rest.is_empty() {
            return Err(unreadable());
        }
        while !rest.is_empty() {
            let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
            let count: u64 = rest[..digits].parse().map_err(|_| unreadable())?;
            let unit = rest[digits..].chars().next();
            let factor = match unit {
                None | Some('s') => 1,
                Some('m') => 60,
                Some('h') => 3600,
                Some('d') => 86400,
                Some(_) => return Err(unreadable()),
            };
            seconds = count.checked_mul(factor).and_then(|span| seconds.checked_add(span)).ok_or_else(unreadable)?;
            rest = &rest[digits + unit.map_or(0, char::len_utf8)..];
        }
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}s", self.0.as_secs()))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Span {
            Seconds(u64),
            Text(String),
        }
        match Span::deserialize(deserializer)? {
            Span::Seconds(seconds) => Ok(Self(Duration::from_secs(seconds))),
            Span::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(text.parse::<Seconds>().ok().map(|span| span.0.as_secs()), expected, "{text:?}");
    }

    #[test]
    fn durations_are_read_with_their_units() {
        check("90", Some(90));
        check("90s", Some(90));
        check("15m", Some(900));
        check("1h30m", Some(5400));
        check("2d", Some(172_800));
        for text in ["", "m", "1x", "-1", "1.5h", "99999999999999999d", "é"] {
            check(text, None);
        }
    }
}
