//! What a failure says about the device.

/// What a failed operation says about the device that it ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Too little memory left: a smaller batch may fit.
    OutOfMemory,
    /// The device is gone, or this process can compute nothing on it any more; a new process may.
    DeviceLost,
    /// This build has no code for the device, or for this dtype on it.
    NoKernel,
    /// The model or the batch is at fault, and will be again.
    Other,
}
