//! Why a model cannot be built from its files.

use crate::model::weights::WeightError;
use crate::nn::{GpuError, NnError};

/// A model that cannot be built from its files.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A key of `config.json` is missing or of the wrong kind.
    #[error("config.json: {0}")]
    Config(serde_json::Error),
    /// A key of `config.json` has a value of the wrong kind.
    #[error("config.json: {key}: {source}")]
    Key {
        /// The key.
        key: String,
        /// What was expected.
        source: serde_json::Error,
    },
    /// A key of `config.json` asks for something that is not implemented.
    #[error("config.json asks for {key} = {value}, which is not implemented; supported: {supported}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would do.
        supported: &'static str,
    },
    /// A tensor is missing, of the wrong shape or unreadable.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// A static model's `mapping` leads out of its table.
    #[error("the tensor mapping names row {row} of a table of {rows}; fetch the model anew")]
    Mapping {
        /// The row that a token is said to have.
        row: i64,
        /// How many there are.
        rows: usize,
    },
    /// The device does not compute what is asked of it.
    #[error(transparent)]
    Device(#[from] GpuError),
    /// A tensor could not be placed on the device.
    #[error(transparent)]
    Operation(#[from] NnError),
}

impl LoadError {
    /// A key whose value is not implemented.
    pub(super) fn unsupported(key: &'static str, value: &impl std::fmt::Display, supported: &'static str) -> Self {
        Self::Unsupported { key, value: value.to_string(), supported }
    }
}
