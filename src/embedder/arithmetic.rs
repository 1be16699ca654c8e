//! In what numbers the layers of a run are computed.

use super::EmbedError;
use crate::config::{CpuInstructions, Dtype, Settings};
use crate::model::vector_space::DtypeClass;
use crate::nn::Instructions;
use crate::nn::cpu::gemm::{Arithmetic, Kernel};

/// The processor's way to compute what the settings ask for.
///
/// # Errors
/// [`EmbedError::Dtype`] if it has none: another arithmetic would give other vectors, so that none is taken instead.
pub(super) fn kernel(settings: &Settings) -> Result<Kernel, EmbedError> {
    let arithmetic = match settings.dtype {
        Dtype::Auto | Dtype::F32 => Arithmetic::F32,
        Dtype::Bf16 => Arithmetic::Bf16,
        Dtype::Int8 => Arithmetic::Int8,
        Dtype::F16 => {
            return Err(EmbedError::Dtype { wanted: "f16", reason: "f16 is for GPUs".into() });
        }
    };
    Kernel::new(arithmetic, most_instructions(settings))
        .map_err(|error| EmbedError::Dtype { wanted: class(arithmetic).as_str(), reason: error.to_string() })
}

/// The processor's way to compute in f32.
pub(super) fn exact_kernel(settings: &Settings) -> Kernel {
    Kernel::single(most_instructions(settings))
}

fn most_instructions(settings: &Settings) -> Instructions {
    match settings.cpu_instructions {
        CpuInstructions::Auto => Instructions::detect(),
        CpuInstructions::Avx512 => Instructions::Avx512,
        CpuInstructions::Avx2 => Instructions::Avx2,
        CpuInstructions::Portable => Instructions::Portable,
    }
}

/// The class of the vectors that come of it.
pub(super) fn class(arithmetic: Arithmetic) -> DtypeClass {
    match arithmetic {
        Arithmetic::F32 => DtypeClass::F32,
        Arithmetic::Bf16 => DtypeClass::Bf16,
        Arithmetic::Int8 => DtypeClass::Int8,
    }
}
