//! The backends against sums by hand, against each other over random shapes, and against themselves: a sequence alone and
//! among others.

mod by_hand;
mod heads;
mod random;

use super::cpu::Instructions;
use super::*;
use crate::domain::{PackedBatch, SparseVector, TokenSeq};
use crate::model::pooling::{Pooling, SpladeActivation, SpladePooling, SpladeStrategy};

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
