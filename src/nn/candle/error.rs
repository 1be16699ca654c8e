//! What candle's and CUDA's errors mean for the device.

use crate::domain::FailureKind;
use crate::nn::NnError;

impl From<candle_core::Error> for NnError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed { kind: kind(&error), source: error.into() }
    }
}

fn kind(error: &candle_core::Error) -> FailureKind {
    use candle_core::Error;
    match error {
        Error::WithBacktrace { inner, .. } | Error::Context { inner, .. } | Error::WithPath { inner, .. } => {
            kind(inner)
        }
        Error::Cuda(error) => kind_of_cuda(error.as_ref()),
        // Candle turns some errors into text, which names the code.
        Error::Wrapped(text) => kind_of_text(&text.to_string()),
        Error::WrappedContext { wrapped, .. } => kind_of_text(&format!("{wrapped:?}")),
        Error::Msg(text) => kind_of_text(text),
        _ => FailureKind::Other,
    }
}

#[cfg(feature = "cuda")]
fn kind_of_cuda(error: &(dyn std::error::Error + Send + Sync + 'static)) -> FailureKind {
    use candle_core::cuda::CudaError;
    match error.downcast_ref::<CudaError>() {
        Some(CudaError::Cuda(error) | CudaError::Load { cuda: error, .. }) => kind_of_code(&format!("{:?}", error.0)),
        Some(CudaError::Cublas(error)) => kind_of_code(&format!("{:?}", error.0)),
        Some(CudaError::Curand(error)) => kind_of_code(&format!("{:?}", error.0)),
        Some(CudaError::MissingKernel { .. }) => FailureKind::NoKernel,
        Some(_) => FailureKind::Other,
        None => kind_of_text(&format!("{error:?}")),
    }
}

#[cfg(not(feature = "cuda"))]
fn kind_of_cuda(error: &(dyn std::error::Error + Send + Sync + 'static)) -> FailureKind {
    kind_of_text(&format!("{error:?}"))
}

/// The kind of the first known code in a text.
fn kind_of_text(text: &str) -> FailureKind {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.map(kind_of_code).find(|kind| *kind != FailureKind::Other).unwrap_or(FailureKind::Other)
}

/// The kind of an error code of CUDA's driver, cuBLAS or cuRAND. After the codes of [`FailureKind::DeviceLost`] every
/// further call fails too, by the documentation of `CUresult`: "the process must be terminated and relaunched".
fn kind_of_code(code: &str) -> FailureKind {
    match code {
        "CUDA_ERROR_OUT_OF_MEMORY" | "CUBLAS_STATUS_ALLOC_FAILED" | "CURAND_STATUS_ALLOCATION_FAILED" => {
            FailureKind::OutOfMemory
        }
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
        | "CUBLAS_STATUS_EXECUTION_FAILED" => FailureKind::DeviceLost,
        "CUDA_ERROR_NO_BINARY_FOR_GPU"
        | "CUDA_ERROR_INVALID_PTX"
        | "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
        | "CUBLAS_STATUS_ARCH_MISMATCH" => FailureKind::NoKernel,
        _ => FailureKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Error;

    use super::*;

    #[track_caller]
    fn check(error: &Error, expected: FailureKind) {
        assert_eq!(kind(error), expected, "{error}");
    }

    #[test]
    fn codes_are_found_in_the_texts_of_candle() {
        let out_of_memory = || Error::wrap("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        check(&out_of_memory(), FailureKind::OutOfMemory);
        check(&out_of_memory().context("a layer").with_path("model.safetensors"), FailureKind::OutOfMemory);
        check(&Error::msg("CublasError(CUBLAS_STATUS_ALLOC_FAILED)"), FailureKind::OutOfMemory);
        check(&Error::Cuda("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"…\")".into()), FailureKind::DeviceLost);
        check(&Error::Cuda("CUDA_ERROR_NO_BINARY_FOR_GPU when loading affine".into()), FailureKind::NoKernel);
    }

    #[test]
    fn other_errors_are_not_out_of_memory() {
        check(&Error::msg("the text \"out of memory\" alone says nothing"), FailureKind::Other);
        check(&Error::msg("NOT_CUDA_ERROR_OUT_OF_MEMORY"), FailureKind::Other);
        check(&Error::Cuda("DriverError(CUDA_ERROR_INVALID_VALUE, \"invalid argument\")".into()), FailureKind::Other);
        check(&Error::UnwrapNone, FailureKind::Other);
        assert_eq!(NnError::from(Error::UnwrapNone).kind(), FailureKind::Other);
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn typed_codes_are_classified() {
        use candle_core::cuda::CudaError;
        use candle_core::cuda::cudarc::cublas::{result::CublasError, sys::cublasStatus_t};
        use candle_core::cuda::cudarc::driver::{DriverError, sys::CUresult};
        let driver = |code| Error::from(CudaError::Cuda(DriverError(code)));
        check(&driver(CUresult::CUDA_ERROR_OUT_OF_MEMORY), FailureKind::OutOfMemory);
        check(&driver(CUresult::CUDA_ERROR_LAUNCH_FAILED), FailureKind::DeviceLost);
        check(&driver(CUresult::CUDA_ERROR_INVALID_VALUE), FailureKind::Other);
        let cublas = CublasError(cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED);
        check(&CudaError::Cublas(cublas).into(), FailureKind::OutOfMemory);
        check(&CudaError::MissingKernel { module_name: "affine".to_owned() }.into(), FailureKind::NoKernel);
    }
}
