//! Launches the project's own kernels, whose sources are in `kernels`; `src/build.rs` compiles them. Arguments are in the
//! order of the kernel's parameters, which nothing checks: each caller says why they fit.

use candle_core::{DType, Device, Tensor};

use crate::nn::NnError;

/// A source of kernels; all of a module are loaded with the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Module {
    /// Attention, a module for each kind of numbers.
    Attention,
    /// Layer norm and RMS norm over sums.
    Norm,
    /// Norms of heads and rotary positions.
    Place,
    /// What follows a linear layer.
    Pointwise,
}

/// What a kernel is given in place of one of its parameters.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "read where there is something to launch"))]
pub(super) enum Argument<'a> {
    /// Where the numbers of a tensor begin.
    Tensor(&'a Tensor),
    /// The same, or null.
    Maybe(Option<&'a Tensor>),
    /// Where those behind so many begin.
    Behind(&'a Tensor, usize),
    Int(i32),
    Long(u64),
    Float(f32),
}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "read where there is something to launch"))]
pub(super) struct Shape {
    /// Along the first dimension, which alone may be large.
    pub(super) blocks: usize,
    /// Of a block.
    pub(super) threads: usize,
    /// Shared memory of a block, in bytes.
    pub(super) shared_bytes: usize,
}

/// Most blocks of a launch, by the documentation of every compute capability.
const MAX_BLOCKS: usize = (1 << 31) - 1;

/// Shared memory that every device gives to a block, in bytes.
pub(super) const MAX_SHARED: usize = 48 << 10;

/// The kinds of numbers that there are kernels for, as their names have them.
pub(super) fn suffix(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("f32"),
        DType::F16 => Some("f16"),
        DType::BF16 => Some("bf16"),
        _ => None,
    }
}

/// A count as kernels take it. None that does not fit gets here: what is counted is in memory, rows of it at least.
pub(super) fn int(count: usize) -> Argument<'static> {
    Argument::Int(i32::try_from(count).unwrap_or(i32::MAX))
}

/// Whether rows of this width can be read and written sixteen bytes at a time.
pub(super) fn is_aligned(width: usize, tensors: &[&Tensor]) -> bool {
    let numbers = |tensor: &Tensor| 16 / tensor.dtype().size_in_bytes();
    tensors.iter().all(|tensor| width.is_multiple_of(numbers(tensor)) && starts_aligned(tensor))
}

/// Memory of a device begins at multiples of 256 bytes; a tensor may begin within it.
fn starts_aligned(tensor: &Tensor) -> bool {
    (tensor.layout().start_offset() * tensor.dtype().size_in_bytes()).is_multiple_of(16)
}

/// Numbers that a kernel is to write.
///
/// # Safety
/// They are nothing until the kernel has written them, each of them.
pub(super) unsafe fn unwritten(rows: usize, width: usize, like: &Tensor) -> Result<Tensor, NnError> {
    // SAFETY: as the caller says.
    Ok(unsafe { Tensor::empty((rows, width), like.dtype(), like.device())? })
}

/// Begins a kernel after everything else that was begun on the device. Without blocks there is nothing to begin.
///
/// # Safety
/// The arguments are those of the kernel; with them it stays within the tensors, and of those that it writes nobody else
/// has the numbers.
pub(super) unsafe fn launch(
    device: &Device,
    module: Module,
    kernel: &str,
    shape: Shape,
    arguments: &[Argument<'_>],
) -> Result<(), NnError> {
    if shape.blocks == 0 {
        return Ok(());
    }
    if shape.blocks > MAX_BLOCKS || shape.shared_bytes > MAX_SHARED {
        return Err(NnError::other(format!("{kernel} in {shape:?} is more than a device takes")));
    }
    #[cfg(feature = "cuda")]
    // SAFETY: as the caller says.
    return unsafe { on_device::launch(device, module, kernel, shape, arguments) };
    // Nothing asks for kernels in such a build: see `Candle::fuses`.
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (device, arguments);
        Err(NnError::other(format!("this program was built without {kernel} of {module:?}")))
    }
}

#[cfg(feature = "cuda")]
mod on_device {
    use candle_core::cuda::CudaDType;
    use candle_core::cuda::cudarc::driver::{CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg};
    use candle_core::cuda_backend::WrapErr;
    use candle_core::{CudaStorage, DType, Device, Storage, Tensor};
    use half::{bf16, f16};

    use super::{Argument, Module, Shape};
    use crate::nn::NnError;

    /// A parameter of a kernel, as its bytes.
    enum Parameter {
        Four(u32),
        Eight(u64),
    }

    /// See [`super::launch`].
    pub(super) unsafe fn launch(
        device: &Device,
        module: Module,
        kernel: &str,
        shape: Shape,
        arguments: &[Argument<'_>],
    ) -> Result<(), NnError> {
        let device = device.as_cuda_device()?;
        let stream = device.cuda_stream();
        let mut parameters = Vec::with_capacity(arguments.len());
        for argument in arguments {
            parameters.push(match *argument {
                Argument::Tensor(tensor) | Argument::Maybe(Some(tensor)) => Parameter::Eight(address(tensor, &stream)?),
                Argument::Behind(tensor, numbers) => {
                    Parameter::Eight(address(tensor, &stream)? + (numbers * tensor.dtype().size_in_bytes()) as u64)
                }
                Argument::Maybe(None) => Parameter::Eight(0),
                Argument::Long(number) => Parameter::Eight(number),
                Argument::Int(number) => Parameter::Four(number.cast_unsigned()),
                Argument::Float(number) => Parameter::Four(number.to_bits()),
            });
        }
        let (name, code) = code(module, kernel);
        let function = device.get_or_load_custom_func(kernel, name, code)?;
        let mut builder = function.builder();
        for parameter in &parameters {
            match parameter {
                Parameter::Four(bits) => builder.arg(bits),
                Parameter::Eight(bits) => builder.arg(bits),
            };
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let config = LaunchConfig {
            grid_dim: (number(shape.blocks), 1, 1),
            block_dim: (number(shape.threads), 1, 1),
            shared_mem_bytes: number(shape.shared_bytes),
        };
        // SAFETY: as the caller says. Memory of the tensors is given back on the same stream, and so after the kernel.
        unsafe { builder.launch(config).w()? };
        Ok(())
    }

    /// Where the numbers of a tensor begin on the device.
    fn address(tensor: &Tensor, stream: &CudaStream) -> Result<u64, NnError> {
        let (storage, layout) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) if layout.is_contiguous() => {
                let first = match tensor.dtype() {
                    DType::F32 => begin::<f32>(storage, stream)?,
                    DType::F16 => begin::<f16>(storage, stream)?,
                    DType::BF16 => begin::<bf16>(storage, stream)?,
                    DType::U32 => begin::<u32>(storage, stream)?,
                    other => return Err(NnError::other(format!("no kernel takes {other:?}"))),
                };
                Ok(first + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
            }
            _ => Err(NnError::other("a kernel takes whole tensors of its own device")),
        }
    }

    fn begin<T: CudaDType + DeviceRepr>(storage: &CudaStorage, stream: &CudaStream) -> Result<u64, NnError> {
        // There is one stream, so that nothing has to be waited for.
        Ok(storage.as_cuda_slice::<T>()?.device_ptr(stream).0)
    }

    /// Name and PTX of what has a kernel.
    fn code(module: Module, kernel: &str) -> (&'static str, &'static str) {
        macro_rules! module {
            ($name:literal) => {
                (concat!("embed_", $name), include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")))
            };
        }
        match module {
            Module::Attention if kernel.contains("_bf16_") => module!("attention_bf16"),
            Module::Attention if kernel.contains("_f16_") => module!("attention_f16"),
            Module::Attention => module!("attention_f32"),
            Module::Norm => module!("norm"),
            Module::Place => module!("place"),
            Module::Pointwise => module!("pointwise"),
        }
    }
}
