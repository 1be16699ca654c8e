//! Which vector instructions are used, decided when the program runs: one binary for all processors.

use super::vector::{Portable, Vector, Work};

/// Sets of vector instructions, from the least to the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// What every processor has.
    Portable,
    /// AVX2 and FMA: 256 bits.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 512 bits.
    Avx512,
}

impl Instructions {
    /// The best that this processor has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match (avx2, avx512) {
                (true, true) => return Self::Avx512,
                (true, false) => return Self::Avx2,
                (false, _) => {}
            }
        }
        Self::Portable
    }
}

impl Default for Instructions {
    /// The best that this processor has.
    fn default() -> Self {
        Self::detect()
    }
}

/// Instructions that this processor has; the value is the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Supported(Instructions);

impl Supported {
    /// The best that is there, but no better than `most`.
    pub(super) fn at_most(most: Instructions) -> Self {
        Self(most.min(Instructions::detect()))
    }

    /// Which they are.
    pub(super) fn instructions(self) -> Instructions {
        self.0
    }

    /// Does work in vectors of these instructions.
    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        // SAFETY: a value exists only for instructions that `detect` has found, or for less.
        unsafe {
            match self.0 {
                Instructions::Portable => Portable::call(work),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => super::vector::Avx2::call(work),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 => super::vector::Avx512::call(work),
                #[cfg(not(target_arch = "x86_64"))]
                Instructions::Avx2 | Instructions::Avx512 => Portable::call(work),
            }
        }
    }

    /// Does work in plain loops, which the compiler turns into these instructions.
    pub(super) fn run_plain<T>(self, work: impl FnOnce() -> T) -> T {
        self.run(Plain(work))
    }
}

/// A closure, compiled for each set of instructions.
struct Plain<F>(F);

impl<T, F: FnOnce() -> T> Work for Plain<F> {
    type Output = T;

    #[expect(clippy::inline_always, reason = "inlined, it is compiled for the instructions of its caller")]
    #[inline(always)]
    unsafe fn on<V: Vector>(self) -> T {
        (self.0)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_instructions_are_used_that_are_not_there() {
        for wanted in [Instructions::Portable, Instructions::Avx2, Instructions::Avx512] {
            let supported = Supported::at_most(wanted).instructions();
            assert!(supported <= wanted && supported <= Instructions::detect(), "{wanted:?} gave {supported:?}");
        }
        assert_eq!(Supported::at_most(Instructions::Portable).instructions(), Instructions::Portable);
    }
}
