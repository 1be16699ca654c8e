//! The one table of settings: each row gives a field, a key of the configuration file, a flag and variables.

use std::path::PathBuf;

use clap::builder::{EnumValueParser, ValueParser};
use clap::{ValueEnum, value_parser};
use serde::{Deserialize, Serialize};
use toml::Value;

use super::error::ConfigError;
use super::merge::Layers;
use super::{
    CpuInstructions, Dtype, Format, Fusion, LogFormat, LogLevel, PerModel, ProgressStyle, Seconds, ShardWish, Strategy,
};
use crate::domain::{Foreign, LeasePolicy, Share, VectorKind};

/// How the text of a flag or variable becomes a value.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// As it stands.
    Text,
    /// A path.
    Path,
    /// A whole number; the parser knows its range.
    Number(fn() -> ValueParser),
    /// A number.
    Decimal,
    /// 1/true/yes/on or 0/false/no/off; a flag without a value.
    Switch,
    /// One word of a set.
    Choice(fn() -> ValueParser),
    /// Separated by white space or commas.
    List,
    /// The same, each of them a word of a set.
    Choices(fn() -> ValueParser),
    /// Text without the white space that copying leaves around it; nothing else is nothing.
    Token,
}

/// How a setting stands on the command line.
#[derive(Debug, Clone, Copy)]
pub enum Flag {
    /// Not at all.
    None,
    /// `--key VALUE`.
    Value(&'static str),
    /// `--key`.
    On,
    /// `--no-key`, with this help.
    Off(&'static str),
    /// Both, with this help for `--no-key`.
    OnOff(&'static str),
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Key in the configuration file; with `-` for `_` also the flag.
    pub key: &'static str,
    /// A former key.
    pub alias: Option<&'static str>,
    /// Heading in the help; `None` for flags that the help does not show.
    pub heading: Option<&'static str>,
    /// For people.
    pub help: &'static [&'static str],
    /// How it is read.
    pub kind: Kind,
    /// How it is typed.
    pub flag: Flag,
    /// Variables, of which the later wins.
    pub variables: &'static [&'static str],
}

impl Setting {
    /// The help in one line.
    pub fn help(&self) -> String {
        self.help.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
}

impl Kind {
    /// Reads the text of a variable or flag; the error says what would be readable.
    pub(crate) fn read(self, text: &str) -> Result<Value, &'static str> {
        match self {
            Self::Text | Self::Path | Self::Choice(_) => Ok(Value::from(text)),
            Self::Token => Ok(Value::from(text.replace(['\r', '\n'], "").trim())),
            Self::Number(_) => {
                { text.trim().parse::<u64>().ok().and_then(|number| i64::try_from(number).ok()).map(Value::from) }
                    .ok_or("a whole number that is not negative")
            }
            Self::Decimal => text.trim().parse::<f64>().map(Value::from).map_err(|_| "a number"),
            Self::Switch => match text.trim().to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(Value::from(true)),
                "0" | "false" | "no" | "off" => Ok(Value::from(false)),
                _ => Err("1, true, yes or on; or 0, false, no or off"),
            },
            Self::List | Self::Choices(_) => Ok(Value::from(
                text.split(|character: char| character.is_whitespace() || character == ',')
                    .filter(|item| !item.is_empty())
                    .collect::<Vec<_>>(),
            )),
        }
    }
}

fn choice<T: ValueEnum + Clone + Send + Sync + 'static>() -> ValueParser {
    EnumValueParser::<T>::new().into()
}

macro_rules! settings {
    ($($heading:expr => { $(
        $(#[doc = $help:literal])+
        $(#[serde $serde:tt])?
        $key:ident $(alias $alias:literal)?: $type:ty = $default:expr => $kind:expr, $flag:expr, $variables:expr;
    )* })*) => {
        /// The settings of `embed-collections` without a sub-command. Field names are the keys of the configuration file.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings { $($(
            $(#[doc = $help])+
            $(#[serde $serde])?
            $(#[serde(alias = $alias)])?
            pub $key: $type,
        )*)* }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($($key: $default,)*)* }
            }
        }

        impl Settings {
            pub(super) fn of_layers(layers: &Layers) -> Result<Self, ConfigError> {
                let defaults = Self::default();
                Ok(Self { $($($key: layers.value(stringify!($key))?.unwrap_or(defaults.$key),)*)* })
            }
        }

        /// All settings.
        pub const SETTINGS: &[Setting] = &[$($(
            Setting {
                key: stringify!($key),
                alias: first(&[$($alias)?]),
                heading: $heading,
                help: &[$($help),+],
                kind: $kind,
                flag: $flag,
                variables: &$variables,
            },
        )*)*];
    };
}

const fn first(aliases: &[&'static str]) -> Option<&'static str> {
    match aliases {
        [] => None,
        [first, ..] => Some(first),
    }
}

const INPUT_AND_OUTPUT: Option<&str> = Some("Input and output");
const MODEL: Option<&str> = Some("Model");
const ENSEMBLE: Option<&str> = Some("Ensemble");
const MACHINE: Option<&str> = Some("Machine");
const LEASES: Option<&str> = Some("Leases");
const RUN: Option<&str> = Some("Run");

settings! {
    INPUT_AND_OUTPUT => {
        /// Input root: each of its directories is a collection of chunk files. Or one chunk file
        chunked_dir: PathBuf = "Chunked".into() => Kind::Path, Flag::Value("DIR"), ["EMBEDDER_CHUNKED_DIR"];

        /// Output root [default: ./Embeddings]
        output_dir: PathBuf = "Embeddings".into() => Kind::Path, Flag::Value("DIR"), ["EMBEDDER_OUTPUT_DIR"];

        /// Embed only these collections
        collections: Vec<String> = Vec::new() => Kind::List, Flag::Value("NAME"), ["EMBEDDER_COLLECTIONS"];

        /// Output formats, one or several [default: jsonl]
        format: Vec<Format> = vec![Format::Jsonl]
            => Kind::Choices(choice::<Format>), Flag::Value("FORMAT"), ["EMBEDDER_FORMAT"];

        /// Rows in a part: what is committed at once, and what a crash can cost [default: 1024]
        part_rows alias "shard_rows": u32 = 1024
            // About ten seconds of work for a small model on two cores.
            => Kind::Number(|| value_parser!(u32).into()), Flag::Value("N"),
            ["EMBEDDER_SHARD_ROWS", "EMBEDDER_PART_ROWS"];

        /// Do only this share of the job, which several machines divide among themselves: its number, counted from 0,
        /// and how many there are, such as 3/8; or auto in a SLURM job array, auto/8 in one from 0 to 7 and in a
        /// Kubernetes job of 8 completions. All write into one output root; `merge` then makes one output of them
        shard: Option<ShardWish> = None => Kind::Text, Flag::Value("I/N"), ["EMBEDDER_SHARD"];

        /// Go on where an earlier run stopped, if input, model and settings are the same. This is the default; with
        /// `EMBEDDER_RESUME=0` any earlier output is refused
        resume: bool = true => Kind::Switch, Flag::On, ["EMBEDDER_RESUME"];

        /// Throw away what earlier runs wrote for these collections and this model
        overwrite: bool = false => Kind::Switch, Flag::On, ["EMBEDDER_OVERWRITE"];

        /// Bring earlier outputs up to an input that has changed: texts that are new are embedded, the vectors of the
        /// others are kept, and ids that are gone are listed in `removed.jsonl`
        incremental: bool = false => Kind::Switch, Flag::On, ["EMBEDDER_INCREMENTAL"];

        /// Directory of vectors that runs share: a text is embedded once for each vector space, whatever its collection
        cache_dir: Option<PathBuf> = None => Kind::Path, Flag::Value("DIR"), ["EMBEDDER_CACHE_DIR"];
    }

    MODEL => {
        /// Kinds of vectors to write: dense, sparse (weights of tokens), multi (a vector for each token) [default: what
        /// the model is for]
        emit: Vec<VectorKind> = Vec::new()
            => Kind::Choices(choice::<VectorKind>), Flag::Value("KIND"), ["EMBEDDER_EMIT"];

        /// Registry name, hub id (owner/name) or directory [default: all-MiniLM-L6-v2]
        model: String = "all-MiniLM-L6-v2".into() => Kind::Text, Flag::Value("NAME"), ["EMBEDDER_MODEL"];

        /// TOML file of models with short names, which come before the built-in ones (as configs/models.toml is written)
        models_file: Option<PathBuf> = None => Kind::Path, Flag::Value("FILE"), ["EMBEDDER_MODELS_FILE"];

        /// Arithmetic of the model's layers [default: auto]
        dtype: Dtype = Dtype::Auto => Kind::Choice(choice::<Dtype>), Flag::Value("TYPE"), ["EMBEDDER_DTYPE"];

        /// Longest text in tokens; the rest is cut off and counted. Never more than the model's own limit
        max_length: Option<usize> = None
            => Kind::Number(|| value_parser!(usize).into()), Flag::Value("N"), ["EMBEDDER_MAX_LENGTH"];

        /// Put the model's prompt of this name before every text [default: the first of document, passage, corpus that
        /// the model has, else its default prompt, else none]
        prompt_name: Option<String> = None => Kind::Text, Flag::Value("NAME"), ["EMBEDDER_PROMPT_NAME"];

        /// Put this before every text; "" for nothing
        prompt: Option<String> = None => Kind::Text, Flag::Value("TEXT"), ["EMBEDDER_PROMPT"];

        /// Keep the first N components of each vector and normalise again (for Matryoshka models); MODEL=N for one model
        truncate_dim: PerModel<usize> = PerModel::default()
            => Kind::List, Flag::Value("N"), ["EMBEDDER_MATRYOSHKA_DIM"];

        /// Open no network connection: use model files that are here already
        offline: bool = false
            => Kind::Switch, Flag::On, ["TRANSFORMERS_OFFLINE", "HF_HUB_OFFLINE", "EMBEDDER_OFFLINE"];

        /// Root of the Hugging Face cache [default: `HF_HOME` or ~/.cache/huggingface]
        hf_cache_dir: Option<PathBuf> = None => Kind::Path, Flag::Value("DIR"), ["HF_HOME", "EMBEDDER_HF_CACHE_DIR"];

        /// Cache of repositories inside that root, where it lies elsewhere
        hf_hub_cache: Option<PathBuf> = None => Kind::Path, Flag::None, ["HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"];

        /// Address of the hub
        hf_endpoint: Option<String> = None => Kind::Text, Flag::None, ["HF_ENDPOINT"];

        /// Access token for the hub
        #[serde(skip_serializing)]
        hf_token: Option<String> = None => Kind::Token, Flag::None, ["HUGGING_FACE_HUB_TOKEN", "HF_TOKEN"];
    }

    ENSEMBLE => {
        /// Models of an ensemble, in order; the first is the primary one [default once an ensemble is asked for:
        /// jina-code-embeddings-1.5b bge-m3 qwen3-embedding-0.6b]
        ensemble_models: Vec<String> = Vec::new() => Kind::List, Flag::Value("NAME"), ["EMBEDDER_ENSEMBLE_MODELS"];

        /// Weight of each model in the fused vectors, such as bge-m3=0.7 [default: equal]
        ensemble_weights: PerModel<f64> = PerModel::default()
            => Kind::List, Flag::Value("MODEL=W"), ["EMBEDDER_ENSEMBLE_WEIGHTS"];

        /// Whether several models are wanted, for those who do not name them
        ensemble: Option<bool> = None => Kind::Switch, Flag::None, ["ENSEMBLE_ENABLED", "EMBEDDER_ENSEMBLE"];

        /// Each model in turn has all devices for itself: lease, load, embed everything, free, hand on
        exclusive_ensemble: Option<bool> = None
            => Kind::Switch, Flag::OnOff("Not so, even where it is the default (on Kaggle)"),
            ["EMBEDDER_EXCLUSIVE_ENSEMBLE"];

        /// One model after the other
        sequential_ensemble: Option<bool> = None => Kind::Switch, Flag::None, ["EMBEDDER_SEQUENTIAL_ENSEMBLE"];

        /// How the models of an ensemble take turns: rotate takes every batch through all of them, exclusive one model
        /// through everything [default: rotate]
        strategy: Option<Strategy> = None
            => Kind::Choice(choice::<Strategy>), Flag::Value("STRATEGY"), ["EMBEDDER_STRATEGY"];

        /// Keep models on their devices after their turn, if the plan says that all fit
        warm_cache_after_release: bool = false => Kind::Switch, Flag::On, ["EMBEDDER_WARM_CACHE"];

        /// One replica of a model on each leased device [default: if there are several]
        data_parallel: Option<bool> = None
            => Kind::Switch, Flag::OnOff("One replica of a model, on the first device"),
            ["EMBEDDER_SEQUENTIAL_DATA_PARALLEL"];

        /// What to make of the models' vectors besides themselves: their weighted mean, all of them one after the other,
        /// or nothing [default: mean]
        fusion: Fusion = Fusion::Mean => Kind::Choice(choice::<Fusion>), Flag::Value("METHOD"), ["EMBEDDER_FUSION"];
    }

    MACHINE => {
        /// Most texts in a batch; MODEL=N for one model [default: what the plan finds room for]
        batch_size: PerModel<usize> = PerModel::default()
            => Kind::List, Flag::Value("N"), ["GPU_BATCH_SIZE", "EMBEDDER_BATCH_SIZE"];

        /// Smaller batches when memory runs short
        adaptive_batch: bool = true
            => Kind::Switch, Flag::Off("Do not make batches smaller when memory runs short"),
            ["EMBEDDER_ADAPTIVE_BATCH"];

        /// A few tokens through every model before its first batch
        warm_up: bool = true
            => Kind::Switch, Flag::Off("Send no tokens through a model before its first batch"),
            ["GPU_ENABLE_WARMUP", "EMBEDDER_WARM_UP"];

        /// Most tokens in a batch of several texts [default: 1024]
        batch_tokens: usize = 1024
            // Activations of a few hundred tokens stay in the cache of one core.
            => Kind::Number(|| value_parser!(usize).into()), Flag::Value("N"), ["EMBEDDER_BATCH_TOKENS"];

        /// Encoder threads [default: the cores that this process may use]
        threads: Option<usize> = None
            => Kind::Number(|| value_parser!(usize).into()), Flag::Value("N"), ["EMBEDDER_THREADS"];

        /// Devices to use, in this order: cuda:1,cuda:0 or cpu or cpu:0,cpu:1 (slots that share the cores) or the
        /// beginning of a UUID (GPU-…) [default: the best that this build has an encoder for]
        devices: Vec<String> = Vec::new() => Kind::List, Flag::Value("DEVICE"), ["EMBEDDER_SEQUENTIAL_DEVICES"];

        /// The library of the NVIDIA driver, where it is not in its place
        nvml_library: Option<PathBuf> = None => Kind::Path, Flag::None, ["EMBEDDER_NVML_LIBRARY"];

        /// Use the CPU even if there is a GPU
        force_cpu: bool = false => Kind::Switch, Flag::On, ["EMBEDDER_FORCE_CPU"];

        /// Most memory of this process on a device in GiB [default: 12 on GPUs of 16 GB, else 0.85 of the device]
        soft_limit_gb: Option<f64> = None => Kind::Decimal, Flag::Value("GIB"), ["EMBEDDER_SOFT_LIMIT_GB"];

        /// Memory that the plan leaves free on each device besides, in GiB [default: 0]
        memory_buffer_gb: f64 = 0.0
            => Kind::Decimal, Flag::Value("GIB"), ["GPU_MODEL_MEMORY_BUFFER_GB", "EMBEDDER_MEMORY_BUFFER_GB"];

        /// Part of a device's memory from which on batches shrink [default: 0.85]
        memory_warning: f64 = 0.85 => Kind::Decimal, Flag::Value("PART"), ["EMBEDDER_MEMORY_WARNING"];

        /// Part of a device's memory from which on batches shrink to half [default: 0.95]
        memory_critical: f64 = 0.95 => Kind::Decimal, Flag::Value("PART"), ["EMBEDDER_MEMORY_CRITICAL"];
    }

    None => {
        /// Best vector instructions to use on the processor, for tests and comparisons
        cpu_instructions: CpuInstructions = CpuInstructions::Auto
            => Kind::Choice(choice::<CpuInstructions>), Flag::Value("SET"), ["EMBEDDER_CPU_INSTRUCTIONS"];

        /// Lease and watch the GPUs as if models ran on them, but compute on the processor: to try out a schedule
        rehearse: bool = false => Kind::Switch, Flag::On, ["EMBEDDER_REHEARSE"];
    }

    LEASES => {
        /// What to do if a device is leased by somebody else [default: fail; wait if --lease-wait is given]
        lease_policy: Option<LeasePolicy> = None
            => Kind::Choice(choice::<LeasePolicy>), Flag::Value("POLICY"), ["EMBEDDER_LEASE_POLICY"];

        /// Wait so long for leased devices, for example 90s, 30m, 2h [default with --lease-policy wait: 30m]
        lease_wait: Option<Seconds> = None => Kind::Text, Flag::Value("TIME"), ["EMBEDDER_LEASE_WAIT"];

        /// What to do if programs without a lease compute on a device [default: refuse]
        foreign: Foreign = Foreign::Refuse
            => Kind::Choice(choice::<Foreign>), Flag::Value("POLICY"), ["EMBEDDER_FOREIGN"];

        /// Directory of the lock files, which all programs that share devices must agree on [default:
        /// /run/lock/embed-collections, else in the user's runtime directory]
        lease_dir: Option<PathBuf> = None => Kind::Path, Flag::Value("DIR"), ["EMBED_LEASE_DIR"];
    }

    RUN => {
        /// Stop cleanly after this time, for example 90s, 15m, 1h30m; the same command goes on later
        max_duration: Option<Seconds> = None => Kind::Text, Flag::Value("TIME"), ["EMBEDDER_MAX_DURATION"];

        /// Name of this run in its outputs [default: made from the time]
        run_id: Option<String> = None => Kind::Text, Flag::Value("NAME"), ["EMBEDDER_RUN_ID"];

        /// Progress on standard error: auto is a bar on a terminal and a line every few seconds elsewhere
        progress: ProgressStyle = ProgressStyle::Auto
            => Kind::Choice(choice::<ProgressStyle>), Flag::Value("STYLE"), ["EMBEDDER_PROGRESS"];

        /// Least of what is worth a log message on standard error [default: info]; debug also tells of each batch
        log_level: LogLevel = LogLevel::Info
            => Kind::Choice(choice::<LogLevel>), Flag::Value("LEVEL"), ["EMBEDDER_LOG_LEVEL"];

        /// Log messages on standard error
        log_format: LogFormat = LogFormat::Text
            => Kind::Choice(choice::<LogFormat>), Flag::Value("STYLE"), ["EMBEDDER_LOG_FORMAT"];
    }
}

impl Settings {
    /// The share that this machine does; resolved settings say which it is if there is any.
    pub fn share(&self) -> Option<Share> {
        self.shard.and_then(ShardWish::share)
    }
}
