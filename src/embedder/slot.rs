//! One device as a run uses it.

use crate::device::DeviceUuid;
use crate::lease::DeviceKey;

/// A device that a run uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceSlot {
    /// As in `--devices`.
    pub label: String,
    /// CUDA's number of it; none for a part of the processor.
    pub id: Option<u32>,
    /// By which its memory is looked at.
    pub uuid: DeviceUuid,
    /// By which it is leased.
    pub key: DeviceKey,
    /// Encoder threads.
    pub threads: usize,
}

impl DeviceSlot {
    /// Whether it is a GPU, with memory of its own.
    pub(super) fn is_gpu(&self) -> bool {
        self.id.is_some()
    }
}
