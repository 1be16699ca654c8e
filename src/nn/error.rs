//! Why an operation of a backend failed.

use std::error::Error;

use crate::domain::FailureKind;

/// An operation that a backend could not carry out.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// The tokenizer gives a token that the model does not know, or a position beyond its last.
    #[error("token {index} is beyond the {entries} entries of a table")]
    IndexOutOfRange {
        /// The index.
        index: u32,
        /// Size of the table.
        entries: usize,
    },
    /// The tensor library or the device failed.
    #[error("{}: {source}{}", before(*kind), after(*kind))]
    Failed {
        /// What it says about the device.
        kind: FailureKind,
        /// The library's error.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl NnError {
    /// An error that says nothing about the device.
    pub(crate) fn other(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { kind: FailureKind::Other, source: source.into() }
    }

    /// What it says about the device.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::IndexOutOfRange { .. } => FailureKind::Other,
            Self::Failed { kind, .. } => *kind,
        }
    }
}

fn before(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::OutOfMemory => "the device is out of memory",
        FailureKind::DeviceLost => "the device is lost to this process",
        FailureKind::NoKernel => "this build has no code for the device",
        FailureKind::Other => "tensor operation failed",
    }
}

fn after(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::NoKernel => {
            "; build with CUDA_COMPUTE_CAP=75 for compute capability 7.5, with 80 for 8.0 and newer"
        }
        _ => "",
    }
}
