//! The backends against each other over random shapes, and against themselves: a sequence alone and among others.

use proptest::prelude::*;

use super::*;

/// A random attention layer: shape and what it is made of.
#[derive(Debug, Clone)]
struct Case {
    attention: Attention,
    lengths: Vec<usize>,
    seed: u64,
}

impl Case {
    fn qkv(&self) -> Matrix {
        noise_matrix(self.seed, 1.5, self.lengths.iter().sum(), self.attention.input_width())
    }
}

fn masks() -> impl Strategy<Value = Mask> {
    prop_oneof![
        2 => Just(Mask::FULL),
        1 => Just(Mask::CAUSAL),
        1 => (0_usize..80).prop_map(Mask::window),
        1 => (1_usize..80).prop_map(Mask::causal_window),
        1 => (0_usize..80, 0_usize..80).prop_map(|(before, after)| Mask { before, after }),
    ]
}

fn attentions() -> impl Strategy<Value = Attention> {
    let head_sizes =
        prop_oneof![Just(16_usize), Just(20), Just(32), Just(64), Just(96), Just(128), Just(256), 1..70_usize];
    let rotaries = proptest::option::of((1_usize..=4, any::<bool>()));
    let biases = 0..4_usize;
    (1..=2_usize, 1..=3_usize, head_sizes, masks(), rotaries, biases, any::<bool>(), any::<u64>()).prop_map(
        |(key_value_heads, group, head_size, mask, rotary, bias, norms, seed)| {
            let heads = key_value_heads * group;
            let pairing = |interleaved| if interleaved { Pairing::Interleaved } else { Pairing::HalfSplit };
            let rotary = rotary.map(|(quarters, interleaved)| {
                let rotated = (head_size * quarters / 4) / 2 * 2;
                Rotary::new(10_000.0, rotated, pairing(interleaved))
            });
            let position_bias = match bias {
                0 => Some(PositionBias::Slopes(noise(seed, 0.5, heads).into_iter().map(f32::abs).collect())),
                1 => Some(PositionBias::Buckets { table: noise_matrix(seed, 2.0, 32, heads), max_distance: 128 }),
                _ => None,
            };
            let head_norm = norms.then(|| HeadNorm {
                query: noise(seed, 2.0, head_size),
                key: noise(seed + 1, 2.0, head_size),
                epsilon: 1e-6,
            });
            Attention { key_value_heads, mask, head_norm, rotary, position_bias, ..Attention::new(heads, head_size) }
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let lengths = prop_oneof![
        6 => proptest::collection::vec(0_usize..70, 1..5),
        1 => Just(vec![3, 300, 17]),
        1 => Just(vec![600]),
    ];
    (attentions(), lengths, any::<u64>()).prop_map(|(attention, lengths, seed)| Case { attention, lengths, seed })
}

/// A random attention layer with relative positions, and lengths of sequences.
fn relative_cases() -> impl Strategy<Value = (RelativeAttention, Vec<usize>, u64)> {
    let distances = prop_oneof![
        (1_usize..20).prop_map(|span| Distances { span, max_distance: None }),
        (2_usize..20, 0_usize..40).prop_map(|(span, more)| Distances { span, max_distance: Some(span / 2 + 2 + more) }),
    ];
    let lengths = prop_oneof![4 => proptest::collection::vec(0_usize..90, 1..5), 1 => Just(vec![3, 200, 17])];
    (1..=3_usize, 1..40_usize, distances, any::<bool>(), any::<bool>(), lengths, any::<u64>()).prop_map(
        |(heads, head_size, distances, has_keys, has_queries, lengths, seed)| {
            let table = |seed| noise_matrix(seed, 1.0, 2 * distances.span, heads * head_size);
            let keys = has_keys.then(|| table(seed.wrapping_add(1)));
            let queries = has_queries.then(|| table(seed.wrapping_add(2)));
            let scale = 1.0 / (3.0 * head_size as f32).sqrt();
            (RelativeAttention { heads, head_size, scale, keys, queries, distances }, lengths, seed)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn relative_attention_is_the_same_on_all_backends_and_in_any_batch((attention, lengths, seed) in relative_cases()) {
        let batch = batch_of(&lengths);
        let qkv = noise_matrix(seed, 1.5, batch.tokens(), attention.input_width());
        let expected = candle().attend_relatively(&attention, &qkv, &batch);
        assert_close("candle, padded", &padded().attend_relatively(&attention, &qkv, &batch), &expected, 5e-6);
        for cpu in cpus() {
            let together = cpu.attend_relatively(&attention, &qkv, &batch);
            assert_close(&cpu.name(), &together, &expected, 5e-6);
            for (bounds, &length) in batch.cu_seqlens().windows(2).zip(&lengths) {
                let own = bounds[0] * qkv.columns..bounds[1] * qkv.columns;
                let alone = Matrix { rows: length, columns: qkv.columns, values: qkv.values[own].to_vec() };
                let alone = cpu.attend_relatively(&attention, &alone, &batch_of(&[length]));
                let width = attention.output_width();
                assert_eq!(alone, together[bounds[0] * width..bounds[1] * width], "{}", cpu.name());
            }
        }
    }

    #[test]
    fn attention_is_the_same_on_all_backends(case in cases()) {
        let (qkv, batch) = (case.qkv(), batch_of(&case.lengths));
        let expected = candle().attend(&case.attention, &qkv, &batch);
        for cpu in cpus().chain([padded()]) {
            assert_close(&cpu.name(), &cpu.attend(&case.attention, &qkv, &batch), &expected, 5e-6);
        }
    }

    #[test]
    fn attention_of_a_sequence_does_not_depend_on_its_batch(case in cases()) {
        let (qkv, batch) = (case.qkv(), batch_of(&case.lengths));
        for cpu in cpus() {
            let together = cpu.attend(&case.attention, &qkv, &batch);
            for (bounds, &length) in batch.cu_seqlens().windows(2).zip(&case.lengths) {
                let own = bounds[0] * qkv.columns..bounds[1] * qkv.columns;
                let alone = Matrix { rows: length, columns: qkv.columns, values: qkv.values[own].to_vec() };
                let alone = cpu.attend(&case.attention, &alone, &batch_of(&[length]));
                let width = case.attention.output_width();
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&alone), bits(&together[bounds[0] * width..bounds[1] * width]));
            }
        }
    }

    #[test]
    fn norms_and_poolings_are_the_same_on_all_backends(
        lengths in proptest::collection::vec(1_usize..20, 1..4),
        width in 1_usize..150,
        seed in any::<u64>(),
    ) {
        let batch = batch_of(&lengths);
        let input = noise_matrix(seed, 4.0, batch.tokens(), width);
        let (weight, bias) = (noise(seed + 1, 1.0, width), noise(seed + 2, 1.0, width));
        let truth = candle();
        for cpu in cpus().chain([padded()]) {
            let check = |found: Vec<f32>, expected: Vec<f32>| assert_close(&cpu.name(), &found, &expected, 2e-5);
            let layer = TestNorm::Layer(weight.clone(), Some(bias.clone()));
            // Of a few numbers that happen to lie close together, no norm has more digits than their differences.
            if width >= 16 {
                for norm in [layer, TestNorm::Layer(weight.clone(), None), TestNorm::Rms(weight.clone())] {
                    check(cpu.norm(&norm, &input), truth.norm(&norm, &input));
                }
            }
            check(cpu.scaled_sum(&input, &input, 0.3), truth.scaled_sum(&input, &input, 0.3));
            for left_out in [0, 3, 25] {
                // The largest of nothing is infinite, which no difference can be taken of.
                let poolings: Vec<Pooling> =
                    Pooling::ALL.into_iter().filter(|pooling| left_out == 0 || *pooling != Pooling::Max).collect();
                let pooled = |backend: &dyn OnHost| backend.pooled(&poolings, left_out, &input, &batch);
                check(pooled(cpu.as_ref()), pooled(truth.as_ref()));
            }
        }
    }
}
