//! Devices: what this machine has to encode with, and how much memory is left on it.
//!
//! A device is known by its UUID, for indices depend on who counts: the driver's library by bus address, CUDA by speed
//! and by `CUDA_VISIBLE_DEVICES`. [`Detection`] is what is there, [`choose`] what of it will be used, and [`Probe`] the
//! way to a [`Snapshot`] of its memory; a [`Sampler`] takes them at intervals. The library of the NVIDIA driver is named
//! in `nvml` alone. What cannot be read is `None`, never 0.

mod choice;
mod cpu;
mod detect;
mod info;
mod nvml;
mod probe;
mod sampler;
mod slots;
mod threshold;
mod visible;

pub use choice::{Choice, ChoiceError, Chosen, Wanted, choose};
pub use cpu::{CpuLimits, CpuProbe, cores};
pub use detect::{Detection, Request, Versions, detect};
pub use info::{ComputeCapability, DeviceInfo, DeviceKind, DeviceUuid};
pub use nvml::NvmlProbe;
pub use probe::{Probe, ProbeError, Process, Snapshot};
pub use sampler::{Sample, Sampler, Sampling};
pub use slots::{CpuSlot, SlotError, slots};
pub use threshold::{Crossing, Level, LevelWatch, ThresholdError, Thresholds};
pub use visible::{CudaOrder, End, EndReason, Visible, visible};

/// The kinds of device that this build can encode on.
pub const ENCODERS: &[DeviceKind] = &[
    #[cfg(feature = "cuda")]
    DeviceKind::Cuda,
    #[cfg(feature = "metal")]
    DeviceKind::Metal,
    DeviceKind::Cpu,
];
