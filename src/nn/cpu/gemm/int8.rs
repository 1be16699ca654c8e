//! Linear layers in eight-bit integers: a word is four numbers, and one instruction adds all their products to a sum.
//!
//! A weight is w = s q with a scale for each output and q in -127 ..= 127. An activation is x = t (p - z) with a scale
//! and a zero for each row and p in 0 ..= 255, found from the row's least and largest number; both may be lopsided, as
//! they are after an activation function, without a loss of digits. Then Σ w x = s t (Σ q p - z Σ q), in which both sums
//! are exact. (Dynamic quantisation; Jacob et al. 2018, <https://arxiv.org/abs/1712.05877>, section 2.)
//!
//! Σ q and s of each output are the first two words of a panel, z and t of a row its first two words.

use std::arch::x86_64::{
    __m512, __m512i, _mm_storeu_si128, _mm512_add_epi32, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepi32_ps,
    _mm512_cvtps_epi32, _mm512_cvtsi512_si32, _mm512_cvtusepi32_epi8, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_max_epi32, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_mullo_epi32,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_reduce_min_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
};

use pulp::x86::V4;

use super::panels::{Cut, Panels};
use super::tile::{Later, Tiles, prefetch};
use super::words::{load, rows_of, tiles_of_words};
use crate::nn::Matrix;

/// That the processor has AVX-512 with VNNI.
#[derive(Debug, Clone, Copy)]
pub(super) struct Int8(V4);

/// Numbers in a word.
const FOUR: usize = 4;

/// Words before those of the numbers.
const HEAD: usize = 2;

/// Most inputs whose sums cannot leave 32 bits: 2³¹ / (255 · 127).
const MAX_INPUTS: usize = 66_000;

/// Largest weight as an integer.
const LARGEST: f32 = 127.0;

/// Largest activation as an integer.
const STEPS: f32 = 255.0;

/// Least scale of a row; its inverse is still finite. Smaller numbers are zeros.
const MIN_SCALE: f32 = 1e-36;

impl Int8 {
    /// If it has.
    pub(super) fn try_new() -> Option<Self> {
        V4::try_new().filter(|_| is_x86_feature_detected!("avx512vnni")).map(Self)
    }

    /// Words of a row of so many numbers.
    pub(super) fn words(inputs: usize) -> usize {
        HEAD + inputs.div_ceil(FOUR)
    }

    /// A weight of [outputs, inputs].
    ///
    /// # Panics
    /// When there are more inputs than sums can hold.
    pub(super) fn pack(weight: &Matrix) -> Panels<u32> {
        let (outputs, inputs) = (weight.rows, weight.columns);
        assert!(inputs <= MAX_INPUTS, "no more than {MAX_INPUTS} inputs can be summed in 32 bits");
        let scales: Vec<f32> = (0..outputs)
            .map(|output| {
                let row = &weight.values[output * inputs..][..inputs];
                // What is not finite makes the scale so, and with it all results.
                let fault: f32 = row.iter().map(|value| value * 0.0).sum();
                row.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / LARGEST + fault
            })
            .collect();
        let quantized = |output: usize, input: usize| -> i8 {
            if input >= inputs || scales[output] == 0.0 {
                return 0;
            }
            #[expect(clippy::cast_possible_truncation, reason = "the quotient is between -127 and 127")]
            let value = (weight.values[output * inputs + input] / scales[output]).round_ties_even() as i8;
            value
        };
        Panels::pack(
            outputs,
            Self::words(inputs),
            Cut { width: Self::WIDTH, granule: Self::GRANULE },
            |output, word| match word {
                0 => (0..inputs).map(|input| i32::from(quantized(output, input))).sum::<i32>().cast_unsigned(),
                1 => scales[output].to_bits(),
                word => {
                    let first = FOUR * (word - HEAD);
                    u32::from_le_bytes([0, 1, 2, 3].map(|place| quantized(output, first + place).cast_unsigned()))
                }
            },
        )
    }
}

tiles_of_words!(Int8, sum, quantize);

/// `ROWS` rows of [ROWS, words] by a panel of [words, VECTORS].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sum<const ROWS: usize, const VECTORS: usize>(input: &[u32], panel: &[u32], later: &[u32], sums: &mut [f32]) {
    let (panel, _) = panel.as_chunks::<16>().0.as_chunks::<VECTORS>();
    let words = panel.len();
    let rows = rows_of::<ROWS>(input, words);
    let [sums_of_weights, scales] = [&panel[0], &panel[1]];
    let mut totals = [[_mm512_setzero_si512(); VECTORS]; ROWS];
    for row in 0..ROWS {
        let zero = _mm512_set1_epi32(rows[row][0].cast_signed().wrapping_neg());
        for vector in 0..VECTORS {
            totals[row][vector] = _mm512_mullo_epi32(zero, load(&sums_of_weights[vector]));
        }
    }
    let mut later = Later::new(later, words);
    for (index, weights) in panel.iter().enumerate().skip(HEAD) {
        prefetch(weights);
        later.ask();
        let mut fours = [_mm512_setzero_si512(); VECTORS];
        for vector in 0..VECTORS {
            fours[vector] = load(&weights[vector]);
        }
        for row in 0..ROWS {
            let activations = _mm512_set1_epi32(rows[row][index].cast_signed());
            for vector in 0..VECTORS {
                totals[row][vector] = _mm512_dpbusd_epi32(totals[row][vector], activations, fours[vector]);
            }
        }
    }
    let (places, _) = sums.as_chunks_mut::<16>().0.as_chunks_mut::<VECTORS>();
    assert_eq!(places.len(), ROWS);
    for row in 0..ROWS {
        let scale = _mm512_set1_ps(f32::from_bits(rows[row][1]));
        for vector in 0..VECTORS {
            let scale = _mm512_mul_ps(scale, _mm512_castsi512_ps(load(&scales[vector])));
            let total = _mm512_mul_ps(_mm512_cvtepi32_ps(totals[row][vector]), scale);
            // SAFETY: the place has sixteen numbers.
            unsafe { _mm512_storeu_ps(places[row][vector].as_mut_ptr(), total) };
        }
    }
}

/// A row of numbers to words: zero, scale, fours.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn quantize(row: &[f32], words: &mut [u32]) {
    let (blocks, rest) = row.as_chunks::<16>();
    let mut last = [0.0; 16];
    last[..rest.len()].copy_from_slice(rest);
    // Several of each, so that none waits for the one before.
    let mut extremes = [Extremes::new(); CHAINS];
    let (groups, ungrouped) = blocks.as_chunks::<CHAINS>();
    for group in groups {
        for (extremes, block) in extremes.iter_mut().zip(group) {
            extremes.include(block);
        }
    }
    for block in ungrouped.iter().chain([&last]) {
        extremes[0].include(block);
    }
    let Extremes { least, largest, fault } = extremes[0].and(extremes[1]).and(extremes[2].and(extremes[3]));
    let (least, largest) = (_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(largest));
    let scale = ((largest - least) / STEPS).max(MIN_SCALE);
    let inverse = 1.0 / scale;
    // The nearest, the even one of two; what is not a number does not matter.
    let zero = _mm512_cvtsi512_si32(_mm512_cvtps_epi32(_mm512_set1_ps(-least * inverse)));
    words[0] = zero.cast_unsigned();
    words[1] = (scale + _mm512_reduce_add_ps(fault)).to_bits();
    let (places, places_rest) = words[HEAD..].split_at_mut(blocks.len() * FOUR);
    let (inverse, zero) = (_mm512_set1_ps(inverse), _mm512_set1_epi32(zero));
    for (block, place) in blocks.iter().zip(places.as_chunks_mut::<FOUR>().0) {
        quantize_block(block, inverse, zero, place);
    }
    if !rest.is_empty() {
        let mut place = [0; FOUR];
        quantize_block(&last, inverse, zero, &mut place);
        places_rest.copy_from_slice(&place[..places_rest.len()]);
    }
}

/// Chains of dependent instructions that are as fast as one: each takes four cycles for what one could begin in half of
/// one.
const CHAINS: usize = 4;

/// What is known of some numbers, lane by lane.
#[derive(Clone, Copy)]
struct Extremes {
    least: __m512,
    largest: __m512,
    /// 0, or not a number if there was such or an infinite one.
    fault: __m512,
}

impl Extremes {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new() -> Self {
        Self { least: _mm512_setzero_ps(), largest: _mm512_setzero_ps(), fault: _mm512_setzero_ps() }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn include(&mut self, block: &[f32; 16]) {
        let block = load_floats(block);
        self.least = _mm512_min_ps(self.least, block);
        self.largest = _mm512_max_ps(self.largest, block);
        self.fault = _mm512_fmadd_ps(block, _mm512_setzero_ps(), self.fault);
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn and(self, other: Self) -> Self {
        Self {
            least: _mm512_min_ps(self.least, other.least),
            largest: _mm512_max_ps(self.largest, other.largest),
            fault: _mm512_add_ps(self.fault, other.fault),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn quantize_block(block: &[f32; 16], inverse: __m512, zero: __m512i, place: &mut [u32; FOUR]) {
    let steps = _mm512_cvtps_epi32(_mm512_mul_ps(load_floats(block), inverse));
    let steps = _mm512_max_epi32(_mm512_add_epi32(steps, zero), _mm512_setzero_si512());
    // SAFETY: four words are sixteen bytes.
    unsafe { _mm_storeu_si128(place.as_mut_ptr().cast(), _mm512_cvtusepi32_epi8(steps)) };
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_floats(numbers: &[f32; 16]) -> __m512 {
    // SAFETY: sixteen numbers are a vector.
    unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
}
