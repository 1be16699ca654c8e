//! Eight numbers in a register of AVX2.
// SAFETY of every `unsafe` block here: the caller of these unsafe functions has seen to it that the processor has the
// instructions (AVX2, FMA), and that pointers reach the numbers that the trait names; loads and stores are unaligned.
#![expect(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]

use std::arch::x86_64::{
    __m256, __m256i, _CMP_NLT_UQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_ps, _mm256_blendv_ps, _mm256_castpd_ps, _mm256_castps_pd, _mm256_castsi256_ps, _mm256_cmp_ps,
    _mm256_cvtps_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_maskload_ps, _mm256_maskstore_ps,
    _mm256_max_ps, _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_round_ps, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_slli_epi32, _mm256_storeu_ps, _mm256_sub_ps, _mm256_unpackhi_pd, _mm256_unpackhi_ps, _mm256_unpacklo_pd,
    _mm256_unpacklo_ps,
};

use super::{EXP2, EXP2_MIN, Vector, Work};

/// Eight numbers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Avx2(__m256);

/// All bits set in the first `count` ≤ 8 lanes.
#[inline(always)]
unsafe fn first_lanes(count: usize) -> __m256i {
    const ONES_THEN_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    unsafe { _mm256_loadu_si256(ONES_THEN_ZEROS.as_ptr().add(8 - count).cast()) }
}

/// In each half of the registers: the two results of unpacking single numbers of two vectors.
#[inline(always)]
unsafe fn unpack(one: __m256, other: __m256) -> [__m256; 2] {
    unsafe { [_mm256_unpacklo_ps(one, other), _mm256_unpackhi_ps(one, other)] }
}

/// The same for pairs of numbers.
#[inline(always)]
unsafe fn unpack_pairs(one: __m256, other: __m256) -> [__m256; 2] {
    unsafe {
        let (one, other) = (_mm256_castps_pd(one), _mm256_castps_pd(other));
        [_mm256_castpd_ps(_mm256_unpacklo_pd(one, other)), _mm256_castpd_ps(_mm256_unpackhi_pd(one, other))]
    }
}

impl Vector for Avx2 {
    const LANES: usize = 8;
    const TILES: [(usize, usize); 2] = [(6, 2), (6, 2)];

    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn call<W: Work>(work: W) -> W::Output {
        unsafe { work.on::<Self>() }
    }

    single_instructions! {
        splat: _mm256_set1_ps, load: _mm256_loadu_ps, store: _mm256_storeu_ps, add: _mm256_add_ps, sub: _mm256_sub_ps,
        mul: _mm256_mul_ps, mul_add: _mm256_fmadd_ps, max: _mm256_max_ps
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        Self(unsafe { _mm256_maskload_ps(from, first_lanes(count)) })
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { _mm256_maskstore_ps(to, first_lanes(count), self.0) }
    }

    #[inline(always)]
    unsafe fn only(self, first: usize, end: usize) -> Self {
        unsafe {
            let hidden = _mm256_set1_ps(f32::NEG_INFINITY);
            let before_end = _mm256_blendv_ps(hidden, self.0, _mm256_castsi256_ps(first_lanes(end)));
            Self(_mm256_blendv_ps(before_end, hidden, _mm256_castsi256_ps(first_lanes(first))))
        }
    }

    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe {
            // What is not a number passes, and stays so.
            let normal = _mm256_cmp_ps::<_CMP_NLT_UQ>(self.0, _mm256_set1_ps(EXP2_MIN));
            let whole = _mm256_round_ps::<NEAREST>(self.0);
            let rest = _mm256_sub_ps(self.0, whole);
            let mut value = _mm256_set1_ps(EXP2[0]);
            for factor in &EXP2[1..] {
                value = _mm256_fmadd_ps(value, rest, _mm256_set1_ps(*factor));
            }
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
            let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
            Self(_mm256_and_ps(_mm256_mul_ps(value, power), normal))
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, rows: usize, columns: usize, factor: Self, to: *mut f32) {
        unsafe {
            let mut block = [_mm256_set1_ps(0.0); 8];
            for (row, values) in block.iter_mut().enumerate().take(rows) {
                *values = Self::load_first(from.add(row * stride), columns).0;
            }
            // Blocks of 4 by 4: vector 4 g + k then has column k of rows 4 g .. 4 g + 4 in each half.
            for four in block.chunks_exact_mut(4) {
                let ([ab_low, ab_high], [cd_low, cd_high]) = (unpack(four[0], four[1]), unpack(four[2], four[3]));
                [four[0], four[1]] = unpack_pairs(ab_low, cd_low);
                [four[2], four[3]] = unpack_pairs(ab_high, cd_high);
            }
            // Then the halves.
            let mut turned = block;
            for k in 0..4 {
                turned[k] = _mm256_permute2f128_ps::<0x20>(block[k], block[4 + k]);
                turned[4 + k] = _mm256_permute2f128_ps::<0x31>(block[k], block[4 + k]);
            }
            for (column, values) in turned.iter().enumerate().take(columns) {
                _mm256_storeu_ps(to.add(column * 8), _mm256_mul_ps(*values, factor.0));
            }
        }
    }
}
