//! The whole job: collections in, vectors of one or several models out. What the command line does is here, for programs
//! as well.
//!
//! Each model is staged (its directory read, its weights mapped), takes its turn on the devices under a lease, and
//! leaves; then the members' vectors are fused. Whatever happens after the output directory is locked is in its
//! `events.jsonl` and `run-summary.json`.
//!
//! ```
//! use embed_collections::config::{Fusion, Settings};
//! use embed_collections::embedder::{Embedder, EnsembleConfig};
//! use embed_collections::pipeline::StopSwitch;
//! use embed_collections::telemetry::event::Observers;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let leases = directory.path().join("leases");
//! let embedder = Embedder::of_program(Settings {
//!     chunked_dir: "tests/data/Chunked".into(),
//!     output_dir: directory.path().join("Embeddings"),
//!     offline: true,
//! #   lease_dir: Some(leases),
//!     ..Settings::from(EnsembleConfig {
//!         ensemble_models: vec!["tests/fixtures/models/bert-minilm".into(), "tests/fixtures/models/bert-bge".into()],
//!         exclusive_mode: true,
//!         preferred_devices: vec!["cpu".into()],
//!         weights: [("bert-minilm".into(), 0.7), ("bert-bge".into(), 0.3)].into(),
//!         ..EnsembleConfig::default()
//!     })
//! })?;
//! let finished = embedder.run(&StopSwitch::default(), &Observers::default())?;
//! assert_eq!(finished.exit_code, 0);
//! assert_eq!(finished.summary.ensemble_mode, "exclusive");
//! assert_eq!(finished.summary.models_executed, ["bert-minilm", "bert-bge"]);
//! assert!(directory.path().join("Embeddings/tidepool/fused/manifest.json").exists());
//! # Ok(())
//! # }
//! ```

mod arithmetic;
mod batches;
mod collection;
mod devices;
mod error;
mod fitting;
mod fuse;
mod gpus;
mod held;
mod job;
mod learned;
mod limit;
mod lost;
mod machine;
mod report;
mod reuse;
mod run;
mod slot;
mod space;
mod spare;
mod staged;
#[cfg(test)]
mod tests;
mod turn;
mod update;
mod watch;

pub use devices::{Devices, choice, look, thresholds, unused_devices};
pub use error::{EmbedError, ModelError, ModelFault, with_causes};
pub use limit::LimitOrigin;
pub use space::default_space;
pub use staged::{find_files, peek_files};

use std::collections::BTreeMap;

use crate::config::{Environment, PerModel, Resolved, Settings};
use crate::model::registry::Registry;
use crate::pipeline::StopSwitch;
use crate::telemetry::Summary;
use crate::telemetry::event::Observer;

use self::slot::DeviceSlot;

/// An ensemble, for programs. All else is in [`Settings`].
#[derive(Debug, Clone, PartialEq)]
pub struct EnsembleConfig {
    /// Registry names, hub ids or directories, in order; the first is the primary one.
    pub ensemble_models: Vec<String>,
    /// One model after the other; else every batch of texts goes through all of them, which are loaded together.
    pub sequential_passes: bool,
    /// Each model has a lease of its own on all devices. Implies sequential passes.
    pub exclusive_mode: bool,
    /// Models stay on their devices until the run ends, if all fit.
    pub warm_cache_after_release: bool,
    /// A replica on each device; by default if there are several.
    pub sequential_data_parallel: Option<bool>,
    /// As in `--devices`; by default the best available.
    pub preferred_devices: Vec<String>,
    /// Weight of each model in fused vectors; equal if empty.
    pub weights: BTreeMap<String, f64>,
}

impl Default for EnsembleConfig {
    fn default() -> Self {
        Self {
            ensemble_models: Vec::new(),
            sequential_passes: true,
            exclusive_mode: false,
            warm_cache_after_release: false,
            sequential_data_parallel: None,
            preferred_devices: Vec::new(),
            weights: BTreeMap::new(),
        }
    }
}

impl From<EnsembleConfig> for Settings {
    fn from(config: EnsembleConfig) -> Self {
        Self {
            ensemble_models: config.ensemble_models,
            ensemble_weights: PerModel { all: None, models: config.weights },
            exclusive_ensemble: Some(config.exclusive_mode),
            sequential_ensemble: Some(config.sequential_passes || config.exclusive_mode),
            warm_cache_after_release: config.warm_cache_after_release,
            data_parallel: config.sequential_data_parallel,
            devices: config.preferred_devices,
            ..Self::default()
        }
    }
}

/// Embeds collections with the models of an ensemble, or with one.
pub struct Embedder {
    resolved: Resolved,
    registry: Registry,
    devices: Devices,
    places: Vec<DeviceSlot>,
}

/// What a run that came to its end leaves.
#[derive(Debug)]
pub struct Finished {
    /// As it is in `run-summary.json`.
    pub summary: Summary,
    /// One of those in [`exit`](crate::exit): 0, or what was not as it should be although the run came to its end.
    pub exit_code: u8,
    /// Whether every row that was to be embedded is.
    pub complete: bool,
}

impl Embedder {
    /// Looks for the devices; nothing is loaded and nothing is leased yet.
    ///
    /// # Errors
    /// If a device that is asked for is not there or of no use, or the user's file of models is broken.
    pub fn new(resolved: Resolved) -> Result<Self, EmbedError> {
        let registry = Registry::with_file(resolved.settings.models_file.as_deref())?;
        let devices = Devices::find(&resolved)?;
        let places = devices.places(&resolved.settings)?;
        Ok(Self { resolved, registry, devices, places })
    }

    /// The embedder of a program: these settings over the machine's.
    ///
    /// # Errors
    /// If the settings contradict each other or the devices are not there.
    pub fn of_program(settings: Settings) -> Result<Self, EmbedError> {
        Self::new(Resolved::of_program(settings, &Environment::of_process())?)
    }

    /// Embeds what the settings name. The observer is told of everything; files are written in any case.
    ///
    /// # Errors
    /// [`EmbedError`], which knows its exit code. What was committed before stays.
    pub fn run(&self, stop: &StopSwitch, observer: &dyn Observer) -> Result<Finished, EmbedError> {
        run::run(self, stop, observer)
    }
}
