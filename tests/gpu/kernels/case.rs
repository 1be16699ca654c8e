//! What the kernels are tried with, and what they may lose by rounding.

use std::sync::OnceLock;

use embed_collections::domain::{PackedBatch, TokenSeq};
use embed_collections::model::pooling::Pooling;
use embed_collections::nn::{
    Attention, Backend, Candle, Gpu, HeadNorm, Kernels, Mask, Matrix, Numbers, Pairing, PositionBias, Rotary,
};
use half::{bf16, f16};
use proptest::prelude::*;

/// The GPU that is named, opened once.
fn gpu() -> Option<&'static Gpu> {
    static OPEN: OnceLock<Option<Gpu>> = OnceLock::new();
    let open = || std::env::var("EMBED_TEST_GPU").ok().map(|uuid| Gpu::cuda(&uuid).unwrap());
    OPEN.get_or_init(open).as_ref()
}

/// The kernels under test; none where there is no GPU, or none of such numbers on it.
pub(crate) fn device(numbers: Numbers) -> Option<Candle> {
    let Some(gpu) = gpu() else {
        println!("not checked: EMBED_TEST_GPU names no GPU");
        return None;
    };
    match Candle::on(gpu, numbers) {
        Ok(backend) => Some(backend),
        Err(refused) => {
            println!("not checked: {refused}");
            None
        }
    }
}

/// Plain tensors on the same device.
pub(crate) fn plain(numbers: Numbers) -> Option<Candle> {
    Some(device(numbers)?.with(Kernels::Plain))
}

/// Most that rounding to these numbers changes one, as a part of it.
pub(crate) fn unit(numbers: Numbers) -> f32 {
    match numbers {
        Numbers::F32 => f32::EPSILON / 2.0,
        Numbers::F16 => f16::EPSILON.to_f32() / 2.0,
        Numbers::Bf16 => bf16::EPSILON.to_f32() / 2.0,
    }
}

/// The nearest in these numbers.
pub(crate) fn rounded(matrix: &Matrix, numbers: Numbers) -> Matrix {
    let nearest = |value: &f32| match numbers {
        Numbers::F32 => *value,
        Numbers::F16 => f16::from_f32(*value).to_f32(),
        Numbers::Bf16 => bf16::from_f32(*value).to_f32(),
    };
    Matrix { values: matrix.values.iter().map(nearest).collect(), ..*matrix }
}

/// On the device.
pub(crate) fn up(backend: &Candle, matrix: &Matrix) -> <Candle as Backend>::Activations {
    let indices: Vec<u32> = (0..u32::try_from(matrix.rows).unwrap()).collect();
    let table = backend.embedding(matrix.clone()).unwrap();
    backend.embed(&[(&table, &indices)]).unwrap()
}

/// [rows, width] on the host, in f32.
pub(crate) fn down(backend: &Candle, activations: &<Candle as Backend>::Activations) -> Vec<f32> {
    let rows = PackedBatch::new((0..activations.dim(0).unwrap()).map(|_| [0].as_slice()));
    backend.pool(&[Pooling::Cls], 0, activations, &rows).unwrap().get().unwrap()
}

/// Numbers in [-size, size) that follow from the seed.
pub(crate) fn noise(seed: u64, size: f32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        // Numerical Recipes' generator; the upper bits are good enough here.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0) * size
    };
    (0..count).map(|_| next()).collect()
}

pub(crate) fn noise_matrix(seed: u64, size: f32, rows: usize, columns: usize) -> Matrix {
    Matrix { rows, columns, values: noise(seed, size, rows * columns) }
}

/// A layer and a batch.
#[derive(Debug, Clone)]
pub(crate) struct AttentionCase {
    pub(crate) attention: Attention,
    /// Length, and how many tokens at the end are not seen.
    sequences: Vec<(usize, u32)>,
    seed: u64,
}

impl AttentionCase {
    pub(crate) fn new(attention: Attention, sequences: &[(usize, u32)]) -> Self {
        Self { attention, sequences: sequences.to_vec(), seed: 11 }
    }

    pub(crate) fn batch(&self) -> PackedBatch {
        let sequence = |&(length, unseen): &(usize, u32)| TokenSeq { ids: vec![0; length], truncated: 0, unseen };
        PackedBatch::of(&self.sequences.iter().map(sequence).collect::<Vec<_>>())
    }

    pub(crate) fn qkv(&self) -> Matrix {
        noise_matrix(self.seed, 1.5, self.batch().tokens(), self.attention.input_width())
    }

    /// How far a result may be from the exact one. A weight is rounded and so is the result, each by a unit of what the
    /// values are; where queries and keys are rounded once more, each score moves by so many units of what the product of
    /// their lengths is, twice, and weights as parts of themselves by twice as much.
    pub(crate) fn allowed(&self, qkv: &Matrix, numbers: Numbers) -> f32 {
        let Attention { heads, key_value_heads, head_size, scale, ref rotary, ref head_norm, .. } = self.attention;
        let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
        let (mut query, mut key, mut value) = (0.0_f32, 0.0_f32, 0.0_f32);
        for row in qkv.values.chunks_exact(qkv.columns) {
            for (number, head) in row.chunks_exact(head_size).enumerate() {
                if number >= heads + key_value_heads {
                    value = value.max(largest(&mut head.iter().map(|number| number.abs())));
                    continue;
                }
                let of_queries = number < heads;
                let norm = head_norm.as_ref().map(|norm| if of_queries { &norm.query } else { &norm.key });
                let squares: f32 = head.iter().map(|number| number * number).sum();
                let inverse = norm.map_or(1.0, |_| (squares / head_size as f32).sqrt().recip());
                let weighted = |(place, number): (usize, &f32)| number * inverse * norm.map_or(1.0, |norm| norm[place]);
                let length = head.iter().enumerate().map(weighted).map(|number| number * number).sum::<f32>().sqrt();
                let longest = if of_queries { &mut query } else { &mut key };
                *longest = longest.max(length);
            }
        }
        let placed = rotary.is_some() || head_norm.is_some();
        let scores = if placed && numbers != Numbers::F32 { 4.0 * scale * query * key } else { 0.0 };
        value * unit(numbers) * (2.0 + scores) * 1.01
    }
}

fn attentions() -> impl Strategy<Value = Attention> {
    let sizes = (1..=3_usize, 1..=2_usize, prop_oneof![1..40_usize, Just(64), Just(80), Just(128)]);
    let masks = prop_oneof![
        Just(Mask::FULL),
        Just(Mask::CAUSAL),
        (0..90_usize).prop_map(Mask::window),
        (1..90_usize).prop_map(Mask::causal_window),
        (0..90_usize, 0..90_usize).prop_map(|(before, after)| Mask { before, after }),
    ];
    let rotary = proptest::option::of((1..=4_usize, any::<bool>()));
    (sizes, masks, rotary, any::<bool>(), 0..4_u8, any::<u64>()).prop_map(
        |((key_value_heads, group, head_size), mask, rotary, norms, bias, seed)| {
            let heads = key_value_heads * group;
            let rotary = rotary.and_then(|(quarters, interleaved)| {
                let pairing = if interleaved { Pairing::Interleaved } else { Pairing::HalfSplit };
                let rotated = (head_size * quarters / 4) / 2 * 2;
                // A device has no memory for a table of nothing.
                (rotated > 0).then(|| Rotary::new(10_000.0, rotated, pairing))
            });
            let position_bias = match bias {
                0 => Some(PositionBias::Slopes(noise(seed, 0.5, heads).into_iter().map(f32::abs).collect())),
                1 => Some(PositionBias::Buckets { table: noise_matrix(seed, 2.0, 32, heads), max_distance: 128 }),
                _ => None,
            };
            let weight = |seed| noise(seed, 2.0, head_size);
            let head_norm = norms.then(|| HeadNorm { query: weight(seed), key: weight(seed ^ 1), epsilon: 1e-6 });
            Attention { key_value_heads, mask, head_norm, rotary, position_bias, ..Attention::new(heads, head_size) }
        },
    )
}

/// Random layers, and sequences of which every token sees a key.
pub(crate) fn attention_cases() -> impl Strategy<Value = AttentionCase> {
    let lengths = prop_oneof![
        6 => proptest::collection::vec(0_usize..90, 1..5),
        1 => Just(vec![3, 200, 17]),
    ];
    (attentions(), lengths, any::<bool>(), any::<u64>()).prop_map(|(attention, lengths, unseen, seed)| {
        let unseen = |length: usize| if unseen { u32::try_from(length / 3).unwrap() } else { 0 };
        let sequences = lengths.into_iter().map(|length| (length, unseen(length))).collect();
        AttentionCase { attention, sequences, seed }
    })
}
