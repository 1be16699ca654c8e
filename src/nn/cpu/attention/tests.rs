//! Bits do not depend on how many cores compute them. What they are is tested against the other backend in
//! `nn::agreement_tests`.

use super::*;
use crate::nn::cpu::Instructions;
use crate::nn::cpu::rotation::Rotations;
use crate::nn::{HeadNorm, Mask, Matrix, Pairing, PositionBias, Rotary};

/// Numbers in [-1, 1) that look random.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

fn bits(attention: &Attention, lengths: &[usize], most: Instructions, cores: usize) -> Vec<u32> {
    let sequences: Vec<Vec<u32>> = lengths.iter().map(|&length| vec![0; length]).collect();
    let batch = &PackedBatch::new(sequences.iter().map(Vec::as_slice));
    let rotation = attention.rotary.as_ref().map(|rotary| Rotations::default().get(rotary, batch.longest()));
    let qkv = &numbers(batch.tokens() * attention.input_width());
    let mut out = vec![f32::NAN; batch.tokens() * attention.output_width()];
    let layer = Layer { attention, rotation, qkv, batch, out: &mut out, buffers: &Arc::default() };
    layer.compute(Supported::at_most(most), cores);
    assert!(out.iter().all(|x| x.is_finite()), "every number is written");
    out.into_iter().map(f32::to_bits).collect()
}

#[track_caller]
fn check(attention: &Attention) {
    for most in [Instructions::Portable, Instructions::Avx2, Instructions::Avx512] {
        for lengths in [&[300][..], &[129, 3, 0, 48, 200], &[1]] {
            let one = bits(attention, lengths, most, 1);
            for cores in [2, 3, 16] {
                assert!(bits(attention, lengths, most, cores) == one, "{most:?}, {lengths:?}, {cores} cores");
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_cores() {
    for mask in [Mask::FULL, Mask::CAUSAL, Mask::window(20), Mask::window(150), Mask::causal_window(70)] {
        check(&Attention { mask, ..Attention::new(2, 32) });
    }
    check(&Attention { key_value_heads: 1, ..Attention::new(3, 20) });
    let rotary = Rotary::new(10_000.0, 16, Pairing::HalfSplit);
    let head_norm = HeadNorm { query: numbers(16), key: numbers(16), epsilon: 1e-6 };
    check(&Attention { rotary: Some(rotary), ..Attention::new(1, 16) });
    check(&Attention { head_norm: Some(head_norm), ..Attention::new(2, 16) });
    let slopes = PositionBias::Slopes(vec![0.5, 0.1]);
    let buckets =
        PositionBias::Buckets { table: Matrix { rows: 8, columns: 2, values: numbers(16) }, max_distance: 64 };
    for bias in [slopes, buckets] {
        check(&Attention { position_bias: Some(bias), mask: Mask::CAUSAL, ..Attention::new(2, 16) });
    }
}

#[test]
fn only_much_work_is_divided() {
    let cores = |length: usize, mask: Mask| {
        let batch = &PackedBatch::new([vec![0; length].as_slice()]);
        let attention = &Attention { mask, ..Attention::new(12, 32) };
        Layer { attention, rotation: None, qkv: &[], batch, out: &mut [], buffers: &Arc::default() }.cores_of_use(4)
    };
    assert_eq!([0, 30, 60, 8000].map(|length| cores(length, Mask::FULL)), [1, 1, 2, 4]);
    assert_eq!(cores(60, Mask::window(10)), 1);
}
