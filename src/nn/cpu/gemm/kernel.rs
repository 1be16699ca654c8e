//! Which kernel computes linear layers, as a value that exists only where the processor can run it: nothing here reaches
//! a vector instruction without.

use super::vectors::Vectors;
#[cfg(target_arch = "x86_64")]
use super::{bf16::Bf16, int8::Int8};
use crate::nn::cpu::Instructions;

/// In what numbers a linear layer multiplies. Sums, biases and all that follows are in f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Single precision.
    F32,
    /// Weights and activations rounded to bf16: eight bits of mantissa. Wants AVX-512 with BF16.
    Bf16,
    /// Integers of eight bits: weights with a scale for each output, activations with a scale and a zero for each token,
    /// found when it comes. Wants AVX-512 with VNNI.
    Int8,
}

/// The processor lacks the instructions for some arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this processor cannot multiply in {}: it wants {}", .0.name(), .0.wants())]
pub struct Lacking(Arithmetic);

/// A way to compute linear layers on this processor.
#[derive(Debug, Clone, Copy)]
pub struct Kernel(pub(super) Proof);

/// That there are the instructions of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Proof {
    /// Products of f32.
    Single(Vectors),
    /// Products of pairs in bf16.
    #[cfg(target_arch = "x86_64")]
    Bf16(Bf16),
    /// Products of fours in int8.
    #[cfg(target_arch = "x86_64")]
    Int8(Int8),
}

impl Arithmetic {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    fn wants(self) -> &'static str {
        match self {
            Self::F32 => "nothing",
            Self::Bf16 => "AVX-512 with BF16",
            Self::Int8 => "AVX-512 with VNNI",
        }
    }
}

impl Kernel {
    /// The best for some arithmetic that the processor has, but with instructions no better than `most`.
    ///
    /// # Errors
    /// [`Lacking`] if there is none. There always is one in f32.
    pub fn new(arithmetic: Arithmetic, most: Instructions) -> Result<Self, Lacking> {
        match arithmetic {
            Arithmetic::F32 => return Ok(Self::single(most)),
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Bf16 if most >= Instructions::Avx512 => Bf16::try_new().map(|kernel| Self(Proof::Bf16(kernel))),
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Int8 if most >= Instructions::Avx512 => Int8::try_new().map(|kernel| Self(Proof::Int8(kernel))),
            Arithmetic::Bf16 | Arithmetic::Int8 => None,
        }
        .ok_or(Lacking(arithmetic))
    }

    /// The best in f32 with instructions no better than `most`.
    pub fn single(most: Instructions) -> Self {
        Self(Proof::Single(Vectors::at_most(most)))
    }

    /// What it multiplies.
    pub fn arithmetic(self) -> Arithmetic {
        match self.0 {
            Proof::Single(_) => Arithmetic::F32,
            #[cfg(target_arch = "x86_64")]
            Proof::Bf16(_) => Arithmetic::Bf16,
            #[cfg(target_arch = "x86_64")]
            Proof::Int8(_) => Arithmetic::Int8,
        }
    }

    /// Which instructions it uses.
    pub fn instructions(self) -> Instructions {
        match self.0 {
            Proof::Single(vectors) => vectors.instructions(),
            #[cfg(target_arch = "x86_64")]
            Proof::Bf16(_) | Proof::Int8(_) => Instructions::Avx512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_without_its_instructions_is_refused() {
        let error = Kernel::new(Arithmetic::Bf16, Instructions::Avx2).unwrap_err();
        assert_eq!(error.to_string(), "this processor cannot multiply in bf16: it wants AVX-512 with BF16");
        let error = Kernel::new(Arithmetic::Int8, Instructions::Portable).unwrap_err();
        assert_eq!(error.to_string(), "this processor cannot multiply in int8: it wants AVX-512 with VNNI");
        assert_eq!(
            Kernel::new(Arithmetic::F32, Instructions::Portable).unwrap().instructions(),
            Instructions::Portable
        );
    }
}
