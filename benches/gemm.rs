//! The linear layers of `nn::cpu` against the `gemm` crate and against what the processor can do at all.
//!
//! Shapes are those of MiniLM, BERT-base and BERT-large with batches of different numbers of tokens. The peak is that of
//! fused multiply-adds between registers. All of a shape's candidates run in turns, and the best turn of each counts, so
//! that ratios hold on a machine that others use as well. Arguments choose instruction sets: `avx512` (else as the
//! processor can), `avx2`, `portable`; and arithmetic: `bf16`, `int8`, else f32; `layer=PART` chooses the layers with that
//! in their names; `finish` measures what follows a product instead.
//!
//! `cargo bench --bench gemm -- avx2 layer=Qwen`

#![allow(clippy::print_stdout, missing_docs, reason = "a benchmark reports to the terminal")]
#![allow(
    clippy::inline_always,
    reason = "code is compiled for the instructions of the function that it is inlined into"
)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of repetitions are small")]

use std::hint::black_box;
use std::time::Instant;

use embed_collections::nn::cpu::Instructions;
use embed_collections::nn::cpu::gemm::{Arithmetic, Finish, Kernel, PackedLinear};
use embed_collections::nn::{Activation, Matrix};
use pulp::{Arch, Simd, WithSimd};

/// [inputs, outputs] of layers.
const LAYERS: [(&str, usize, usize); 11] = [
    ("MiniLM qkv", 384, 1152),
    ("MiniLM attention output", 384, 384),
    ("MiniLM intermediate", 384, 1536),
    ("MiniLM output", 1536, 384),
    ("BERT-base qkv", 768, 2304),
    ("BERT-base intermediate", 768, 3072),
    ("BERT-base output", 3072, 768),
    ("BERT-large intermediate", 1024, 4096),
    ("BERT-large output", 4096, 1024),
    ("Qwen2.5-0.5B gate and up", 896, 9728),
    ("Qwen2.5-0.5B down", 4864, 896),
];

const TOKENS: [usize; 5] = [16, 32, 128, 512, 1024];

/// Turns of each candidate.
const TURNS: usize = 9;

/// Least work of a turn: some milliseconds.
const TURN_FLOP: f64 = 4e8;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let limit = if has("portable") {
        Instructions::Portable
    } else if has("avx2") {
        Instructions::Avx2
    } else {
        Instructions::Avx512
    };
    let arithmetic = match (has("bf16"), has("int8")) {
        (true, _) => Arithmetic::Bf16,
        (false, true) => Arithmetic::Int8,
        (false, false) => Arithmetic::F32,
    };
    let kernel = match Kernel::new(arithmetic, limit) {
        Ok(kernel) => kernel,
        Err(error) => return println!("{error}"),
    };
    println!(
        "{arithmetic:?}, {:?}; GFLOP/s and share of the peak of this processor's best instructions in f32",
        kernel.instructions()
    );
    let part = arguments.iter().find_map(|argument| argument.strip_prefix("layer=")).unwrap_or("");
    let layers: Vec<(&str, usize, usize)> = LAYERS.into_iter().filter(|(name, ..)| name.contains(part)).collect();
    if has("finish") { finishes(kernel, &layers) } else { products(kernel, &layers) }
}

/// GFLOP/s of the best turn of each candidate.
fn best<const N: usize>(flop: f64, mut candidates: [&mut dyn FnMut(); N]) -> [f64; N] {
    let repetitions = ((TURN_FLOP / flop) as usize).max(1);
    let mut best = [0.0_f64; N];
    for _ in 0..TURNS {
        for (best, candidate) in best.iter_mut().zip(&mut candidates) {
            let start = Instant::now();
            (0..repetitions).for_each(|_| candidate());
            *best = best.max(flop * repetitions as f64 / start.elapsed().as_secs_f64() / 1e9);
        }
    }
    best
}

/// Fused multiply-adds on registers alone.
struct Peak {
    steps: usize,
}

/// Enough independent sums to hide the latency of two units.
const SUMS: usize = 12;

impl WithSimd for Peak {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (factor, term) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(0.001)));
        let mut sums = [simd.splat_f32s(1.0); SUMS];
        for _ in 0..self.steps {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, term);
            }
        }
        black_box(sums);
    }
}

/// Lanes of this processor's best instructions.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// Numbers in [-1, 1) without subnormals among their products.
fn numbers(length: usize) -> Vec<f32> {
    (0..length).map(|index| ((index * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

/// [tokens, inputs] · [outputs, inputs]ᵀ by the `gemm` crate, without any bias.
fn crate_product(tokens: usize, inputs: usize, outputs: usize, input: &[f32], weight: &[f32], out: &mut [f32]) {
    assert!(input.len() == tokens * inputs && weight.len() == outputs * inputs && out.len() == tokens * outputs);
    let (left, right) = (inputs.cast_signed(), inputs.cast_signed());
    // SAFETY: the slices hold the matrices that shapes and strides describe.
    unsafe {
        gemm::gemm(
            tokens,
            outputs,
            inputs,
            out.as_mut_ptr(),
            1,
            outputs.cast_signed(),
            false,
            input.as_ptr(),
            1,
            left,
            weight.as_ptr(),
            right,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn products(kernel: Kernel, layers: &[(&str, usize, usize)]) {
    let arch = Arch::new();
    let lanes = arch.dispatch(Lanes);
    println!("{:24} {:>6} {:>8} {:>8} {:>6} {:>12} {:>6}", "", "tokens", "peak", "packed", "", "gemm crate", "ratio");
    for &(name, inputs, outputs) in layers {
        for tokens in TOKENS {
            let (weight, input) = (numbers(inputs * outputs), numbers(tokens * inputs));
            let matrix = Matrix { rows: outputs, columns: inputs, values: weight.clone() };
            let layer = PackedLinear::new(kernel, &matrix, Some(vec![0.5; outputs]));
            let (mut out, mut other) = (vec![0.0; tokens * outputs], vec![0.0; tokens * outputs]);
            let flop = 2.0 * (tokens * inputs * outputs) as f64;
            let steps = flop as usize / 2 / lanes / SUMS;
            let [peak, packed, other] = best(
                flop,
                [
                    &mut || arch.dispatch(Peak { steps }),
                    &mut || layer.apply(black_box(&input), Finish::Bias, black_box(&mut out)),
                    &mut || crate_product(tokens, inputs, outputs, black_box(&input), &weight, black_box(&mut other)),
                ],
            );
            let (share, ratio) = (100.0 * packed / peak, packed / other);
            println!("{name:24} {tokens:6} {peak:8.1} {packed:8.1} {share:5.1}% {other:12.1} {ratio:6.2}");
        }
    }
}

/// What an activation or a residual adds to a product.
fn finishes(kernel: Kernel, layers: &[(&str, usize, usize)]) {
    println!(
        "{:24} {:>6} {:>8} {:>8} {:>10} {:>8} {:>8} {:>10}",
        "", "tokens", "bias", "gelu", "gelu_tanh", "relu", "silu", "residual"
    );
    for &(name, inputs, outputs) in layers {
        let tokens = 512;
        let input = numbers(tokens * inputs);
        let matrix = Matrix { rows: outputs, columns: inputs, values: numbers(inputs * outputs) };
        let layer = PackedLinear::new(kernel, &matrix, Some(vec![0.5; outputs]));
        let (mut out, residual) = (vec![0.0; tokens * outputs], numbers(tokens * outputs));
        let flop = 2.0 * (tokens * inputs * outputs) as f64;
        let activations = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];
        let [gelu, gelu_tanh, relu, silu] = activations.map(Finish::Activation);
        let rates = [Finish::Bias, gelu, gelu_tanh, relu, silu, Finish::Residual(&residual)];
        let mut best_of = [0.0_f64; 6];
        for _ in 0..3 {
            for (best_of, finish) in best_of.iter_mut().zip(rates) {
                let [rate] = best(flop, [&mut || layer.apply(black_box(&input), finish, black_box(&mut out))]);
                *best_of = best_of.max(rate);
            }
        }
        let [bias, gelu, gelu_tanh, relu, silu, residual] = best_of;
        println!("{name:24} {tokens:6} {bias:8.1} {gelu:8.1} {gelu_tanh:10.1} {relu:8.1} {silu:8.1} {residual:10.1}");
    }
}
