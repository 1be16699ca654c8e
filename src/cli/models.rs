//! `models` as it is typed.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use crate::config::CommandLine;

/// What to do with models.
#[derive(Debug, Clone, Subcommand)]
pub enum ModelsCommand {
    /// List the models that have short names
    List {
        /// Settings that bear on models.
        #[command(flatten)]
        settings: ModelSettings,
    },
    /// Show what is known of a model and what its files say; of a model that is not on this machine, the hub is asked for
    /// all but the weights
    Show(ModelName),
    /// Fetch the files of a model that embedding would fetch, and say where they are
    Pull(ModelName),
    /// Write what a run needs of a model into a directory, fetching it first if need be; on a machine without a network,
    /// pass the directory as the model
    Export(ModelExport),
    /// Check a model's files on this machine: that all weights are there and whole, and, where the directory has a
    /// reference.json, that the vectors are those in it; fetches nothing
    Verify(ModelName),
}

/// A model and the settings that bear on it.
#[derive(Debug, Clone, Args)]
pub struct ModelName {
    /// Short name, hub id (owner/name) or directory
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Settings that bear on models.
    #[command(flatten)]
    pub settings: ModelSettings,
}

/// A model and where to write it.
#[derive(Debug, Clone, Args)]
pub struct ModelExport {
    /// The model.
    #[command(flatten)]
    pub model: ModelName,

    /// Directory to write; it must be empty or not be there
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,

    /// Replace the model that the directory holds
    #[arg(long)]
    pub overwrite: bool,
}

/// The settings that bear on models.
#[derive(Debug, Clone, Args)]
pub struct ModelSettings {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// TOML file of models with short names, which come before the built-in ones
    #[arg(long, value_name = "FILE")]
    models_file: Option<PathBuf>,

    /// Root of the Hugging Face cache [default: `HF_HOME` or ~/.cache/huggingface]
    #[arg(long, value_name = "DIR")]
    hf_cache_dir: Option<PathBuf>,

    /// Open no network connection
    #[arg(long, action = ArgAction::SetTrue)]
    offline: bool,

    /// One JSON object instead of text (schema: configs/schemas/models.schema.json)
    #[arg(long)]
    pub json: bool,
}

impl ModelSettings {
    /// The settings that were typed.
    pub fn into_settings(self) -> CommandLine {
        let line = CommandLine { config: self.config, values: Vec::new() };
        let line = line.with("models_file", self.models_file).with("hf_cache_dir", self.hf_cache_dir);
        line.with_switch("offline", self.offline)
    }
}
