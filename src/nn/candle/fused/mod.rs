//! Operations on NVIDIA's GPUs by kernels of the project's own, where candle's would pass over memory several times or
//! make what is as large as length times length.
//!
//! Each does what the plain tensors beside it do, which are its twins: they run on all other devices, and on these in
//! cases that a kernel does not take. Which those are is said by a rule of each, before anything is launched.

/// Largest heads that the kernels for attention take.
pub const LARGEST_FUSED_HEAD: usize = 256;

pub(super) mod attention;
pub(super) mod norm;
pub(super) mod pointwise;
