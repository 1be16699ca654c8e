//! Settings: what the user wants, as plain data, with the source of every value.
//!
//! A setting has one key and up to three ways in: the configuration file, the environment and the command line, each
//! over the one before. [`resolve`] lays them on top of the defaults, remembers which layer each value came from, and
//! refuses what is unknown, unreadable or contradictory. No other module reads the environment.

mod ensemble;
mod environment;
mod error;
mod layers;
mod merge;
mod per_model;
mod settings;
mod shard;
mod validate;
mod values;

pub use ensemble::{DEFAULT_ENSEMBLE, Ensemble, Mode};
pub use environment::{CudaEnvironment, Environment, Places};
pub use error::{ConfigError, EnvironmentError};
pub use layers::{CommandLine, Resolved, resolve};
pub use per_model::PerModel;
pub use settings::{Flag, Kind, SETTINGS, Setting, Settings};
pub use shard::ShardWish;
pub use values::{CpuInstructions, Dtype, Format, Fusion, LogFormat, LogLevel, ProgressStyle, Seconds, Strategy};

pub use crate::domain::{Foreign, LeasePolicy};
