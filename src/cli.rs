//! The command line as it is typed. What it means is for `config` to say.

mod devices;
mod lease;
mod models;
mod outputs;

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};
use figment::value::Value;
use serde::Serialize;

pub use devices::{DeviceSettings, DevicesCommand, DoctorCommand};
pub use lease::{LeaseCommand, LeaseRun};
pub use models::{ModelExport, ModelName, ModelSettings, ModelsCommand};
pub use outputs::OutputCommand;

use crate::config::{
    CommandLine, CpuInstructions, Dtype, Foreign, Format, Fusion, LeasePolicy, LogFormat, LogLevel, ProgressStyle,
    Strategy,
};
use crate::domain::VectorKind;

const EXAMPLES: &str = "\
Examples:
  embed-collections                                  embed ./Chunked into ./Embeddings with all-MiniLM-L6-v2
  embed-collections --chunked-dir data --collections docs faq --format parquet
  embed-collections --model ./my-model --prompt-name document --max-length 512
  embed-collections --exclusive-ensemble --ensemble-models all-MiniLM-L6-v2 bge-small-en-v1.5
                                                     each model in turn with all devices, then the mean of both
  embed-collections --incremental                    embed what is new or changed, keep the rest
  embed-collections --overwrite                      throw away what is in the output directory's shards and start anew

Every option can also stand in a TOML file (--config; keys are the long names with _ for -) or in the environment
(EMBEDDER_ and the name in capitals). Command line wins over environment, environment over file.

Exit codes: 0 done, 2 usage, 3 done but some rows or files failed, 4 input, 5 model, 6 devices leased, used or lost,
7 no memory for the model, 8 the output is of another input or model, 9 output cannot be written, 70 internal, 130/143
stopped after a clean commit. After 6, 9, 130 and 143 the same command may be tried again, and goes on where it was.";

/// Embeds chunked text collections: reads JSON, JSON Lines or Parquet chunks, runs an embedding model over them, and
/// writes one vector per chunk, in order, in shards that survive any interruption.
#[derive(Debug, Clone, Parser, Serialize)]
#[command(name = "embed-collections", version, after_help = EXAMPLES, max_term_width = 110)]
#[command(args_conflicts_with_subcommands = true)]
#[serde(rename_all = "snake_case")]
pub struct Arguments {
    /// What to do instead of embedding.
    #[command(subcommand)]
    #[serde(skip)]
    pub command: Option<SubCommand>,

    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,

    /// Input root: each of its directories is a collection of chunk files. Or one chunk file
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    chunked_dir: Option<PathBuf>,

    /// Output root [default: ./Embeddings]
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    output_dir: Option<PathBuf>,

    /// Embed only these collections
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', help_heading = "Input and output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    collections: Option<Vec<String>>,

    /// Kinds of vectors to write: dense, sparse (weights of tokens), multi (a vector for each token) [default: what the
    /// model is for]
    #[arg(long, value_name = "KIND", num_args = 1.., value_delimiter = ',', help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    emit: Option<Vec<VectorKind>>,

    /// Output formats, one or several [default: jsonl]
    #[arg(long, value_name = "FORMAT", num_args = 1.., value_delimiter = ',', help_heading = "Input and output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Vec<Format>>,

    /// Rows in a shard: what is committed at once, and what a crash can cost [default: 1024]
    #[arg(long, value_name = "N", help_heading = "Input and output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    shard_rows: Option<u32>,

    /// Do only this share of the job, which several machines divide among themselves: its number, counted from 0, and how
    /// many there are, such as 3/8; or auto in a SLURM job array, auto/8 in one from 0 to 7 and in a Kubernetes job of 8
    /// completions. All write into one output root; `merge` then makes one output of them
    #[arg(long, value_name = "I/N", help_heading = "Input and output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<String>,

    /// Go on where an earlier run stopped, if input, model and settings are the same. This is the default; with
    /// `EMBEDDER_RESUME=0` any earlier output is refused
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Input and output")]
    #[serde(skip_serializing_if = "is_false")]
    resume: bool,

    /// Throw away what earlier runs wrote for these collections and this model
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Input and output")]
    #[serde(skip_serializing_if = "is_false")]
    overwrite: bool,

    /// Bring earlier outputs up to an input that has changed: texts that are new are embedded, the vectors of the others are
    /// kept, and ids that are gone are listed in `removed.jsonl`
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Input and output")]
    #[serde(skip_serializing_if = "is_false")]
    incremental: bool,

    /// Directory of vectors that runs share: a text is embedded once for each vector space, whatever its collection
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_dir: Option<PathBuf>,

    /// Registry name, hub id (owner/name) or directory [default: all-MiniLM-L6-v2]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,

    /// TOML file of models with short names, which come before the built-in ones (as configs/models.toml is written)
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    models_file: Option<PathBuf>,

    /// Models of an ensemble, in order; the first is the primary one [default once an ensemble is asked for:
    /// jina-code-embeddings-1.5b bge-m3 qwen3-embedding-0.6b]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', help_heading = "Ensemble")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ensemble_models: Option<Vec<String>>,

    /// Weight of each model in the fused vectors, such as bge-m3=0.7 [default: equal]
    #[arg(long, value_name = "MODEL=W", num_args = 1.., value_delimiter = ',', help_heading = "Ensemble")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ensemble_weights: Option<Vec<String>>,

    /// Each model in turn has all devices for itself: lease, load, embed everything, free, hand on
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "no_exclusive_ensemble", help_heading = "Ensemble")]
    #[serde(skip_serializing_if = "is_false")]
    exclusive_ensemble: bool,

    /// Not so, even where it is the default (on Kaggle)
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "exclusive_ensemble", help_heading = "Ensemble")]
    #[serde(skip_serializing_if = "is_false")]
    no_exclusive_ensemble: bool,

    /// How the models of an ensemble take turns: rotate takes every batch through all of them, exclusive one model
    /// through everything [default: rotate]
    #[arg(long, value_name = "STRATEGY", help_heading = "Ensemble")]
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<Strategy>,

    /// Keep models on their devices after their turn, if the plan says that all fit
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Ensemble")]
    #[serde(skip_serializing_if = "is_false")]
    warm_cache_after_release: bool,

    /// One replica of a model on each leased device [default: if there are several]
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "no_data_parallel", help_heading = "Ensemble")]
    #[serde(skip_serializing_if = "is_false")]
    data_parallel: bool,

    /// One replica of a model, on the first device
    #[arg(long, action = ArgAction::SetTrue, overrides_with = "data_parallel", help_heading = "Ensemble")]
    #[serde(skip_serializing_if = "is_false")]
    no_data_parallel: bool,

    /// What to make of the models' vectors besides themselves: their weighted mean, all of them one after the other, or
    /// nothing [default: mean]
    #[arg(long, value_name = "METHOD", help_heading = "Ensemble")]
    #[serde(skip_serializing_if = "Option::is_none")]
    fusion: Option<Fusion>,

    /// Arithmetic of the model's layers [default: auto]
    #[arg(long, value_name = "TYPE", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    dtype: Option<Dtype>,

    /// Longest text in tokens; the rest is cut off and counted. Never more than the model's own limit
    #[arg(long, value_name = "N", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_length: Option<usize>,

    /// Put the model's prompt of this name before every text [default: the first of document, passage, corpus that
    /// the model has, else its default prompt, else none]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_name: Option<String>,

    /// Put this before every text; "" for nothing
    #[arg(long, value_name = "TEXT", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,

    /// Keep the first N components of each vector and normalise again (for Matryoshka models); MODEL=N for one model
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',', help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    truncate_dim: Option<Vec<String>>,

    /// Open no network connection: use model files that are here already
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Model")]
    #[serde(skip_serializing_if = "is_false")]
    offline: bool,

    /// Root of the Hugging Face cache [default: `HF_HOME` or ~/.cache/huggingface]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    #[serde(skip_serializing_if = "Option::is_none")]
    hf_cache_dir: Option<PathBuf>,

    /// Most texts in a batch; MODEL=N for one model [default: what the plan finds room for]
    #[arg(long, value_name = "N", num_args = 1.., value_delimiter = ',', help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<Vec<String>>,

    /// Do not make batches smaller when memory runs short
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Machine")]
    #[serde(skip_serializing_if = "is_false")]
    no_adaptive_batch: bool,

    /// Send no tokens through a model before its first batch
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Machine")]
    #[serde(skip_serializing_if = "is_false")]
    no_warm_up: bool,

    /// Most tokens in a batch of several texts [default: 1024]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_tokens: Option<usize>,

    /// Encoder threads [default: the cores that this process may use]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,

    /// Best vector instructions to use on the processor
    #[arg(long, value_name = "SET", hide = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_instructions: Option<CpuInstructions>,

    /// Devices to use, in this order: cuda:1,cuda:0 or cpu or cpu:0,cpu:1 (slots that share the cores) or the beginning
    /// of a UUID (GPU-…) [default: the best that this build has an encoder for]
    #[arg(long, value_name = "DEVICE", num_args = 1.., value_delimiter = ',', help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Vec<String>>,

    /// Use the CPU even if there is a GPU
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Machine")]
    #[serde(skip_serializing_if = "is_false")]
    force_cpu: bool,

    /// Lease and watch the GPUs as if models ran on them, but compute on the processor: to try out a schedule
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Machine")]
    #[serde(skip_serializing_if = "is_false")]
    rehearse: bool,

    /// Most memory of this process on a device in GiB [default: 12 on GPUs of 16 GB, else 0.85 of the device]
    #[arg(long, value_name = "GIB", help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_limit_gb: Option<f64>,

    /// Memory that the plan leaves free on each device besides, in GiB [default: 0]
    #[arg(long, value_name = "GIB", help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_buffer_gb: Option<f64>,

    /// Part of a device's memory from which on batches shrink [default: 0.85]
    #[arg(long, value_name = "PART", help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_warning: Option<f64>,

    /// Part of a device's memory from which on batches shrink to half [default: 0.95]
    #[arg(long, value_name = "PART", help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_critical: Option<f64>,

    /// What to do if a device is leased by somebody else [default: fail; wait if --lease-wait is given]
    #[arg(long, value_name = "POLICY", help_heading = "Leases")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_policy: Option<LeasePolicy>,

    /// Wait so long for leased devices, for example 90s, 30m, 2h [default with --lease-policy wait: 30m]
    #[arg(long, value_name = "TIME", help_heading = "Leases")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_wait: Option<String>,

    /// What to do if programs without a lease compute on a device [default: refuse]
    #[arg(long, value_name = "POLICY", help_heading = "Leases")]
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<Foreign>,

    /// Directory of the lock files, which all programs that share devices must agree on
    /// [default: /run/lock/embed-collections, else in the user's runtime directory]
    #[arg(long, value_name = "DIR", help_heading = "Leases")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_dir: Option<PathBuf>,

    /// Stop cleanly after this time, for example 90s, 15m, 1h30m; the same command goes on later
    #[arg(long, value_name = "TIME", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_duration: Option<String>,

    /// Name of this run in its outputs [default: made from the time]
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,

    /// Progress on standard error: auto is a bar on a terminal and a line every few seconds elsewhere
    #[arg(long, value_name = "STYLE", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressStyle>,

    /// Least of what is worth a log message on standard error [default: info]; debug also tells of each batch
    #[arg(long, value_name = "LEVEL", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_level: Option<LogLevel>,

    /// Log messages on standard error
    #[arg(long, value_name = "STYLE", help_heading = "Run")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
}

/// What the program does besides embedding.
#[derive(Debug, Clone, Subcommand)]
pub enum SubCommand {
    /// Say what of an output directory is complete, missing or damaged, and what to do about it; reads little
    Status(OutputCommand),
    /// Read everything in an output directory back and hold it against manifests and ledgers; changes nothing
    Verify(OutputCommand),
    /// Make one output of the shares that machines wrote with --shard, the same as a single run's
    Merge(OutputCommand),
    /// List the devices of this machine, their memory and who computes on them
    Devices(DevicesCommand),
    /// Look for what may keep collections from being embedded here, and say what to do about it
    Doctor(DoctorCommand),
    /// Show who holds which devices, or run a program that has devices for itself
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// List the known models, show what one is, fetch its files, or check them
    #[command(subcommand)]
    Models(ModelsCommand),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(switch: &bool) -> bool {
    !switch
}

impl Arguments {
    /// The settings that were typed.
    ///
    /// # Panics
    /// Never: the arguments are plain data and serialise.
    pub fn into_settings(self) -> CommandLine {
        let values = Value::serialize(&self).ok().and_then(Value::into_dict).unwrap_or_default();
        CommandLine { config: self.config, values: values.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::config::{Environment, Settings, VARIABLES, resolve};

    #[test]
    fn every_setting_has_a_flag_and_a_variable() {
        let keys: BTreeSet<String> =
            Value::serialize(Settings::default()).unwrap().into_dict().unwrap().into_keys().collect();
        // Given to every program that uses the hub, by environment alone; and what only odd installations need.
        let hub = ["hf_endpoint", "hf_hub_cache", "nvml_library"];
        // Given by programs that know no flags.
        let variables = ["ensemble", "sequential_ensemble"];
        let command = Arguments::command();
        let flags: BTreeSet<&str> = command.get_arguments().map(|argument| argument.get_id().as_str()).collect();
        for key in &keys {
            let by_flag = flags.contains(key.as_str()) || flags.contains(format!("no_{key}").as_str());
            let by_variable = hub.contains(&key.as_str()) || variables.contains(&key.as_str());
            assert!(by_flag || by_variable, "no flag for {key}");
            assert!(VARIABLES.iter().any(|variable| variable.key == key), "no variable for {key}");
        }
        for flag in flags {
            let key = flag.strip_prefix("no_").unwrap_or(flag);
            assert!(keys.contains(key) || flag == "config", "no setting for --{flag}");
        }
    }

    #[track_caller]
    fn check(arguments: &[&str], expected: impl FnOnce(&mut Settings)) {
        let arguments = Arguments::try_parse_from([&["embed-collections"], arguments].concat()).unwrap();
        let mut settings = Settings::default();
        expected(&mut settings);
        assert_eq!(resolve(&arguments.into_settings(), &Environment::default()).unwrap().settings, settings);
    }

    #[test]
    fn flags_become_settings() {
        check(&[], |_| {});
        check(&["--chunked-dir", "in", "--output-dir", "out"], |settings| {
            settings.chunked_dir = "in".into();
            settings.output_dir = "out".into();
        });
        check(&["--collections", "a", "b", "--format", "npy,parquet"], |settings| {
            settings.collections = vec!["a".into(), "b".into()];
            settings.format = vec![Format::Npy, Format::Parquet];
        });
        check(&["--overwrite", "--force-cpu", "--offline", "--resume=x"][..3], |settings| {
            (settings.overwrite, settings.force_cpu, settings.offline) = (true, true, true);
        });
        check(&["--prompt", "", "--max-duration", "1h", "--threads", "3"], |settings| {
            settings.prompt = Some(String::new());
            settings.max_duration = Some("1h".parse().unwrap());
            settings.threads = Some(3);
        });
        check(&["--exclusive-ensemble", "--ensemble-models", "a", "b", "--batch-size", "a=8", "64"], |settings| {
            settings.exclusive_ensemble = Some(true);
            settings.ensemble_models = vec!["a".into(), "b".into()];
            settings.batch_size = serde_json::from_str(r#"["a=8", "64"]"#).unwrap();
        });
        check(&["--exclusive-ensemble", "--no-exclusive-ensemble", "--no-data-parallel"], |settings| {
            settings.exclusive_ensemble = Some(false);
            settings.data_parallel = Some(false);
        });
    }
}
