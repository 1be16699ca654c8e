//! Which vector instructions the processor is asked for, chosen when the program runs.
//!
//! One binary serves all processors. The choice is plain data, so that tests and settings can ask for less than there
//! is; [`Instructions::proof`] turns it into the values of `pulp` without which no such instruction can be reached.

use pulp::Scalar;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};

/// Vector instructions, from the fewest to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// What every processor of the architecture has.
    Portable,
    /// AVX2 with fused multiply-add: x86-64-v3, since 2013.
    Avx2,
    /// AVX-512 with F, BW, CD, DQ and VL: x86-64-v4.
    Avx512,
}

/// That the processor has the instructions: only a successful look makes one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Proof {
    /// Of nothing.
    Portable(Scalar),
    /// Of x86-64-v3.
    #[cfg(target_arch = "x86_64")]
    Avx2(V3),
    /// Of x86-64-v4.
    #[cfg(target_arch = "x86_64")]
    Avx512(V4),
}

impl Instructions {
    /// All sets, the best first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The best set of this processor.
    pub fn detect() -> Self {
        Self::Avx512.at_most()
    }

    /// This set, or the best below it that this processor has.
    #[must_use]
    pub fn at_most(self) -> Self {
        match self.proof() {
            Proof::Portable(_) => Self::Portable,
            #[cfg(target_arch = "x86_64")]
            Proof::Avx2(_) => Self::Avx2,
            #[cfg(target_arch = "x86_64")]
            Proof::Avx512(_) => Self::Avx512,
        }
    }

    /// The proof of this set, or of the best below it that this processor has.
    pub(super) fn proof(self) -> Proof {
        #[cfg(target_arch = "x86_64")]
        {
            if self >= Self::Avx512
                && let Some(proof) = V4::try_new()
            {
                return Proof::Avx512(proof);
            }
            if self >= Self::Avx2
                && let Some(proof) = V3::try_new()
            {
                return Proof::Avx2(proof);
            }
        }
        Proof::Portable(Scalar::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lesser_set_can_be_asked_for_and_a_missing_one_cannot_be_had() {
        let best = Instructions::detect();
        for asked in Instructions::ALL {
            assert_eq!(asked.at_most(), asked.min(best), "asked for {asked:?} where there is {best:?}");
        }
        assert_eq!(Instructions::Portable.at_most(), Instructions::Portable);
    }
}
