//! Attention on the CPU against the way it was computed before: whole rows of scores by general matrix products.
//!
//! Each line takes turns between the implementations and quotes the best of several, since other programs may be running.
//! `cargo bench --bench attention [-- LENGTH…]`; a profile with debug assertions measures those.

#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::inline_always,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and panics when it fails"
)]

use std::time::{Duration, Instant};

use embed_collections::domain::PackedBatch;
use embed_collections::model::pooling::Pooling;
use embed_collections::nn::cpu::Instructions;
use embed_collections::nn::{Attention, Backend, Cpu, Matrix};

/// Heads and head size.
const MODELS: [(&str, usize, usize); 3] = [("MiniLM", 12, 32), ("BERT base", 12, 64), ("bge-m3", 16, 64)];

const LENGTHS: [usize; 9] = [16, 24, 64, 100, 128, 256, 512, 2048, 8192];

/// Tokens of a batch of short sequences.
const BATCH_TOKENS: usize = 512;

/// How long a line may take for each implementation, in rounds and in time.
const ROUNDS: usize = 400;
const TIME: Duration = Duration::from_millis(400);

fn main() {
    let wanted: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let sets = [Instructions::Avx512, Instructions::Avx2, Instructions::Portable];
    let sets = sets.into_iter().filter(|&set| set <= Instructions::detect());
    let cpus: Vec<Cpu> = sets.map(Cpu::with_instructions).collect();
    print!("{:<10} {:>6} {:>16}", "", "tokens", "before, GFLOP/s");
    cpus.iter().for_each(|cpu| print!(" {:>9} {:>6}", format!("{:?}", cpu.instructions()), "ratio"));
    println!();
    for (model, heads, head_size) in MODELS {
        for length in LENGTHS.into_iter().filter(|length| wanted.is_empty() || wanted.contains(length)) {
            line(model, heads, head_size, length, &cpus);
        }
    }
}

fn line(model: &str, heads: usize, head_size: usize, length: usize, cpus: &[Cpu]) {
    let ids = vec![0; length];
    let batch = PackedBatch::new(vec![ids.as_slice(); (BATCH_TOKENS / length).max(1)]);
    let width = 3 * heads * head_size;
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let qkv: Vec<f32> = (0..batch.tokens() * width).map(|_| noise()).collect();
    let mut before = Before::new(heads, head_size, &batch);
    let layers: Vec<_> = cpus.iter().map(|cpu| Ours::new(cpu, heads, head_size, &qkv, &batch)).collect();

    for (ours, cpu) in layers.iter().zip(cpus) {
        let found = cpu.pool(&[Pooling::Mean], 0, &ours.run(&batch), &batch).unwrap().get().unwrap();
        before.run(&qkv, &batch);
        let expected = mean(&before.out[..length * heads * head_size], heads * head_size);
        let error = found.iter().zip(&expected).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(error < 1e-5, "the implementations differ by {error}");
    }

    let mut best = vec![Duration::MAX; cpus.len() + 1];
    let began = Instant::now();
    for round in 0..ROUNDS {
        if round >= 3 && began.elapsed() > TIME * (cpus.len() as u32 + 1) {
            break;
        }
        best[0] = best[0].min(timed(|| before.run(&qkv, &batch)));
        for (ours, best) in layers.iter().zip(&mut best[1..]) {
            *best = (*best).min(timed(|| drop(ours.run(&batch))));
        }
    }
    let operations = 4.0 * (length * length * head_size * heads * batch.sequences()) as f64;
    let rate = |time: Duration| operations / time.as_secs_f64() / 1e9;
    print!("{model:<10} {length:>6} {:>16.1}", rate(best[0]));
    for time in &best[1..] {
        print!(" {:>9.1} {:>6.2}", rate(*time), best[0].as_secs_f64() / time.as_secs_f64());
    }
    println!();
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x / (rows.len() / width) as f32);
    }
    mean
}

struct Ours<'a> {
    cpu: &'a Cpu,
    layer: <Cpu as Backend>::Attention,
    qkv: <Cpu as Backend>::Activations,
}

impl<'a> Ours<'a> {
    fn new(cpu: &'a Cpu, heads: usize, head_size: usize, qkv: &[f32], batch: &PackedBatch) -> Self {
        let (rows, columns) = (batch.tokens(), 3 * heads * head_size);
        let table = cpu.embedding(Matrix { rows, columns, values: qkv.to_vec() }).unwrap();
        let indices: Vec<u32> = (0..u32::try_from(rows).unwrap()).collect();
        let qkv = cpu.embed(&[(&table, &indices)]).unwrap();
        Self { cpu, layer: cpu.attention(Attention::new(heads, head_size)).unwrap(), qkv }
    }

    fn run(&self, batch: &PackedBatch) -> <Cpu as Backend>::Activations {
        self.cpu.apply_attention(&self.layer, &self.qkv, batch).unwrap()
    }
}

/// Attention by general matrix products, one head after the other, 64 rows of scores at a time.
struct Before {
    arch: pulp::Arch,
    heads: usize,
    head_size: usize,
    scores: Vec<f32>,
    out: Vec<f32>,
}

impl Before {
    const QUERY_BLOCK: usize = 64;

    fn new(heads: usize, head_size: usize, batch: &PackedBatch) -> Self {
        let scores = vec![0.0; Self::QUERY_BLOCK * batch.longest()];
        Self { arch: pulp::Arch::new(), heads, head_size, scores, out: vec![0.0; batch.tokens() * heads * head_size] }
    }

    fn run(&mut self, qkv: &[f32], batch: &PackedBatch) {
        let (hidden, stride) = (self.heads * self.head_size, 3 * self.heads * self.head_size);
        let scale = 1.0 / (self.head_size as f32).sqrt();
        for bounds in batch.cu_seqlens().windows(2) {
            let (start, length) = (bounds[0], bounds[1] - bounds[0]);
            for head in 0..self.heads {
                let part = |which: usize, row: usize| &qkv[row * stride + which * hidden + head * self.head_size..];
                for first in (0..length).step_by(Self::QUERY_BLOCK) {
                    let block = Self::QUERY_BLOCK.min(length - first);
                    let scores = &mut self.scores[..block * length];
                    let (query, key, value) = (part(0, start + first), part(1, start), part(2, start));
                    product(
                        (block, length, self.head_size),
                        scale,
                        (query, stride),
                        (key, 1, stride),
                        (scores, length),
                    );
                    self.arch.dispatch(|| scores.chunks_exact_mut(length).for_each(softmax));
                    let out = &mut self.out[(start + first) * hidden + head * self.head_size..];
                    product((block, self.head_size, length), 1.0, (scores, length), (value, stride, 1), (out, hidden));
                }
            }
        }
    }
}

fn product(
    (rows, columns, inner): (usize, usize, usize),
    scale: f32,
    (left, left_stride): (&[f32], usize),
    (right, right_row, right_column): (&[f32], usize, usize),
    (out, out_stride): (&mut [f32], usize),
) {
    // SAFETY: the callers above give slices that begin at the matrices and reach beyond their ends.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            out_stride.cast_signed(),
            false,
            left.as_ptr(),
            1,
            left_stride.cast_signed(),
            right.as_ptr(),
            right_column.cast_signed(),
            right_row.cast_signed(),
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

const LANES: usize = 16;

#[inline(always)]
fn softmax(row: &mut [f32]) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            largest[lane] = if chunk[lane] > largest[lane] { chunk[lane] } else { largest[lane] };
        }
    }
    let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |one, &other| one.max(other));
    row.iter_mut().for_each(|x| *x = exp(*x - largest));
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    rest.iter().zip(&mut lanes).for_each(|(x, lane)| *lane += *x);
    let scale = 1.0 / lanes.iter().sum::<f32>();
    row.iter_mut().for_each(|x| *x *= scale);
}

#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let exponent = shifted - ROUND;
    let rest = x - exponent * 0.693_359_4 - exponent * -2.121_944_4e-4;
    let mut polynomial = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = polynomial * rest + coefficient;
    }
    (polynomial * rest * rest + rest + 1.0) * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}
