//! Which vector instructions are used, decided when the program runs: one binary for all processors.

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
            if avx2 {
                return if avx512 { Self::Avx512 } else { Self::Avx2 };
            }
        }
        Self::Portable
    }
}
