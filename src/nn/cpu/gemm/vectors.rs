//! A proof that the processor has some instructions: `pulp` makes one only after it has checked.

use pulp::Scalar;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

use crate::nn::cpu::Instructions;

/// Instructions that there are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Vectors {
    /// Nothing special.
    Portable(Scalar),
    /// x86-64-v3.
    #[cfg(target_arch = "x86_64")]
    Avx2(V3),
    /// x86-64-v4.
    #[cfg(target_arch = "x86_64")]
    Avx512(V4),
}

impl Vectors {
    /// The best that there are, but no better than `most`.
    pub(super) fn at_most(most: Instructions) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if most >= Instructions::Avx512
                && let Some(proof) = V4::try_new()
            {
                return Self::Avx512(proof);
            }
            if most >= Instructions::Avx2
                && let Some(proof) = V3::try_new()
            {
                return Self::Avx2(proof);
            }
        }
        Self::Portable(Scalar::new())
    }

    /// Which they are.
    pub(super) fn instructions(self) -> Instructions {
        match self {
            Self::Portable(_) => Instructions::Portable,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Instructions::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Instructions::Avx512,
        }
    }

    /// Does work with them.
    #[cfg(test)]
    pub(super) fn run<W: pulp::WithSimd>(self, work: W) -> W::Output {
        use pulp::Simd;
        match self {
            Self::Portable(proof) => proof.vectorize(work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(proof) => Simd::vectorize(proof, work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(proof) => Simd::vectorize(proof, work),
        }
    }
}
