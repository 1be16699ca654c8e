//! `devices` and `doctor` as they are typed: the settings that bear on devices, and what is shown of them.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::config::{CommandLine, Seconds};

/// Arguments of `devices`.
#[derive(Debug, Clone, Args)]
pub struct DevicesCommand {
    /// Settings that bear on devices.
    #[command(flatten)]
    pub settings: DeviceSettings,

    /// One JSON object instead of a table (schema: configs/schemas/devices.schema.json); with --watch one a line
    #[arg(long)]
    pub json: bool,

    /// Look again at this interval, for example 5s, until stopped; tells when memory runs short or a device is lost
    #[arg(long, value_name = "TIME")]
    pub watch: Option<Seconds>,

    /// With --watch: stop after so many looks
    #[arg(long, value_name = "N", requires = "watch")]
    pub samples: Option<u32>,
}

/// Arguments of `doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorCommand {
    /// Settings that bear on devices.
    #[command(flatten)]
    pub settings: DeviceSettings,

    /// Output root to look at [default: ./Embeddings]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,

    /// Root of the Hugging Face cache to look at [default: ~/.cache/huggingface]
    #[arg(long, value_name = "DIR")]
    pub hf_cache_dir: Option<PathBuf>,
}

/// The settings that bear on devices.
#[derive(Debug, Clone, Args)]
pub struct DeviceSettings {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Devices to use: cuda:1,cuda:0 or cpu or cpu:0,cpu:1 or the beginning of a UUID (GPU-…)
    #[arg(long, value_name = "DEVICE", num_args = 1.., value_delimiter = ',')]
    devices: Option<Vec<String>>,

    /// Use the CPU even if there is a GPU
    #[arg(long, action = ArgAction::SetTrue)]
    force_cpu: bool,
}

impl DeviceSettings {
    /// The settings that were typed.
    pub fn into_settings(self) -> CommandLine {
        let line = CommandLine { config: self.config, values: Vec::new() };
        line.with("devices", self.devices).with_switch("force_cpu", self.force_cpu)
    }
}

impl DoctorCommand {
    /// The settings that were typed.
    pub fn into_settings(self) -> CommandLine {
        let line = self.settings.into_settings();
        line.with("output_dir", self.output_dir).with("hf_cache_dir", self.hf_cache_dir)
    }
}
