//! Sixteen numbers in a register of AVX-512.
// SAFETY of every `unsafe` block here: the caller of these unsafe functions has seen to it that the processor has the
// instructions (F, BW, DQ, VL), and that pointers reach the numbers that the trait names; loads and stores are unaligned.
#![expect(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]

use std::arch::x86_64::{
    __m512, _CMP_NLT_UQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm512_add_ps, _mm512_castpd_ps,
    _mm512_castps_pd, _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_mov_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_maskz_scalef_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_roundscale_ps, _mm512_set1_ps,
    _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_sub_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};

use super::{EXP2, EXP2_MIN, Vector, Work};

/// Sixteen numbers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Avx512(__m512);

/// The lowest `count` ≤ 16 bits.
#[inline(always)]
fn first_lanes(count: usize) -> u16 {
    #[expect(clippy::cast_possible_truncation, reason = "no more than 16 bits are set")]
    let lanes = ((1_u32 << count) - 1) as u16;
    lanes
}

/// In each quarter of the registers: the two results of unpacking single numbers of two vectors.
#[inline(always)]
unsafe fn unpack(one: __m512, other: __m512) -> [__m512; 2] {
    unsafe { [_mm512_unpacklo_ps(one, other), _mm512_unpackhi_ps(one, other)] }
}

/// The same for pairs of numbers.
#[inline(always)]
unsafe fn unpack_pairs(one: __m512, other: __m512) -> [__m512; 2] {
    unsafe {
        let (one, other) = (_mm512_castps_pd(one), _mm512_castps_pd(other));
        [_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)), _mm512_castpd_ps(_mm512_unpackhi_pd(one, other))]
    }
}

impl Vector for Avx512 {
    const LANES: usize = 16;
    const TILES: [(usize, usize); 2] = [(8, 3), (6, 4)];

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn call<W: Work>(work: W) -> W::Output {
        unsafe { work.on::<Self>() }
    }

    single_instructions! {
        splat: _mm512_set1_ps, load: _mm512_loadu_ps, store: _mm512_storeu_ps, add: _mm512_add_ps, sub: _mm512_sub_ps,
        mul: _mm512_mul_ps, mul_add: _mm512_fmadd_ps, max: _mm512_max_ps
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        Self(unsafe { _mm512_maskz_loadu_ps(first_lanes(count), from) })
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, first_lanes(count), self.0) }
    }

    #[inline(always)]
    unsafe fn only(self, first: usize, end: usize) -> Self {
        let lanes = first_lanes(end) & !first_lanes(first);
        Self(unsafe { _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), lanes, self.0) })
    }

    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe {
            // What is not a number passes, and stays so.
            let normal = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, _mm512_set1_ps(EXP2_MIN));
            let whole = _mm512_roundscale_ps::<NEAREST>(self.0);
            let rest = _mm512_sub_ps(self.0, whole);
            let mut value = _mm512_set1_ps(EXP2[0]);
            for factor in &EXP2[1..] {
                value = _mm512_fmadd_ps(value, rest, _mm512_set1_ps(*factor));
            }
            Self(_mm512_maskz_scalef_ps(normal, value, whole))
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, rows: usize, columns: usize, factor: Self, to: *mut f32) {
        unsafe {
            let mut block = [_mm512_set1_ps(0.0); 16];
            if rows == 16 && columns == 16 {
                for (row, values) in block.iter_mut().enumerate() {
                    *values = _mm512_loadu_ps(from.add(row * stride));
                }
            } else if rows > 0 {
                // Without a branch for each row, or the block would be kept in memory.
                let (rows_there, columns) = (first_lanes(rows), first_lanes(columns));
                for (row, values) in block.iter_mut().enumerate() {
                    let there = if rows_there >> row & 1 == 1 { columns } else { 0 };
                    *values = _mm512_maskz_loadu_ps(there, from.add(row.min(rows - 1) * stride));
                }
            }
            // Blocks of 4 by 4: vector 4 g + k then has column k of rows 4 g .. 4 g + 4 in each quarter.
            for four in block.chunks_exact_mut(4) {
                let ([ab_low, ab_high], [cd_low, cd_high]) = (unpack(four[0], four[1]), unpack(four[2], four[3]));
                [four[0], four[1]] = unpack_pairs(ab_low, cd_low);
                [four[2], four[3]] = unpack_pairs(ab_high, cd_high);
            }
            // Then the quarters.
            let mut turned = block;
            for k in 0..4 {
                let (a, b, c, d) = (block[k], block[4 + k], block[8 + k], block[12 + k]);
                let (even, even_below) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
                let (odd, odd_below) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
                turned[k] = _mm512_shuffle_f32x4::<0x88>(even, even_below);
                turned[4 + k] = _mm512_shuffle_f32x4::<0x88>(odd, odd_below);
                turned[8 + k] = _mm512_shuffle_f32x4::<0xdd>(even, even_below);
                turned[12 + k] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_below);
            }
            if columns == 16 {
                for (column, values) in turned.iter().enumerate() {
                    _mm512_storeu_ps(to.add(column * 16), _mm512_mul_ps(*values, factor.0));
                }
            } else {
                for (column, values) in turned.iter().enumerate().take(columns) {
                    _mm512_storeu_ps(to.add(column * 16), _mm512_mul_ps(*values, factor.0));
                }
            }
        }
    }
}
