//! The command line as it is typed. What it means is for `config` to say.

mod devices;
mod lease;
mod models;
mod outputs;
mod settings;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use devices::{DeviceSettings, DevicesCommand, DoctorCommand};
pub use lease::{LeaseCommand, LeaseRun};
pub use models::{ModelExport, ModelName, ModelSettings, ModelsCommand};
pub use outputs::OutputCommand;

use self::settings::SettingArguments;
use crate::config::CommandLine;

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
#[derive(Debug, Clone, Parser)]
#[command(name = "embed-collections", version, after_help = EXAMPLES, max_term_width = 110)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to do instead of embedding.
    #[command(subcommand)]
    pub command: Option<SubCommand>,

    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// All settings.
    #[command(flatten)]
    settings: SettingArguments,
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

impl Arguments {
    /// The settings that were typed.
    pub fn into_settings(self) -> CommandLine {
        CommandLine { config: self.config, values: self.settings.0 }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::{CpuInstructions, Environment, Flag, Format, SETTINGS, Settings, resolve};

    #[test]
    fn every_row_has_one_way_in_at_least() {
        let command = Arguments::command();
        for setting in SETTINGS {
            let has_flag = command.get_arguments().any(|argument| {
                let id = argument.get_id().as_str();
                id == setting.key || id.strip_prefix("no_") == Some(setting.key)
            });
            assert_eq!(has_flag, !matches!(setting.flag, Flag::None), "{}", setting.key);
            assert!(!setting.variables.is_empty(), "{}", setting.key);
        }
        command.debug_assert();
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
        check(&["--shard-rows", "7"], |settings| settings.part_rows = 7);
        check(&["--shard-rows", "7", "--part-rows", "8"], |settings| settings.part_rows = 8);
        // Flags that the help does not show.
        check(&["--rehearse", "--cpu-instructions", "avx2", "--no-warm-up"], |settings| {
            (settings.rehearse, settings.warm_up) = (true, false);
            settings.cpu_instructions = CpuInstructions::Avx2;
        });
        check(&["--exclusive-ensemble", "--no-exclusive-ensemble", "--no-data-parallel"], |settings| {
            settings.exclusive_ensemble = Some(false);
            settings.data_parallel = Some(false);
        });
    }
}
