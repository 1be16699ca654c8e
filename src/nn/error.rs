//! Why an operation failed, in the words that decide what to do next: shrink and try again, leave the device, or stop.

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
    /// The device has too little memory left. It can be used again after
    /// [`settle`](super::Backend::settle), with less at a time.
    #[error("the device is out of memory: {0}")]
    OutOfMemory(#[source] candle_core::Error),
    /// The device is gone, or nothing can be computed on it any more by this process; a new process may.
    #[error("the device is lost to this process: {0}")]
    DeviceLost(#[source] candle_core::Error),
    /// This build has no code for the device, or for these numbers on it.
    #[error(
        "this build has no code for the device: {0}; build with CUDA_COMPUTE_CAP=75 for compute capability 7.5, with 80 \
         for 8.0 and newer"
    )]
    NoKernel(#[source] candle_core::Error),
    /// The tensor library's own words.
    #[error("tensor operation failed: {0}")]
    Candle(#[source] candle_core::Error),
}

/// What became of a device, as far as an error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Memory,
    Lost,
    NoKernel,
    Other,
}

impl From<candle_core::Error> for NnError {
    fn from(error: candle_core::Error) -> Self {
        match fault(&error) {
            Fault::Memory => Self::OutOfMemory(error),
            Fault::Lost => Self::DeviceLost(error),
            Fault::NoKernel => Self::NoKernel(error),
            Fault::Other => Self::Candle(error),
        }
    }
}

fn fault(error: &candle_core::Error) -> Fault {
    use candle_core::Error;
    match error {
        Error::WithBacktrace { inner, .. } | Error::Context { inner, .. } | Error::WithPath { inner, .. } => {
            fault(inner)
        }
        Error::Cuda(error) => fault_of_cuda(error.as_ref()),
        // Where candle makes text of an error, the name of the code is in it.
        Error::Wrapped(text) => fault_of_text(&text.to_string()),
        Error::WrappedContext { wrapped, .. } => fault_of_text(&format!("{wrapped:?}")),
        Error::Msg(text) => fault_of_text(text),
        _ => Fault::Other,
    }
}

#[cfg(feature = "cuda")]
fn fault_of_cuda(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Fault {
    use candle_core::cuda::CudaError;
    match error.downcast_ref::<CudaError>() {
        Some(CudaError::Cuda(error) | CudaError::Load { cuda: error, .. }) => fault_of_code(&format!("{:?}", error.0)),
        Some(CudaError::Cublas(error)) => fault_of_code(&format!("{:?}", error.0)),
        Some(CudaError::Curand(error)) => fault_of_code(&format!("{:?}", error.0)),
        Some(CudaError::MissingKernel { .. }) => Fault::NoKernel,
        Some(_) => Fault::Other,
        None => fault_of_text(&format!("{error:?}")),
    }
}

#[cfg(not(feature = "cuda"))]
fn fault_of_cuda(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Fault {
    fault_of_text(&format!("{error:?}"))
}

/// The fault of the first code in a text that stands for one.
fn fault_of_text(text: &str) -> Fault {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.map(fault_of_code).find(|fault| *fault != Fault::Other).unwrap_or(Fault::Other)
}

/// What a code of CUDA's driver, cuBLAS or cuRAND stands for. After the codes of [`Fault::Lost`] every further call fails
/// with the same one, by the documentation of `CUresult`: "the process must be terminated and relaunched".
fn fault_of_code(code: &str) -> Fault {
    match code {
        "CUDA_ERROR_OUT_OF_MEMORY" | "CUBLAS_STATUS_ALLOC_FAILED" | "CURAND_STATUS_ALLOCATION_FAILED" => Fault::Memory,
        "CUDA_ERROR_ILLEGAL_ADDRESS"
        | "CUDA_ERROR_MISALIGNED_ADDRESS"
        | "CUDA_ERROR_INVALID_ADDRESS_SPACE"
        | "CUDA_ERROR_INVALID_PC"
        | "CUDA_ERROR_ILLEGAL_INSTRUCTION"
        | "CUDA_ERROR_HARDWARE_STACK_ERROR"
        | "CUDA_ERROR_ASSERT"
        | "CUDA_ERROR_LAUNCH_FAILED"
        | "CUDA_ERROR_LAUNCH_TIMEOUT"
        | "CUDA_ERROR_ECC_UNCORRECTABLE"
        | "CUDA_ERROR_NVLINK_UNCORRECTABLE"
        | "CUDA_ERROR_CONTAINED"
        | "CUDA_ERROR_DEVICE_UNAVAILABLE"
        | "CUDA_ERROR_CONTEXT_IS_DESTROYED"
        | "CUBLAS_STATUS_EXECUTION_FAILED" => Fault::Lost,
        "CUDA_ERROR_NO_BINARY_FOR_GPU"
        | "CUDA_ERROR_INVALID_PTX"
        | "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
        | "CUBLAS_STATUS_ARCH_MISMATCH" => Fault::NoKernel,
        _ => Fault::Other,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Error;

    use super::*;

    #[track_caller]
    fn check(error: &Error, expected: Fault) {
        assert_eq!(fault(error), expected, "{error}");
    }

    #[test]
    fn codes_are_told_apart_in_what_candle_makes_of_them() {
        let out_of_memory = || Error::wrap("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        check(&out_of_memory(), Fault::Memory);
        check(&out_of_memory().context("a layer").with_path("model.safetensors"), Fault::Memory);
        check(&Error::msg("CublasError(CUBLAS_STATUS_ALLOC_FAILED)"), Fault::Memory);
        check(&Error::Cuda("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"…\")".into()), Fault::Lost);
        check(&Error::Cuda("CUDA_ERROR_NO_BINARY_FOR_GPU when loading affine".into()), Fault::NoKernel);
    }

    #[test]
    fn other_errors_are_not_taken_for_a_want_of_memory() {
        check(&Error::msg("the text \"out of memory\" alone says nothing"), Fault::Other);
        check(&Error::msg("NOT_CUDA_ERROR_OUT_OF_MEMORY"), Fault::Other);
        check(&Error::Cuda("DriverError(CUDA_ERROR_INVALID_VALUE, \"invalid argument\")".into()), Fault::Other);
        check(&Error::UnwrapNone, Fault::Other);
        assert!(matches!(NnError::from(Error::UnwrapNone), NnError::Candle(_)));
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn typed_codes_are_told_apart() {
        use candle_core::cuda::CudaError;
        use candle_core::cuda::cudarc::cublas::{result::CublasError, sys::cublasStatus_t};
        use candle_core::cuda::cudarc::driver::{DriverError, sys::CUresult};
        let driver = |code| Error::from(CudaError::Cuda(DriverError(code)));
        check(&driver(CUresult::CUDA_ERROR_OUT_OF_MEMORY), Fault::Memory);
        check(&driver(CUresult::CUDA_ERROR_LAUNCH_FAILED), Fault::Lost);
        check(&driver(CUresult::CUDA_ERROR_INVALID_VALUE), Fault::Other);
        let cublas = CublasError(cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED);
        check(&CudaError::Cublas(cublas).into(), Fault::Memory);
        check(&CudaError::MissingKernel { module_name: "affine".to_owned() }.into(), Fault::NoKernel);
    }
}
