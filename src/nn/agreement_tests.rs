//! The backends against sums by hand, against each other over random shapes, and against themselves: a sequence alone and
//! among others.

use proptest::prelude::*;

use super::cpu::Instructions;
use super::*;
use crate::domain::TokenSeq;

const ALL_INSTRUCTIONS: [Instructions; 3] = [Instructions::Portable, Instructions::Avx2, Instructions::Avx512];

/// Operations from host to host.
trait OnHost {
    fn name(&self) -> String;
    fn attend(&self, attention: &Attention, qkv: &Matrix, batch: &PackedBatch) -> Vec<f32>;
    fn attend_relatively(&self, attention: &RelativeAttention, qkv: &Matrix, batch: &PackedBatch) -> Vec<f32>;
    fn norm(&self, norm: &TestNorm, input: &Matrix) -> Vec<f32>;
    fn feed_forward(&self, layer: &TestFeedForward, cores: usize, input: &Matrix) -> Vec<f32>;
    fn scaled_sum(&self, one: &Matrix, other: &Matrix, factor: f32) -> Vec<f32>;
    fn pooled(&self, poolings: &[Pooling], left_out: usize, input: &Matrix, batch: &PackedBatch) -> Vec<f32>;
    fn weights(&self, pooling: SpladePooling, layer: &TestDecoder, batch: &PackedBatch) -> Vec<SparseVector>;
}

/// [vocabulary, width] and bias of the last layer of a masked language model, and its input.
struct TestDecoder {
    weight: Matrix,
    bias: Vec<f32>,
    input: Matrix,
}

#[derive(Debug, Clone)]
enum TestNorm {
    Layer(Vec<f32>, Option<Vec<f32>>),
    Rms(Vec<f32>),
}

/// Weights; the layers of the first half have a bias, the second half has none.
struct TestFeedForward {
    gate: Option<Matrix>,
    up: Matrix,
    down: Matrix,
    bias: Vec<f32>,
    activation: Activation,
}

/// A backend by name.
struct Named<B>(String, B);

impl<B: Backend> Named<B> {
    fn up(&self, matrix: &Matrix) -> B::Activations {
        let indices: Vec<u32> = (0..u32::try_from(matrix.rows).unwrap()).collect();
        let table = self.1.embedding(matrix.clone()).unwrap();
        self.1.embed(&[(&table, &indices)]).unwrap()
    }

    fn down(&self, activations: &B::Activations, rows: usize) -> Vec<f32> {
        self.1.pool(&[Pooling::Cls], 0, activations, &batch_of(&vec![1; rows])).unwrap().get().unwrap()
    }
}

impl<B: Backend + Clone> OnHost for Named<B> {
    fn name(&self) -> String {
        self.0.clone()
    }

    fn attend(&self, attention: &Attention, qkv: &Matrix, batch: &PackedBatch) -> Vec<f32> {
        let layer = self.1.attention(attention.clone()).unwrap();
        self.down(&self.1.apply_attention(&layer, &self.up(qkv), batch).unwrap(), qkv.rows)
    }

    fn attend_relatively(&self, attention: &RelativeAttention, qkv: &Matrix, batch: &PackedBatch) -> Vec<f32> {
        let layer = self.1.relative_attention(attention.clone()).unwrap();
        self.down(&self.1.apply_relative_attention(&layer, &self.up(qkv), batch).unwrap(), qkv.rows)
    }

    fn norm(&self, norm: &TestNorm, input: &Matrix) -> Vec<f32> {
        let norm = match norm.clone() {
            TestNorm::Layer(weight, bias) => self.1.layer_norm(weight, bias, 1e-6).unwrap(),
            TestNorm::Rms(weight) => self.1.rms_norm(weight, 1e-6).unwrap(),
        };
        self.down(&self.1.apply_norm(&norm, &self.up(input)).unwrap(), input.rows)
    }

    fn feed_forward(&self, layer: &TestFeedForward, cores: usize, input: &Matrix) -> Vec<f32> {
        let mut backend = self.1.clone();
        backend.use_cores(cores);
        let first = |weight: &Matrix| backend.linear(weight.clone(), Some(layer.bias.clone())).unwrap();
        let (up, activation) = (first(&layer.up), layer.activation);
        let inner = match &layer.gate {
            Some(gate) => Inner::Gated { gate: first(gate), up, activation },
            None => Inner::Plain { up, activation },
        };
        let layer = FeedForward { inner, down: backend.linear(layer.down.clone(), None).unwrap() };
        let activations = self.up(input);
        let output = backend.apply_feed_forward(&layer, &activations, Epilogue::Residual(&activations)).unwrap();
        self.down(&output, input.rows)
    }

    fn scaled_sum(&self, one: &Matrix, other: &Matrix, factor: f32) -> Vec<f32> {
        let sum = self.1.add(&self.up(one), &self.up(other)).unwrap();
        self.down(&self.1.scale(&sum, factor).unwrap(), one.rows)
    }

    fn pooled(&self, poolings: &[Pooling], left_out: usize, input: &Matrix, batch: &PackedBatch) -> Vec<f32> {
        self.1.pool(poolings, left_out, &self.up(input), batch).unwrap().get().unwrap()
    }

    fn weights(&self, pooling: SpladePooling, layer: &TestDecoder, batch: &PackedBatch) -> Vec<SparseVector> {
        let decoder = self.1.linear(layer.weight.clone(), Some(layer.bias.clone())).unwrap();
        self.1.weigh_vocabulary(&decoder, &self.up(&layer.input), pooling, batch).unwrap().get().unwrap()
    }
}

fn cpus() -> impl Iterator<Item = Box<dyn OnHost>> {
    ALL_INSTRUCTIONS
        .map(Cpu::with_instructions)
        .into_iter()
        .map(|cpu| -> Box<dyn OnHost> { Box::new(Named(format!("{:?}", cpu.instructions()), cpu)) })
}

fn candle() -> Box<dyn OnHost> {
    Box::new(Named("candle".to_owned(), Candle::cpu()))
}

/// As on GPUs: sequences of several lengths padded together.
fn padded() -> Box<dyn OnHost> {
    Box::new(Named("candle, padded".to_owned(), Candle::cpu_as(Numbers::F32, Grouping::Padded)))
}

fn batch_of(lengths: &[usize]) -> PackedBatch {
    let sequences: Vec<Vec<u32>> = lengths.iter().map(|&length| vec![0; length]).collect();
    PackedBatch::new(sequences.iter().map(Vec::as_slice))
}

/// Numbers in [-size, size) that follow from the seed.
fn noise(seed: u64, size: f32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        // Numerical Recipes' generator; the upper bits are good enough here.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0) * size
    };
    (0..count).map(|_| next()).collect()
}

fn noise_matrix(seed: u64, size: f32, rows: usize, columns: usize) -> Matrix {
    Matrix { rows, columns, values: noise(seed, size, rows * columns) }
}

#[track_caller]
fn assert_close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    // Of the number's own size where it is large.
    assert_eq!(found.len(), expected.len(), "{name}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(
            difference <= tolerance * expected.abs().max(1.0),
            "{name}: number {index} is {found} and should be {expected}"
        );
    }
}

mod by_hand {
    use super::*;

    /// Each row is what a token has for q, then k, then v.
    #[track_caller]
    fn check(attention: &Attention, rows: &[&[f32]], expected: &[f32]) {
        let width = attention.input_width();
        let qkv = Matrix { rows: rows.len(), columns: width, values: rows.concat() };
        for backend in cpus().chain([candle(), padded()]) {
            let found = backend.attend(attention, &qkv, &batch_of(&[rows.len()]));
            assert_close(&backend.name(), &found, expected, 2e-6);
        }
    }

    const LN_3: f32 = 1.098_612_3;

    /// One head of one number, whose scores are q · k.
    fn simple() -> Attention {
        Attention { scale: 1.0, ..Attention::new(1, 1) }
    }

    #[test]
    fn values_are_weighted_by_the_exponentials_of_their_scores() {
        // Scores of the first query are 0 and 0, of the second 0 and ln 3.
        check(&simple(), &[&[0.0, 0.0, 4.0], &[1.0, LN_3, 8.0]], &[6.0, 7.0]);
        // Scores of 2 and 2 numbers are divided by √4.
        let wide = Attention::new(1, 4);
        let (zero, one) = ([0.0; 4], [1.0, 1.0, LN_3, LN_3]);
        let rows = [[zero, zero, [4.0; 4]].concat(), [one, [0.0, 0.0, 1.0, 1.0], [8.0; 4]].concat()];
        check(&wide, &[&rows[0], &rows[1]], &[6.0, 6.0, 6.0, 6.0, 7.0, 7.0, 7.0, 7.0]);
    }

    #[test]
    fn the_scale_is_the_one_given() {
        let attention = Attention { scale: 0.5, ..simple() };
        check(&attention, &[&[0.0, 0.0, 4.0], &[2.0, LN_3, 8.0]], &[6.0, 7.0]);
    }

    #[test]
    fn masked_keys_do_not_count() {
        let rows: [&[f32]; 4] = [&[0.0, 9.0, 1.0], &[0.0, -9.0, 2.0], &[0.0, 5.0, 6.0], &[0.0, 1.0, 7.0]];
        check(&Attention { mask: Mask::CAUSAL, ..simple() }, &rows, &[1.0, 1.5, 3.0, 4.0]);
        check(&Attention { mask: Mask::window(0), ..simple() }, &rows, &[1.0, 2.0, 6.0, 7.0]);
        check(&Attention { mask: Mask::window(1), ..simple() }, &rows, &[1.5, 3.0, 5.0, 6.5]);
        check(&Attention { mask: Mask::causal_window(2), ..simple() }, &rows, &[1.0, 1.5, 4.0, 6.5]);
    }

    #[test]
    fn tokens_that_are_not_seen_see_the_others() {
        let rows: [&[f32]; 3] = [&[0.0, 0.0, 4.0], &[0.0, 0.0, 8.0], &[1.0, LN_3, 80.0]];
        let qkv = Matrix { rows: 6, columns: 3, values: [rows.concat(), rows.concat()].concat() };
        let sequence = |unseen| TokenSeq { ids: vec![0; 3], truncated: 0, unseen };
        // The third token's own value counts where it is seen, three times as much for itself.
        let batch = PackedBatch::of(&[sequence(1), sequence(0)]);
        let all_seen = 92.0 / 3.0;
        let third = (4.0 + 8.0 + 3.0 * 80.0) / 5.0;
        for backend in cpus().chain([candle(), padded()]) {
            let found = backend.attend(&simple(), &qkv, &batch);
            assert_close(&backend.name(), &found, &[6.0, 6.0, 6.0, all_seen, all_seen, third], 2e-6);
        }
    }

    #[test]
    fn heads_of_a_group_share_keys_and_values() {
        let attention = Attention { key_value_heads: 2, scale: 1.0, ..Attention::new(4, 1) };
        // Four queries, two keys, two values: heads 0 and 1 have the first key and value.
        let rows: [&[f32]; 2] =
            [&[0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 4.0, 40.0], &[0.0, 1.0, 0.0, 1.0, LN_3, -LN_3, 8.0, 80.0]];
        check(&attention, &rows, &[6.0, 7.0, 60.0, 50.0, 6.0, 7.0, 60.0, 50.0]);
    }

    #[test]
    fn slopes_make_far_keys_weigh_less() {
        let bias = PositionBias::Slopes(vec![std::f32::consts::LN_2]);
        let attention = Attention { position_bias: Some(bias), ..simple() };
        let rows: [&[f32]; 3] = [&[0.0, 0.0, 7.0], &[0.0, 0.0, 14.0], &[0.0, 0.0, 28.0]];
        // Weights 4 : 2 : 1, 1 : 2 : 1, 1 : 2 : 4.
        check(&attention, &rows, &[12.0, 15.75, 21.0]);
    }

    #[test]
    fn buckets_tell_before_from_after() {
        let table = Matrix { rows: 4, columns: 1, values: vec![0.0, LN_3, 0.0, f32::NEG_INFINITY] };
        let bias = PositionBias::Buckets { table, max_distance: 8 };
        let attention = Attention { position_bias: Some(bias), ..simple() };
        // What comes before weighs three times as much as the query itself, what comes after nothing.
        check(&attention, &[&[0.0, 0.0, 4.0], &[0.0, 0.0, 8.0]], &[4.0, 5.0]);
    }

    #[test]
    fn rotary_positions_turn_queries_and_keys_alike() {
        // A quarter turn a token, the same queries and keys: scores ln 3 · cos(quarters between). The numbers of a head
        // that are not turned add nothing.
        let rotary = |pairing| Rotary { inverse_frequencies: vec![std::f32::consts::FRAC_PI_2], pairing };
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            let attention = Attention { scale: 1.0, rotary: Some(rotary(pairing)), ..Attention::new(1, 3) };
            let row = |value: f32| [LN_3, 0.0, 0.0, 1.0, 0.0, 0.0, value, value, 0.0];
            // Scores of the first query: ln 3, 0, -ln 3.
            let rows = [row(13.0), row(26.0), row(39.0)];
            let first = (3.0 * 13.0 + 26.0 + 39.0 / 3.0) / (3.0 + 1.0 + 1.0 / 3.0);
            let second = (13.0 + 3.0 * 26.0 + 39.0) / 5.0;
            let third = (13.0 / 3.0 + 26.0 + 3.0 * 39.0) / (3.0 + 1.0 + 1.0 / 3.0);
            let expected = [first, first, 0.0, second, second, 0.0, third, third, 0.0];
            check(&attention, &[&rows[0], &rows[1], &rows[2]], &expected);
        }
    }

    #[test]
    fn relative_positions_meet_the_contents_of_queries_and_of_keys() {
        // One number a head; scores are q · k + q · key of the distance + k · query of the distance. Rows are for keys
        // two and more after the query, one after, itself, one and more before.
        let table = |values: [f32; 4]| Some(Matrix { rows: 4, columns: 1, values: values.to_vec() });
        let check = |keys, queries, rows: &[&[f32]], expected: &[f32]| {
            let distances = Distances { span: 2, max_distance: None };
            let attention = RelativeAttention { heads: 1, head_size: 1, scale: 0.5, keys, queries, distances };
            let qkv = Matrix { rows: rows.len(), columns: 3, values: rows.concat() };
            for backend in cpus().chain([candle(), padded()]) {
                let found = backend.attend_relatively(&attention, &qkv, &batch_of(&[rows.len()]));
                assert_close(&backend.name(), &found, expected, 2e-6);
            }
        };
        let (twice, none) = (2.0 * LN_3, 0.0);
        // The query of the first token is 1, of the second -1: each puts weights 3 : 1 or 1 : 3 on the next and itself.
        let rows: [&[f32]; 2] = [&[1.0, 0.0, 4.0], &[-1.0, 0.0, 8.0]];
        check(table([none, twice, none, none]), None, &rows, &[7.0, 6.0]);
        check(table([none, none, none, twice]), None, &rows, &[6.0, 7.0]);
        // The key of the second token is 1, that of the first 0: only the second can gain.
        let rows: [&[f32]; 2] = [&[0.0, 0.0, 4.0], &[0.0, 1.0, 8.0]];
        check(None, table([none, twice, none, none]), &rows, &[7.0, 6.0]);
        check(None, table([none, none, twice, none]), &rows, &[6.0, 7.0]);
        // Contents alone.
        check(None, None, &[&[0.0, 0.0, 4.0], &[2.0, LN_3, 8.0]], &[6.0, 7.0]);
    }

    #[test]
    fn norms_of_heads_take_away_the_length_of_queries_and_keys() {
        let norm = HeadNorm { query: vec![1.0, 0.0], key: vec![LN_3 / 2.0, 5.0], epsilon: 0.0 };
        let attention = Attention { scale: 1.0, head_norm: Some(norm), ..Attention::new(1, 2) };
        // Normalised, queries are (√2, 0), and keys (0, √2) and (√2, 0), before weights.
        let rows: [&[f32]; 2] = [&[7.0, 0.0, 0.0, 3.0, 4.0, 4.0], &[0.1, 0.0, 90.0, 0.0, 8.0, 8.0]];
        check(&attention, &rows, &[7.0; 4]);
    }

    #[test]
    fn norms_gates_and_sums_are_their_formulas() {
        let input = Matrix { rows: 1, columns: 2, values: vec![1.0, 7.0] };
        let (weight, bias) = (vec![2.0, 10.0], vec![0.5, 1.0]);
        for backend in cpus().chain([candle(), padded()]) {
            let check = |found: Vec<f32>, expected: [f32; 2]| assert_close(&backend.name(), &found, &expected, 5e-6);
            // Mean 4, standard deviation 3; mean of squares 25.
            check(backend.norm(&TestNorm::Layer(weight.clone(), Some(bias.clone())), &input), [-1.5, 11.0]);
            check(backend.norm(&TestNorm::Layer(weight.clone(), None), &input), [-2.0, 10.0]);
            check(backend.norm(&TestNorm::Rms(weight.clone()), &input), [0.4, 14.0]);
            check(backend.scaled_sum(&input, &input, 0.25), [0.5, 3.5]);
            let square = |values: [f32; 4]| Matrix { rows: 2, columns: 2, values: values.to_vec() };
            let gated = |activation| {
                let (gate, up) = (Some(square([-3.0, 0.0, 2.0, 0.0])), square([5.0, 0.0, 0.0, 0.5]));
                let down = square([0.0, 1.0, 1.0, 0.0]);
                let layer = TestFeedForward { gate, up, down, bias: vec![0.0, 0.25], activation };
                // The second half changes places; the input is added.
                backend.feed_forward(&layer, 1, &Matrix { rows: 1, columns: 2, values: vec![1.0, 0.5] })
            };
            check(gated(Activation::Relu), [1.0 + 2.25 * 0.5, 0.5]);
            check(gated(Activation::Silu), [1.0 + 2.25 * 0.904_650_5 * 0.5, 0.5 - 3.0 * 0.047_425_87 * 5.0]);
        }
    }
}

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

/// Some rows through both kinds of layer: what candle's tensors give, and the same bits on any number of cores.
#[track_caller]
fn check_feed_forward(rows: usize, hidden: usize, inner: usize) {
    let input = noise_matrix(1, 1.0, rows, hidden);
    let gate = || Some(noise_matrix(5, 0.2, inner, hidden));
    let gated =
        [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu].map(|function| (gate(), function));
    for (gate, activation) in gated.into_iter().chain([(None, Activation::Gelu)]) {
        let layer = TestFeedForward {
            gate,
            up: noise_matrix(2, 0.2, inner, hidden),
            down: noise_matrix(4, 0.02, hidden, inner),
            bias: noise(3, 0.5, inner),
            activation,
        };
        let expected = candle().feed_forward(&layer, 1, &input);
        for cpu in cpus() {
            let found = cpu.feed_forward(&layer, 1, &input);
            assert_close(&cpu.name(), &found, &expected, 1e-5);
            // Two cores divide rows, more divide outputs.
            for cores in [2, 3, 5] {
                assert_eq!(cpu.feed_forward(&layer, cores, &input), found, "{} on {cores} cores", cpu.name());
            }
        }
    }
}

#[test]
fn feed_forward_layers_agree_in_one_block_and_in_several() {
    check_feed_forward(0, 5, 7);
    check_feed_forward(3, 5, 7);
    check_feed_forward(290, 9, 1500);
}

#[test]
fn bits_do_not_depend_on_the_number_of_cores() {
    // Long enough that each operation is divided.
    let batch = batch_of(&[700, 3, 1400]);
    let attention = Attention::new(8, 16);
    let input = noise_matrix(1, 2.0, batch.tokens(), attention.input_width());
    let norm = TestNorm::Layer(noise(2, 1.0, input.columns), Some(noise(3, 1.0, input.columns)));
    for most in ALL_INSTRUCTIONS {
        let results = |cores: usize| {
            let mut cpu = Cpu::with_instructions(most);
            cpu.use_cores(cores);
            let cpu = Named(format!("{most:?}"), cpu);
            let rows = [
                cpu.attend(&attention, &input, &batch),
                cpu.norm(&norm, &input),
                cpu.pooled(&[Pooling::Mean], 0, &input, &batch),
            ];
            rows.map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let one = results(1);
        for cores in [2, 5] {
            assert!(results(cores) == one, "{most:?}, {cores} cores");
        }
    }
}

#[test]
fn a_batch_without_tokens_has_no_result() {
    let attention = Attention {
        position_bias: Some(PositionBias::Slopes(vec![1.0])),
        rotary: Some(Rotary::new(10_000.0, 16, Pairing::HalfSplit)),
        ..Attention::new(1, 16)
    };
    let none = Matrix { rows: 0, columns: 48, values: Vec::new() };
    for backend in cpus().chain([candle(), padded()]) {
        for lengths in [&[][..], &[0], &[0, 0]] {
            assert!(backend.attend(&attention, &none, &batch_of(lengths)).is_empty(), "{}", backend.name());
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so_and_stays_in_its_sequence() {
    let attention = Attention::new(1, 16);
    for poisoned in [0, 16, 32] {
        for cpu in cpus().chain([padded()]) {
            let mut qkv = noise_matrix(1, 1.0, 40, 48);
            qkv.values[25 * 48 + poisoned] = f32::NAN;
            let result = cpu.attend(&attention, &qkv, &batch_of(&[20, 20]));
            assert!(result[..20 * 16].iter().all(|x| x.is_finite()), "{}: {poisoned}", cpu.name());
            assert!(result[25 * 16..26 * 16].iter().any(|x| x.is_nan()), "{}: {poisoned}", cpu.name());
        }
    }
}

/// Blocks of 16 tokens, which long sequences fill several of and short ones share.
#[test]
fn weights_of_a_vocabulary_agree_whatever_the_blocks() {
    let (vocabulary, width) = ((1 << 22) / 16, 3);
    let lengths = [1, 20, 0, 5, 37, 2];
    let batch = batch_of(&lengths);
    let weight = noise_matrix(1, 0.5, vocabulary, width);
    let bias = noise(2, 0.5, vocabulary);
    let input = noise_matrix(3, 1.0, batch.tokens(), width);
    let layer = TestDecoder { weight, bias, input };
    for (strategy, activation) in [
        (SpladeStrategy::Max, SpladeActivation::Relu),
        (SpladeStrategy::Sum, SpladeActivation::Relu),
        (SpladeStrategy::Max, SpladeActivation::Log1pRelu),
    ] {
        let pooling = SpladePooling { strategy, activation };
        let dense = |vectors: &[SparseVector]| {
            let mut all = vec![0.0; lengths.len() * vocabulary];
            for (vector, row) in vectors.iter().zip(all.chunks_exact_mut(vocabulary)) {
                vector.indices.iter().zip(&vector.values).for_each(|(index, value)| row[*index as usize] = *value);
            }
            all
        };
        let expected = dense(&candle().weights(pooling, &layer, &batch));
        assert!(expected.iter().any(|weight| *weight > 0.0) && expected.contains(&0.0));
        for backend in cpus().chain([padded()]) {
            let found = backend.weights(pooling, &layer, &batch);
            assert_eq!(found.len(), lengths.len());
            assert!(found[2].indices.is_empty(), "a sequence without tokens has no weights");
            assert_close(&backend.name(), &dense(&found), &expected, 2e-6);
        }
    }
}

/// On a device 16 tokens have logits at a time, and 16 sequences wait to be copied.
#[test]
fn weights_of_a_vocabulary_agree_where_a_batch_has_several_copies() {
    let vocabulary = 1 << 21;
    let batch = batch_of(&[&[1, 2, 37][..], &[1; 16]].concat());
    let input = noise_matrix(3, 1.0, batch.tokens(), 1);
    let layer = TestDecoder { weight: noise_matrix(1, 0.5, vocabulary, 1), bias: noise(2, 0.5, vocabulary), input };
    let pooling = SpladePooling { strategy: SpladeStrategy::Max, activation: SpladeActivation::Relu };
    let expected = cpus().last().unwrap().weights(pooling, &layer, &batch);
    for backend in [candle(), padded()] {
        let found = backend.weights(pooling, &layer, &batch);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.indices == expected.indices, "{}: other tokens have weights", backend.name());
            assert_close(&backend.name(), &found.values, &expected.values, 2e-6);
        }
    }
}

/// Of one token of one sequence, whatever the others have, and also where padding repeats it.
#[test]
fn a_weight_that_is_no_number_stays_so_and_stays_in_its_sequence() {
    let lengths = [3, 9, 4];
    let batch = batch_of(&lengths);
    for token in [3, 7, 11] {
        for strategy in [SpladeStrategy::Max, SpladeStrategy::Sum] {
            let pooling = SpladePooling { strategy, activation: SpladeActivation::Relu };
            let mut input = noise_matrix(3, 1.0, batch.tokens(), 5);
            input.values[token * 5] = f32::NAN;
            let layer = TestDecoder { weight: noise_matrix(1, 0.5, 40, 5), bias: noise(2, 0.5, 40), input };
            for backend in cpus().chain([candle(), padded()]) {
                let found = backend.weights(pooling, &layer, &batch);
                let finite = found.iter().map(|vector| vector.values.iter().all(|weight| weight.is_finite()));
                assert_eq!(finite.collect::<Vec<_>>(), [true, false, true], "{}, token {token}", backend.name());
            }
        }
    }
}

#[test]
fn what_is_copied_is_what_was_wanted() {
    #[track_caller]
    fn check<B: Backend + Clone>(backend: &Named<B>) {
        let input = noise_matrix(1, 1.0, 5, 3);
        let hidden = backend.up(&input);
        let product = Matrix { rows: 2, columns: 3, values: vec![1.0, 0.0, 0.0, 0.0, 2.0, -1.0] };
        let layer = backend.1.projection(product, Some(vec![0.5, 0.0])).unwrap();
        let (some, none) = ([4, 1], []);
        let wanted = [
            Wanted { tokens: None, projection: None },
            Wanted { tokens: Some(&none[..]), projection: Some(&layer) },
            Wanted { tokens: Some(&some[..]), projection: Some(&layer) },
            Wanted { tokens: Some(&some[..]), projection: None },
        ];
        let found = backend.1.copies(&hidden, &wanted).unwrap().get().unwrap();
        let row = |token: u32| &input.values[3 * token as usize..][..3];
        let product = |token| [row(token)[0] + 0.5, 2.0 * row(token)[1] - row(token)[2]];
        let expected = [input.values.clone(), vec![], some.map(product).concat(), some.map(row).concat()];
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(&backend.name(), found, expected, 1e-6);
        }
        assert!(backend.1.copies(&hidden, &[]).unwrap().get().unwrap().is_empty());
    }
    check(&Named("cpu".to_owned(), Cpu::new()));
    check(&Named("candle".to_owned(), Candle::cpu()));
}
