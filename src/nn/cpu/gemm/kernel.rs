//! Which kernel computes linear layers, as a value that exists only where the processor can run it.

use super::vectors::Vectors;
#[cfg(target_arch = "x86_64")]
use super::{bf16::Bf16, int8::Int8};
use crate::nn::cpu::Instructions;

/// In what numbers a linear layer multiplies. Sums, biases and all that follows are in f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Single precision.
    F32,
    /// Weights rounded to bf16, eight bits of mantissa; activations as well where the processor is faster with both in
    /// bf16, else they stay in f32.
    Bf16,
    /// Integers of eight bits: weights with a scale for each output, activations with a scale and a zero for each token,
    /// found when it comes. Wants AVX-512 with VNNI.
    Int8,
}

/// The processor lacks the instructions for int8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this processor cannot multiply in int8: that wants AVX-512 with VNNI")]
pub struct Lacking;

/// A way to compute linear layers on this processor.
#[derive(Debug, Clone, Copy)]
pub struct Kernel(pub(super) Proof);

/// That there are the instructions of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Proof {
    /// Products of f32.
    Single(Vectors),
    /// Products of f32, with weights in bf16.
    Widened(Vectors),
    /// Products of pairs in bf16.
    #[cfg(target_arch = "x86_64")]
    Bf16(Bf16),
    /// Products of fours in int8.
    #[cfg(target_arch = "x86_64")]
    Int8(Int8),
}

impl Kernel {
    /// The best for some arithmetic that the processor has, but with instructions no better than `most`.
    ///
    /// # Errors
    /// [`Lacking`] if there is none in int8; there always is one for the others.
    pub fn new(arithmetic: Arithmetic, most: Instructions) -> Result<Self, Lacking> {
        match arithmetic {
            Arithmetic::F32 => Ok(Self::single(most)),
            Arithmetic::Bf16 => {
                #[cfg(target_arch = "x86_64")]
                if let (Instructions::Avx512, Some(kernel)) = (most, Bf16::if_fast()) {
                    return Ok(Self(Proof::Bf16(kernel)));
                }
                Ok(Self(Proof::Widened(Vectors::at_most(most))))
            }
            Arithmetic::Int8 => {
                #[cfg(target_arch = "x86_64")]
                if let (Instructions::Avx512, Some(kernel)) = (most, Int8::try_new()) {
                    return Ok(Self(Proof::Int8(kernel)));
                }
                Err(Lacking)
            }
        }
    }

    /// The best in f32 with instructions no better than `most`.
    pub fn single(most: Instructions) -> Self {
        Self(Proof::Single(Vectors::at_most(most)))
    }

    /// What it multiplies.
    pub fn arithmetic(self) -> Arithmetic {
        match self.0 {
            Proof::Single(_) => Arithmetic::F32,
            Proof::Widened(_) => Arithmetic::Bf16,
            #[cfg(target_arch = "x86_64")]
            Proof::Bf16(_) => Arithmetic::Bf16,
            #[cfg(target_arch = "x86_64")]
            Proof::Int8(_) => Arithmetic::Int8,
        }
    }

    /// Which instructions it uses.
    pub fn instructions(self) -> Instructions {
        match self.0 {
            Proof::Single(vectors) | Proof::Widened(vectors) => vectors.instructions(),
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
        assert_eq!(Kernel::new(Arithmetic::Int8, Instructions::Avx2).unwrap_err(), Lacking);
        for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
            let kernel = Kernel::new(arithmetic, Instructions::Portable).unwrap();
            assert_eq!((kernel.arithmetic(), kernel.instructions()), (arithmetic, Instructions::Portable));
        }
    }
}
