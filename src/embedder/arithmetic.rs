//! In what numbers the layers of a run are computed.

use super::EmbedError;
use super::gpus::numbers;
use crate::config::{CpuInstructions, Dtype, Settings};
use crate::device::Choice;
use crate::model::vector_space::DtypeClass;
use crate::nn::cpu::gemm::{Arithmetic, Kernel};
use crate::nn::{Instructions, Numbers};

/// In what a model's layers are computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Computation {
    /// On GPUs, where there are some.
    pub numbers: Option<Numbers>,
    /// On the processor: all of it, or what no GPU has room for.
    pub kernel: Kernel,
    /// The class of the vectors.
    pub class: DtypeClass,
}

impl Computation {
    /// As the settings ask for, on the devices that are chosen.
    ///
    /// # Errors
    /// [`EmbedError::Dtype`] if they cannot: another arithmetic would give other vectors, so that none is taken instead.
    pub(super) fn new(settings: &Settings, choice: &Choice) -> Result<Self, EmbedError> {
        let Some(numbers) = numbers(settings, choice)? else {
            let kernel = kernel(settings)?;
            return Ok(Self { numbers: None, kernel, class: class(kernel.arithmetic()) });
        };
        let most = most_instructions(settings);
        let (arithmetic, class) = match numbers {
            Numbers::F32 => (Arithmetic::F32, DtypeClass::F32),
            // What has more digits than the vectors' class is no other class.
            Numbers::F16 => (Arithmetic::F32, DtypeClass::F16),
            Numbers::Bf16 => (Arithmetic::Bf16, DtypeClass::Bf16),
        };
        let kernel = Kernel::new(arithmetic, most).unwrap_or_else(|_| Kernel::single(most));
        Ok(Self { numbers: Some(numbers), kernel, class })
    }
}

/// The processor's way to compute what the settings ask for.
///
/// # Errors
/// [`EmbedError::Dtype`] if it has none: another arithmetic would give other vectors, so that none is taken instead.
fn kernel(settings: &Settings) -> Result<Kernel, EmbedError> {
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
fn class(arithmetic: Arithmetic) -> DtypeClass {
    match arithmetic {
        Arithmetic::F32 => DtypeClass::F32,
        Arithmetic::Bf16 => DtypeClass::Bf16,
        Arithmetic::Int8 => DtypeClass::Int8,
    }
}
