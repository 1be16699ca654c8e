//! The project's own kernels for GPUs of NVIDIA against the plain tensors that they stand for, on one device: where
//! `EMBED_TEST_GPU` names the UUID of a GPU, or of a stand-in that computes (`tests/gpu/stand_in`).
//!
//! What goes in has been rounded to the numbers of the kernel, so that plain tensors in f32 give what would be exact, and
//! a kernel may differ by what it rounds itself.

mod case;

use std::time::Instant;

use embed_collections::domain::PackedBatch;
use embed_collections::model::pooling::Pooling;
use embed_collections::nn::{
    Activation, Attention, Backend, Branch, Candle, Epilogue, FeedForward, HeadNorm, Inner, Mask, Matrix, Numbers,
    Pairing, PositionBias, Rotary,
};
use proptest::test_runner::{Config, TestRunner};

use self::case::{AttentionCase, attention_cases, device, noise_matrix, plain, rounded, unit};

/// What a kernel may lose in f32, of the size of what it sums, where it adds up in another order.
const F32_COST: f32 = 5e-6;

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], allowed: impl Fn(f32) -> f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference <= allowed(*expected), "{what}: number {place} is {found} and should be {expected}");
    }
}

/// What the attention of a batch gives.
fn attend(backend: &Candle, attention: &Attention, qkv: &Matrix, batch: &PackedBatch) -> Vec<f32> {
    let layer = backend.attention(attention.clone()).unwrap();
    let qkv = case::up(backend, qkv);
    case::down(backend, &backend.apply_attention(&layer, &qkv, batch).unwrap())
}

#[track_caller]
fn check_attention(case: &AttentionCase, numbers: &[Numbers]) {
    let batch = case.batch();
    for &numbers in numbers {
        let Some(fused) = device(numbers) else { continue };
        let qkv = rounded(&case.qkv(), numbers);
        let expected = attend(&plain(Numbers::F32).unwrap(), &case.attention, &qkv, &batch);
        let found = attend(&fused, &case.attention, &qkv, &batch);
        let allowed = case.allowed(&qkv, numbers).max(F32_COST);
        assert_close(&format!("{case:?} in {numbers}"), &found, &expected, |_| allowed);
    }
}

const ALL: [Numbers; 3] = [Numbers::F32, Numbers::F16, Numbers::Bf16];

#[test]
fn attention_is_that_of_plain_tensors() {
    if device(Numbers::F32).is_none() {
        return;
    }
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let check = |case: AttentionCase| {
        check_attention(&case, &ALL);
        Ok(())
    };
    TestRunner::new(config).run(&attention_cases(), check).unwrap();
}

#[test]
fn every_size_of_heads_is_that_of_plain_tensors() {
    for head_size in [1, 7, 8, 31, 32, 33, 64, 72, 96, 100, 128, 129, 200, 256] {
        let attention = Attention { key_value_heads: 1, ..Attention::new(2, head_size) };
        check_attention(&AttentionCase::new(attention, &[(70, 0), (1, 0)]), &ALL);
    }
}

/// A tile has 64 queries and up to 64 keys: lengths around that, and several of them.
#[test]
fn every_length_is_that_of_plain_tensors() {
    for length in [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300] {
        let masks = [Mask::FULL, Mask::CAUSAL, Mask::window(3), Mask::window(70), Mask::causal_window(65)];
        for mask in masks {
            let attention = Attention { mask, ..Attention::new(1, 16) };
            check_attention(&AttentionCase::new(attention, &[(length, 0)]), &ALL[..2]);
        }
    }
}

#[test]
fn tokens_that_are_not_seen_and_those_that_see_none_are_those_of_plain_tensors() {
    for mask in [Mask::FULL, Mask::CAUSAL, Mask::window(40)] {
        let attention = Attention { mask, ..Attention::new(2, 16) };
        check_attention(&AttentionCase::new(attention.clone(), &[(90, 30), (40, 0), (5, 4)]), &ALL);
        // Some see none: their results are those of plain tensors, whatever they are.
        let case = AttentionCase::new(attention, &[(90, 80), (6, 0), (3, 3)]);
        let Some(fused) = device(Numbers::F16) else { return };
        let (qkv, batch) = (rounded(&case.qkv(), Numbers::F16), case.batch());
        let plain = plain(Numbers::F16).unwrap();
        let found = attend(&fused, &case.attention, &qkv, &batch);
        let expected = attend(&plain, &case.attention, &qkv, &batch);
        assert_close(&format!("{case:?}"), &found, &expected, |_| 2.0 * unit(Numbers::F16) * 1.5);
    }
}

#[test]
fn positions_and_norms_of_heads_are_those_of_plain_tensors() {
    for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
        for (head_size, rotated) in [(16, 16), (24, 10), (7, 6), (64, 32), (9, 0)] {
            for norms in [false, true] {
                let rotary = (rotated > 0).then(|| Rotary::new(10_000.0, rotated, pairing));
                let of = |seed| case::noise(seed, 2.0, head_size);
                let head_norm = norms.then(|| HeadNorm { query: of(1), key: of(2), epsilon: 1e-6 });
                let attention = Attention { key_value_heads: 2, rotary, head_norm, ..Attention::new(4, head_size) };
                check_attention(&AttentionCase::new(attention, &[(3, 0), (70, 0), (20, 0)]), &ALL);
            }
        }
    }
}

#[test]
fn what_is_added_by_distance_is_that_of_plain_tensors() {
    let slopes = PositionBias::Slopes(vec![0.5, 0.1, 0.7]);
    let buckets = PositionBias::Buckets { table: noise_matrix(3, 2.0, 32, 3), max_distance: 40 };
    for bias in [slopes, buckets] {
        for mask in [Mask::FULL, Mask::CAUSAL] {
            let attention = Attention { mask, position_bias: Some(bias.clone()), ..Attention::new(3, 16) };
            check_attention(&AttentionCase::new(attention, &[(3, 0), (140, 20), (66, 0)]), &ALL);
        }
    }
}

/// [outputs, inputs], each output one of the inputs: products are exact in all numbers.
fn selection(outputs: usize, inputs: usize, shift: usize) -> Matrix {
    let mut values = vec![0.0; outputs * inputs];
    (0..outputs).for_each(|output| values[output * inputs + (output + shift) % inputs] = 1.0);
    Matrix { rows: outputs, columns: inputs, values }
}

const ACTIVATIONS: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];

/// Widths that are whole accesses and such that are not, some more than one block has threads.
const WIDTHS: [usize; 6] = [1, 7, 32, 132, 1032, 2100];

/// Runs an operation of [tokens, width] with both kernels, in all numbers; an output may be rounded once.
#[track_caller]
fn check_rows(what: &str, width: usize, rounds: f32, operation: impl Fn(&Candle, Numbers, &Matrix) -> Vec<Vec<f32>>) {
    for numbers in ALL {
        let Some(fused) = device(numbers) else { continue };
        let input = rounded(&noise_matrix(5, 4.0, 5, width), numbers);
        let expected = operation(&plain(Numbers::F32).unwrap(), numbers, &input);
        let found = operation(&fused, numbers, &input);
        for (found, expected) in found.iter().zip(&expected) {
            let allowed = |expected: f32| (rounds * unit(numbers) + F32_COST) * expected.abs() + F32_COST;
            assert_close(&format!("{what} of {width} numbers in {numbers}"), found, expected, allowed);
        }
    }
}

/// Numbers of a weight, as the backend under test will have them.
fn weights(seed: u64, count: usize, numbers: Numbers) -> Vec<f32> {
    rounded(&noise_matrix(seed, 1.0, 1, count), numbers).values
}

#[test]
fn linear_layers_end_as_those_of_plain_tensors() {
    for width in WIDTHS {
        for bias in [false, true] {
            let inputs = width.min(40);
            let layer = |backend: &Candle, numbers| {
                backend.linear(selection(width, inputs, 1), bias.then(|| weights(3, width, numbers))).unwrap()
            };
            let head = |input: &Matrix| Matrix {
                columns: inputs,
                values: input.values.chunks_exact(width).flat_map(|row| row[..inputs].to_vec()).collect(),
                ..*input
            };
            check_rows("a linear layer", width, 1.0, |backend, numbers, input| {
                let layer = layer(backend, numbers);
                let (input, residual) = (case::up(backend, &head(input)), case::up(backend, input));
                let epilogues = ACTIVATIONS.map(Epilogue::Activation).into_iter();
                let epilogues = epilogues.chain([Epilogue::Bias, Epilogue::Residual(&residual)]);
                epilogues
                    .map(|epilogue| case::down(backend, &backend.apply_linear(&layer, &input, epilogue).unwrap()))
                    .collect()
            });
        }
    }
}

#[test]
fn gates_are_those_of_plain_tensors() {
    for width in WIDTHS {
        for activation in ACTIVATIONS {
            check_rows("a gate", width, 2.0, |backend, numbers, input| {
                let inputs = input.columns;
                let layer = |shift, seed| {
                    backend.linear(selection(width, inputs, shift), Some(weights(seed, width, numbers))).unwrap()
                };
                let without_bias = |shift| backend.linear(selection(width, inputs, shift), None).unwrap();
                let activations = case::up(backend, input);
                [
                    Inner::Gated { gate: layer(1, 7), up: layer(0, 8), activation },
                    Inner::Gated { gate: without_bias(0), up: without_bias(3), activation },
                ]
                .into_iter()
                .map(|inner| {
                    let layer = FeedForward { inner, down: without_bias(0) };
                    case::down(backend, &backend.apply_feed_forward(&layer, &activations, Epilogue::Bias).unwrap())
                })
                .collect()
            });
        }
    }
}

#[test]
fn norms_of_sums_are_those_of_plain_tensors() {
    // Of a few numbers that happen to lie close together, no norm has more digits than their differences.
    for width in [32, 132, 1031, 2048] {
        for bias in [false, true] {
            check_rows("a norm", width, 2.0, |backend, numbers, input| {
                let layer =
                    backend.linear(selection(width, width, 1), bias.then(|| weights(3, width, numbers))).unwrap();
                let shift = bias.then(|| weights(6, width, numbers));
                let norms = [
                    backend.layer_norm(weights(4, width, numbers), shift, 1e-5).unwrap(),
                    backend.rms_norm(weights(4, width, numbers), 1e-5).unwrap(),
                ];
                let residual = rounded(&noise_matrix(9, 2.0, input.rows, width), numbers);
                let (input, residual) = (case::up(backend, input), case::up(backend, &residual));
                let mut found = Vec::new();
                for norm in &norms {
                    found.push(backend.apply_norm(norm, &input).unwrap());
                    let branch = || Branch::Linear(&layer);
                    found.push(backend.add_branch_then_norm(branch(), &input, &residual, norm).unwrap());
                    let (sum, normed) = backend.add_branch_and_norm(branch(), &input, &residual, norm).unwrap();
                    found.extend([sum, normed]);
                }
                // What was given is as it was.
                found.extend([input, residual]);
                found.iter().map(|found| case::down(backend, found)).collect()
            });
        }
    }
}

#[test]
fn rows_too_wide_for_a_block_are_left_to_plain_tensors() {
    check_rows("a norm", 12_225, 3.0, |backend, numbers, input| {
        let norm = backend.rms_norm(weights(4, input.columns, numbers), 1e-5).unwrap();
        vec![case::down(backend, &backend.apply_norm(&norm, &case::up(backend, input)).unwrap())]
    });
}

#[test]
fn what_is_not_a_number_stays_so_and_stays_in_its_sequence() {
    let attention = Attention::new(1, 16);
    for poisoned in [0, 16, 32] {
        for numbers in ALL {
            let Some(backend) = device(numbers) else { continue };
            let mut qkv = noise_matrix(1, 1.0, 40, 48);
            qkv.values[25 * 48 + poisoned] = f32::NAN;
            let batch = AttentionCase::new(attention.clone(), &[(20, 0), (20, 0)]).batch();
            let found = attend(&backend, &attention, &qkv, &batch);
            assert!(found[..20 * 16].iter().all(|number| number.is_finite()), "{numbers}: {poisoned}");
            assert!(found[25 * 16..26 * 16].iter().any(|number| number.is_nan()), "{numbers}: {poisoned}");
        }
    }
}

/// Milliseconds of attention over 65,536 tokens, by the project's kernels and by plain tensors.
#[test]
#[ignore = "measures, where there is a GPU to be measured: tests/gpu/check.sh"]
fn attention_is_timed() {
    const TOKENS: usize = 1 << 16;
    for (heads, head_size, length) in [(12, 32, 128), (12, 64, 128), (12, 64, 512), (12, 64, 2048), (16, 128, 512)] {
        for numbers in ALL {
            let Some(fused) = device(numbers) else { continue };
            let attention = Attention::new(heads, head_size);
            let case = AttentionCase::new(attention.clone(), &vec![(length, 0); TOKENS / length]);
            let (qkv, batch) = (case.qkv(), case.batch());
            let milliseconds = |backend: &Candle| {
                let (layer, qkv) = (backend.attention(attention.clone()).unwrap(), case::up(backend, &qkv));
                let repeat = |times: u32| {
                    let begin = Instant::now();
                    let mut last = None;
                    for _ in 0..times {
                        last = Some(backend.apply_attention(&layer, &qkv, &batch).unwrap());
                    }
                    // Waits until all of it is done.
                    backend.pool(&[Pooling::Cls], 0, &last.unwrap(), &batch).unwrap().get().unwrap();
                    begin.elapsed().as_secs_f64() * 1000.0 / f64::from(times)
                };
                repeat(2);
                repeat(10)
            };
            let (own, plain) = (milliseconds(&fused), milliseconds(&plain(numbers).unwrap()));
            println!(
                "{{\"heads\": {heads}, \"head_size\": {head_size}, \"length\": {length}, \"numbers\": \"{numbers}\", \
                 \"fused_ms\": {own:.3}, \"plain_ms\": {plain:.3}}}"
            );
        }
    }
}
