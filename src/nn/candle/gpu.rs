//! A GPU that is open: its context, its stream, its memory pool.
//!
//! It is opened by UUID, once in a process, and cloned: each opening would be another device to candle. All its work is on
//! one stream, so that threads that load, warm up, encode and drop a model are ordered. Only results are copied on
//! another stream, during the next batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor};

use super::Numbers;
use crate::nn::{NnError, Pending};

/// A GPU on which models can be loaded.
#[derive(Debug, Clone)]
pub struct Gpu {
    device: Device,
    /// As the driver writes it.
    name: String,
    capability: Option<(u32, u32)>,
    /// What this process holds of its memory beside the pool, in bytes.
    beside: Arc<AtomicU64>,
    /// Where results are copied while the next batch is computed.
    #[cfg(feature = "cuda")]
    copies: Option<super::cuda::Copies>,
}

/// Assumed size of a CUDA context with its libraries, until measured: 300 to 500 MiB on the cards in use.
#[cfg(any(feature = "cuda", feature = "metal"))]
const USUAL_CONTEXT: u64 = 512 << 20;

/// Memory of this process on a GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Of tensors.
    pub used: u64,
    /// The same and what is kept for later ones.
    pub reserved: u64,
}

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// This build has no encoder for it.
    #[error("this program was built without {kind}; build it with --features {kind}, or use --devices cpu")]
    NotBuilt {
        /// What it was built without.
        kind: &'static str,
    },
    /// CUDA or Metal could not be started on it.
    #[error(
        "{device} cannot be opened: {fault}; a driver as new as the toolkit of this build is needed, and cuBLAS and cuRAND where the loader finds them (LD_LIBRARY_PATH); or use --devices cpu"
    )]
    Open {
        /// Which.
        device: String,
        /// Why not.
        #[source]
        fault: Box<NnError>,
    },
    /// The driver's library for looking at devices knows it, CUDA does not.
    #[error("CUDA does not know {uuid}; it knows {known}: is it hidden by CUDA_VISIBLE_DEVICES, or divided since?")]
    Unknown {
        /// What was looked for.
        uuid: String,
        /// What there is.
        known: String,
    },
    /// The kernels of this build do not run on it.
    #[error(
        "this program was built for compute capability {built}, which {device} with {} does not run; use the build for \
         {}, or --devices cpu", shown(*.found), artefact(*.found)
    )]
    Capability {
        /// Which.
        device: String,
        /// What the build is for.
        built: String,
        /// What the device has.
        found: (u32, u32),
    },
    /// It is older than what the kernels of `FlashAttention` run on.
    #[error(
        "this program was built with flash-attn, whose kernels need compute capability 8.0, and {device} has {}; use a \
         build without it (--features cuda), or --devices cpu", shown(*.found)
    )]
    TooOldForFlash {
        /// Which.
        device: String,
        /// What it has.
        found: (u32, u32),
    },
    /// It cannot compute in these numbers.
    #[error(
        "{device} with compute capability {} has no {numbers} in this build; use --dtype f16, f32 or auto", shown(*.found)
    )]
    Lacks {
        /// Which.
        device: String,
        /// What it has.
        found: (u32, u32),
        /// What was asked for.
        numbers: Numbers,
    },
}

fn shown((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// The value of `CUDA_COMPUTE_CAP` whose build runs on a device.
fn artefact((major, minor): (u32, u32)) -> &'static str {
    if (major, minor) >= (8, 0) { "CUDA_COMPUTE_CAP=80" } else { "CUDA_COMPUTE_CAP=75" }
}

/// From here on GPUs compute in bf16, and run the kernels of `FlashAttention` 2.
const AMPERE: (u32, u32) = (8, 0);

/// What the kernels of this build are compiled for, as `CUDA_COMPUTE_CAP` has it, where that was said.
const BUILT_FOR: Option<&str> = option_env!("EMBED_COLLECTIONS_CUDA_CAPABILITY");

/// The number of a capability such as 80 or 90a.
fn number(built: &str) -> Option<u32> {
    built.trim_end_matches(|character: char| character.is_ascii_alphabetic()).parse().ok()
}

/// Kernels for bf16 are left out when they are compiled for older devices, and so are not there on newer ones either.
fn has_bf16(number: u32) -> bool {
    (number / 10, number % 10) >= AMPERE
}

/// Whether kernels built for a capability (such as 80, or 90a) run on a device: the driver compiles PTX for every later
/// device, but that of variants with a letter for one alone. cudaforge adds the letter from 90 on.
#[cfg(any(feature = "cuda", test))]
pub(super) fn runs(built: &str, found: (u32, u32)) -> bool {
    let Some(number) = number(built) else { return true };
    let built_for = (number / 10, number % 10);
    if built.ends_with(|character: char| character.is_ascii_alphabetic()) || number >= 90 {
        found == built_for
    } else {
        found >= built_for
    }
}

impl Gpu {
    /// Opens the GPU of NVIDIA with this UUID, as the driver writes it.
    ///
    /// # Errors
    /// [`GpuError`].
    #[cfg(feature = "cuda")]
    pub fn cuda(uuid: &str) -> Result<Self, GpuError> {
        let (device, copies, capability) = super::cuda::open(uuid)?;
        let found = capability;
        match BUILT_FOR {
            Some(built) if !runs(built, found) => {
                Err(GpuError::Capability { device: uuid.to_owned(), built: built.to_owned(), found })
            }
            _ if cfg!(feature = "flash-attn") && found < AMPERE => {
                Err(GpuError::TooOldForFlash { device: uuid.to_owned(), found })
            }
            _ => Ok(Self { copies: Some(copies), ..Self::new(device, uuid.to_owned(), Some(capability)) }),
        }
    }

    /// The same in a build without CUDA.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "cuda"))]
    pub fn cuda(_uuid: &str) -> Result<Self, GpuError> {
        Err(GpuError::NotBuilt { kind: "cuda" })
    }

    /// Opens a GPU of Apple's.
    ///
    /// # Errors
    /// [`GpuError`].
    #[cfg(feature = "metal")]
    pub fn metal(index: usize) -> Result<Self, GpuError> {
        let name = format!("metal:{index}");
        let fault = |error: candle_core::Error| GpuError::Open { device: name.clone(), fault: Box::new(error.into()) };
        Ok(Self::new(Device::new_metal(index).map_err(fault)?, name.clone(), None))
    }

    /// The same in a build without Metal.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "metal"))]
    pub fn metal(_index: usize) -> Result<Self, GpuError> {
        Err(GpuError::NotBuilt { kind: "metal" })
    }

    /// Whether it computes in these numbers, and what to do if not.
    ///
    /// # Errors
    /// [`GpuError::Lacks`].
    pub fn check(&self, numbers: Numbers) -> Result<(), GpuError> {
        match self.capability {
            Some(found) if !numbers.run_on(found) => Err(GpuError::Lacks { device: self.name.clone(), found, numbers }),
            _ => Ok(()),
        }
    }

    /// Waits for all work, clears deferred errors, and releases the pool's cached memory to the driver.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn settle(&self) -> Result<(), NnError> {
        settle(&self.device)
    }

    /// What this process holds of its memory, as far as the allocator counts it: CUDA only.
    pub fn pool(&self) -> Option<Pool> {
        pool(&self.device)
    }

    /// Records the driver's count of this process's memory, while nothing runs.
    pub fn note(&self, process_bytes: u64) {
        if let Some(pool) = self.pool() {
            self.beside.store(process_bytes.saturating_sub(pool.reserved), Ordering::Relaxed);
        }
    }

    /// See [`Backend::take_peak`](crate::nn::Backend::take_peak): tensors by the allocator's count, the rest as last
    /// noted.
    pub fn take_peak(&self) -> Option<u64> {
        Some(take_peak(&self.device)?.saturating_add(self.beside.load(Ordering::Relaxed)))
    }

    #[cfg(any(feature = "cuda", feature = "metal"))]
    fn new(device: Device, name: String, capability: Option<(u32, u32)>) -> Self {
        Self {
            device,
            name,
            capability,
            beside: Arc::new(AtomicU64::new(USUAL_CONTEXT)),
            #[cfg(feature = "cuda")]
            copies: None,
        }
    }

    /// Whether it computes while this thread goes on.
    #[cfg_attr(not(feature = "cuda"), expect(clippy::unused_self, reason = "with CUDA it depends on the device"))]
    pub(super) fn computes_apart(&self) -> bool {
        #[cfg(feature = "cuda")]
        let apart = self.copies.is_some();
        #[cfg(not(feature = "cuda"))]
        let apart = false;
        apart
    }

    /// Numbers in f32 that come to the host when they are asked for.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unused_self, clippy::needless_pass_by_value, reason = "with CUDA the tensor is kept for later")
    )]
    pub(super) fn copied_later(&self, tensor: Tensor) -> Result<Pending, NnError> {
        #[cfg(feature = "cuda")]
        if let Some(copies) = &self.copies {
            return copies.later(tensor);
        }
        Ok(Pending::ready(tensor.to_vec1()?))
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }
}

/// See [`Gpu::settle`].
pub(super) fn settle(device: &Device) -> Result<(), NnError> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return super::cuda::settle(device);
    }
    Ok(device.synchronize()?)
}

#[cfg(feature = "cuda")]
fn pool(device: &Device) -> Option<Pool> {
    super::cuda::pool(device.as_cuda_device().ok()?).ok().flatten()
}

/// The most that tensors took since this was asked before.
#[cfg(feature = "cuda")]
fn take_peak(device: &Device) -> Option<u64> {
    super::cuda::take_peak(device.as_cuda_device().ok()?).ok().flatten()
}

/// The most that tensors took since this was asked before.
#[cfg(not(feature = "cuda"))]
fn take_peak(_device: &Device) -> Option<u64> {
    None
}

#[cfg(not(feature = "cuda"))]
fn pool(_device: &Device) -> Option<Pool> {
    None
}

impl Numbers {
    /// Whether a GPU of NVIDIA with this compute capability computes in them, with the kernels of this build.
    pub fn run_on(self, capability: (u32, u32)) -> bool {
        self != Self::Bf16 || (capability >= AMPERE && BUILT_FOR.and_then(number).is_none_or(has_bf16))
    }

    pub(super) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(built: &str, found: (u32, u32), expected: bool) {
        assert_eq!(runs(built, found), expected, "{built} on {found:?}");
    }

    #[test]
    fn kernels_run_on_their_own_and_later_devices() {
        check("75", (7, 5), true);
        check("75", (9, 0), true);
        check("80", (8, 9), true);
        check("80", (12, 0), true);
        check("80", (7, 5), false);
        check("86", (8, 0), false);
    }

    #[test]
    fn kernels_of_a_variant_run_on_one_device_alone() {
        check("90", (9, 0), true);
        check("90", (10, 0), false);
        check("90a", (8, 9), false);
        check("unknown", (8, 0), true);
    }

    #[test]
    fn bf16_needs_a_device_and_a_build_that_have_it() {
        assert!(has_bf16(80) && has_bf16(120) && !has_bf16(75));
        assert_eq!((number("90a"), number("75"), number("native")), (Some(90), Some(75), None));
        assert!(!Numbers::Bf16.run_on((7, 5)) && Numbers::F16.run_on((7, 5)) && Numbers::F32.run_on((7, 5)));
    }

    #[test]
    fn the_error_says_which_build_is_needed() {
        let error = |found| GpuError::Capability { device: "GPU-1".to_owned(), built: "90".to_owned(), found };
        assert!(error((7, 5)).to_string().contains("CUDA_COMPUTE_CAP=75"), "{}", error((7, 5)));
        assert!(error((8, 9)).to_string().contains("CUDA_COMPUTE_CAP=80"), "{}", error((8, 9)));
    }

    #[test]
    fn the_error_of_an_old_device_says_which_build_runs_there() {
        let error = GpuError::TooOldForFlash { device: "GPU-1".to_owned(), found: (7, 5) }.to_string();
        assert!(["GPU-1", "7.5", "--features cuda"].iter().all(|part| error.contains(part)), "{error}");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so() {
        assert!(Gpu::cuda("GPU-1").unwrap_err().to_string().contains("built without cuda"));
    }
}
