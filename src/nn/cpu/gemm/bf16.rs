//! Linear layers in bf16: a word is a pair of numbers, and one instruction adds both products of a pair to a sum in f32.
//!
//! Rounding to bf16 keeps eight bits of each factor, an error of 2⁻⁹ at most. Sums are not rounded to it.

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_storeu_ps, _mm512_storeu_si512,
};

use pulp::x86::V4;

use super::panels::{Cut, PAIR, Panels};
use super::tile::{Later, Tiles, prefetch};
use super::words::{load, rows_of, tiles_of_words};
use crate::nn::Matrix;

/// That the processor has AVX-512 with BF16.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bf16(V4);

/// Numbers that are rounded at once.
const ROUNDED: usize = 32;

impl Bf16 {
    /// If it has.
    pub(super) fn try_new() -> Option<Self> {
        V4::try_new().filter(|_| is_x86_feature_detected!("avx512bf16")).map(Self)
    }

    /// If it has, and multiplies pairs faster than single numbers.
    ///
    /// AMD's processors begin a product of pairs in every cycle, which is twice as many products as in f32. On Intel's
    /// (Emerald Rapids, measured) one begins where four to five in f32 could: there the matrix unit is meant for bf16.
    pub(super) fn if_fast() -> Option<Self> {
        let vendor = std::arch::x86_64::__cpuid(0);
        let vendor = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        Self::try_new().filter(|_| vendor.as_flattened() == b"AuthenticAMD")
    }

    /// Words of a row of so many numbers.
    pub(super) fn words(inputs: usize) -> usize {
        inputs.div_ceil(PAIR)
    }

    /// A weight of [outputs, inputs], rounded.
    pub(super) fn pack(weight: &Matrix) -> Panels<u32> {
        Panels::pairs(weight, Cut { width: Self::WIDTH, granule: Self::GRANULE })
    }
}

tiles_of_words!(Bf16, sum, round);

/// `ROWS` rows of [ROWS, words] by a panel of [words, VECTORS].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn sum<const ROWS: usize, const VECTORS: usize>(input: &[u32], panel: &[u32], later: &[u32], sums: &mut [f32]) {
    let (panel, _) = panel.as_chunks::<16>().0.as_chunks::<VECTORS>();
    let words = panel.len();
    let rows = rows_of::<ROWS>(input, words);
    let mut totals = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let mut later = Later::new(later, words);
    for (index, weights) in panel.iter().enumerate() {
        prefetch(weights);
        later.ask();
        let mut pairs = [_mm512_set1_epi32(0); VECTORS];
        for vector in 0..VECTORS {
            pairs[vector] = load(&weights[vector]);
        }
        for row in 0..ROWS {
            let activations = as_pairs(_mm512_set1_epi32(rows[row][index].cast_signed()));
            for vector in 0..VECTORS {
                totals[row][vector] = _mm512_dpbf16_ps(totals[row][vector], activations, as_pairs(pairs[vector]));
            }
        }
    }
    let (places, _) = sums.as_chunks_mut::<16>().0.as_chunks_mut::<VECTORS>();
    assert_eq!(places.len(), ROWS);
    for row in 0..ROWS {
        for vector in 0..VECTORS {
            // SAFETY: the place has sixteen numbers.
            unsafe { _mm512_storeu_ps(places[row][vector].as_mut_ptr(), totals[row][vector]) };
        }
    }
}

/// A row of numbers to words, rounded; denormal numbers become zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn round(row: &[f32], words: &mut [u32]) {
    let (blocks, rest) = row.as_chunks::<ROUNDED>();
    let (places, places_rest) = words.split_at_mut(blocks.len() * ROUNDED / PAIR);
    for (block, place) in blocks.iter().zip(places.as_chunks_mut::<{ ROUNDED / PAIR }>().0) {
        round_block(block, place);
    }
    if !rest.is_empty() {
        let (mut block, mut place) = ([0.0; ROUNDED], [0; ROUNDED / PAIR]);
        block[..rest.len()].copy_from_slice(rest);
        round_block(&block, &mut place);
        places_rest.copy_from_slice(&place[..places_rest.len()]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn round_block(block: &[f32; ROUNDED], place: &mut [u32; ROUNDED / PAIR]) {
    // SAFETY: block and place are as long as two vectors and one.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(block.as_ptr()), _mm512_loadu_ps(block.as_ptr().add(16)));
        _mm512_storeu_si512(place.as_mut_ptr().cast(), as_integers(_mm512_cvtne2ps_pbh(high, low)));
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn as_pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without meaning of their own.
    unsafe { std::mem::transmute(words) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn as_integers(pairs: __m512bh) -> __m512i {
    // SAFETY: both are 512 bits without meaning of their own.
    unsafe { std::mem::transmute(pairs) }
}
