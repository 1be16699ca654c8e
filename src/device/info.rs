//! What is known of a device and does not change.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::domain::Bytes;

/// What a device is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A GPU of NVIDIA.
    Cuda,
    /// The GPU of an Apple processor.
    Metal,
    /// The processor.
    Cpu,
}

impl DeviceKind {
    /// As in `--devices`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Cpu => "cpu",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// The name of a device that is the same for every process and after every renumbering: `GPU-…`, `MIG-…`; on devices
/// without one their kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DeviceUuid(pub String);

impl fmt::Display for DeviceUuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

/// Generation of a GPU of NVIDIA: 7.5 is Turing, 8.0 Ampere, 9.0 Hopper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ComputeCapability {
    /// Before the point.
    pub major: u32,
    /// After the point.
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("{}.{}", self.major, self.minor))
    }
}

impl Serialize for ComputeCapability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// What it is.
    pub kind: DeviceKind,
    /// Its number among the devices of its kind, for whoever made the list: of no meaning elsewhere.
    pub index: u32,
    /// What it is known by.
    pub uuid: DeviceUuid,
    /// The product.
    pub name: String,
    /// Its memory.
    #[serde(rename = "total_bytes")]
    pub total: Option<Bytes>,
    /// Its generation; CUDA only.
    pub compute_capability: Option<ComputeCapability>,
    /// Whether it is divided into instances (MIG); CUDA only.
    pub mig: Option<bool>,
}

impl DeviceInfo {
    /// As in `--devices`: `cuda:0`, `cpu`.
    pub fn label(&self) -> String {
        match self.kind {
            DeviceKind::Cpu => "cpu".to_owned(),
            kind => format!("{kind}:{}", self.index),
        }
    }
}
