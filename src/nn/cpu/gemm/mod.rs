//! Linear layers over packed weights: y = x Wᵀ + b and what follows it, in one pass.
//!
//! Weights are laid out once, at load, in the order in which the kernel reads them (`panels`). The kernel keeps a
//! tile of the result in registers while it goes along the inner dimension (`tile`); bias, activation or residual are
//! applied to the tile before it is stored (`finish`). A panel of weights stays in the nearest caches while the rows of
//! a block pass under it, and a block of rows in the second-level cache while all panels pass over it.
//!
//! Numbers are f32, or on request rounded to bf16 (`bf16`) or to eight-bit integers (`int8`) before they are multiplied.
//!
//! Every element is one sum along the inner dimension, from the first product to the last, whatever tile it falls into:
//! a row's result does not depend on the rows beside it. Instruction sets differ by rounding alone.
#![expect(
    clippy::inline_always,
    reason = "code is compiled for the instructions of the function that it is inlined into"
)]

#[cfg(target_arch = "x86_64")]
mod bf16;
mod columns;
mod finish;
mod function;
mod gate;
#[cfg(target_arch = "x86_64")]
mod int8;
mod kernel;
mod panels;
#[cfg(test)]
mod reduced_tests;
#[cfg(test)]
mod tests;
mod tile;
mod vectors;

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

pub(super) use self::columns::Columns;
pub use self::finish::Finish;
use self::finish::FinishTile;
pub use self::gate::Gate;
use self::kernel::Proof;
pub use self::kernel::{Arithmetic, Kernel, Lacking};
use self::panels::{Cut, Panels};
use self::tile::{Tile, Tiles, Widened};
use self::vectors::Vectors;
use super::cores;
use crate::nn::Matrix;

/// Bytes of activations that pass under one panel after the other, and so stay in the second-level cache: half of the
/// 2 MiB of current servers; on cores with less, blocks come from the third level, which still keeps up.
const BLOCK_BYTES: usize = 1 << 20;

/// Fewest rows of a block however wide they are: each block reads all weights once, from beyond the second-level cache.
/// With 4096 inputs, 128 rows measured a few hundredths above 64.
const BLOCK_ROWS: usize = 128;

/// A linear layer in the layout of one kernel.
#[derive(Debug)]
pub struct PackedLinear {
    kernel: Kernel,
    inputs: usize,
    outputs: usize,
    weight: Weight,
    bias: Vec<f32>,
}

/// A weight in the words of its kernel.
#[derive(Debug)]
enum Weight {
    Numbers(Panels<f32>),
    Words(Panels<u32>),
}

thread_local! {
    /// Activations in the words of a kernel, kept from one layer to the next so that none costs an allocation.
    static WORDS: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

impl PackedLinear {
    /// Lays out a weight of [outputs, inputs] with a bias of `[outputs]`, or none.
    ///
    /// # Panics
    /// When the sizes do not fit each other.
    pub fn new(kernel: Kernel, weight: &Matrix, bias: Option<Vec<f32>>) -> Self {
        let (inputs, outputs) = (weight.columns, weight.rows);
        assert_eq!(weight.values.len(), outputs * inputs, "a matrix has as many values as its shape says");
        let bias = bias.unwrap_or_else(|| vec![0.0; outputs]);
        assert_eq!(bias.len(), outputs, "a bias has one value for each output");
        let numbers = |cut: Cut| {
            Weight::Numbers(Panels::pack(outputs, inputs, cut, |output, input| weight.values[output * inputs + input]))
        };
        let pairs = |cut: Cut| Weight::Words(Panels::pairs(weight, cut));
        let weight = match kernel.0 {
            Proof::Single(Vectors::Portable(proof)) => numbers(cut_of(proof)),
            Proof::Widened(Vectors::Portable(proof)) => pairs(cut_of(Widened(proof))),
            #[cfg(target_arch = "x86_64")]
            Proof::Single(Vectors::Avx2(proof)) => numbers(cut_of(proof)),
            #[cfg(target_arch = "x86_64")]
            Proof::Widened(Vectors::Avx2(proof)) => pairs(cut_of(Widened(proof))),
            #[cfg(target_arch = "x86_64")]
            Proof::Single(Vectors::Avx512(proof)) => numbers(cut_of(proof)),
            #[cfg(target_arch = "x86_64")]
            Proof::Widened(Vectors::Avx512(proof)) => pairs(cut_of(Widened(proof))),
            #[cfg(target_arch = "x86_64")]
            Proof::Bf16(_) => Weight::Words(bf16::Bf16::pack(weight)),
            #[cfg(target_arch = "x86_64")]
            Proof::Int8(_) => Weight::Words(int8::Int8::pack(weight)),
        };
        Self { kernel, inputs, outputs, weight, bias }
    }

    /// The kernel in use.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Width of what goes in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of what comes out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Into how many panels the outputs are cut.
    pub(super) fn panels(&self) -> usize {
        match &self.weight {
            Weight::Numbers(weight) => weight.panels(),
            Weight::Words(weight) => weight.panels(),
        }
    }

    /// The outputs of some panels.
    pub(super) fn columns(&self, panels: &Range<usize>) -> Range<usize> {
        let width = match &self.weight {
            Weight::Numbers(weight) => weight.width(),
            Weight::Words(weight) => weight.width(),
        };
        (panels.start * width).min(self.outputs)..(panels.end * width).min(self.outputs)
    }

    /// [rows, inputs] to [rows, outputs]; the number of rows follows from `out`, of which every value is written.
    ///
    /// # Panics
    /// When the sizes do not fit each other.
    pub fn apply(&self, input: &[f32], finish: Finish<'_>, out: &mut [f32]) {
        if self.outputs > 0 {
            self.apply_panels(0..self.panels(), input, finish, Columns::all(out, self.outputs));
        }
    }

    /// The same for the outputs of some panels alone, which are `out`. A residual is that of the whole result.
    ///
    /// # Panics
    /// When the sizes do not fit each other.
    pub(super) fn apply_panels(&self, panels: Range<usize>, input: &[f32], finish: Finish<'_>, out: Columns<'_>) {
        assert_eq!(out.columns(), self.columns(&panels), "the result is that of the panels");
        let rows = out.rows();
        assert_eq!(input.len(), rows * self.inputs, "input and result have the same number of rows");
        if let Finish::Residual(residual) = finish {
            assert_eq!(residual.len(), rows * self.outputs, "a residual has the shape of the result");
        }
        let out = &mut Out { panels, columns: out };
        for rows in blocks(rows, self.inputs) {
            let input = &input[rows.start * self.inputs..rows.end * self.inputs];
            match (self.kernel.0, &self.weight) {
                (Proof::Single(Vectors::Portable(proof)), Weight::Numbers(weight)) => {
                    self.multiply(proof, weight, rows, input, finish, out);
                }
                (Proof::Widened(Vectors::Portable(proof)), Weight::Words(weight)) => {
                    self.multiply(Widened(proof), weight, rows, input, finish, out);
                }
                #[cfg(target_arch = "x86_64")]
                (Proof::Single(Vectors::Avx2(proof)), Weight::Numbers(weight)) => {
                    self.multiply(proof, weight, rows, input, finish, out);
                }
                #[cfg(target_arch = "x86_64")]
                (Proof::Widened(Vectors::Avx2(proof)), Weight::Words(weight)) => {
                    self.multiply(Widened(proof), weight, rows, input, finish, out);
                }
                #[cfg(target_arch = "x86_64")]
                (Proof::Single(Vectors::Avx512(proof)), Weight::Numbers(weight)) => {
                    self.multiply(proof, weight, rows, input, finish, out);
                }
                #[cfg(target_arch = "x86_64")]
                (Proof::Widened(Vectors::Avx512(proof)), Weight::Words(weight)) => {
                    self.multiply(Widened(proof), weight, rows, input, finish, out);
                }
                #[cfg(target_arch = "x86_64")]
                (Proof::Bf16(proof), Weight::Words(weight)) => {
                    let words = |words: &mut [u32]| proof.convert(self.inputs, input, words);
                    self.multiply_words(proof, weight, rows, words, finish, out);
                }
                #[cfg(target_arch = "x86_64")]
                (Proof::Int8(proof), Weight::Words(weight)) => {
                    let words = |words: &mut [u32]| proof.convert(self.inputs, input, words);
                    self.multiply_words(proof, weight, rows, words, finish, out);
                }
                (proof, _) => unreachable!("a weight is packed for its kernel {proof:?}"),
            }
        }
    }

    /// Some rows whose words have yet to be made.
    #[cfg(target_arch = "x86_64")]
    fn multiply_words<T: Tiles<Input = u32, Word = u32>>(
        &self,
        tiles: T,
        weight: &Panels<u32>,
        rows: Range<usize>,
        convert: impl FnOnce(&mut [u32]),
        finish: Finish<'_>,
        out: &mut Out<'_>,
    ) {
        let mut words = WORDS.take();
        let length = rows.len() * weight.words();
        if words.len() < length {
            words.resize(length, 0);
        }
        convert(&mut words[..length]);
        self.multiply(tiles, weight, rows, &words[..length], finish, out);
        WORDS.set(words);
    }

    /// Some rows of the result, from as many of the input.
    fn multiply<T: Tiles>(
        &self,
        tiles: T,
        weight: &Panels<T::Word>,
        rows: Range<usize>,
        input: &[T::Input],
        finish: Finish<'_>,
        out: &mut Out<'_>,
    ) {
        use pulp::Simd;
        let (width, outputs) = (input.len() / rows.len(), self.outputs);
        let count = rows.len().div_ceil(T::ROWS);
        let mut tile = Tile::default();
        for panel in out.panels.clone() {
            let panel = weight.panel(panel);
            let columns = panel.first..(panel.first + panel.width).min(outputs);
            let bias = &self.bias[columns.clone()];
            for index in 0..count {
                let own = part(index, count, rows.len());
                let sums = tile.of(own.len() * panel.width);
                tiles.sum(own.len(), &input[own.start * width..own.end * width], panel.weight, sums);
                let rows = rows.start + own.start..rows.start + own.end;
                let (width, columns, out) = (panel.width, columns.clone(), &mut out.columns);
                tiles.simd().vectorize(FinishTile { sums, width, rows, columns, bias, finish, outputs, out });
            }
        }
    }
}

/// Some columns of a result.
struct Out<'a> {
    /// Whose outputs they are.
    panels: Range<usize>,
    columns: Columns<'a>,
}

/// The rows that pass under all panels together.
fn blocks(rows: usize, inputs: usize) -> impl Iterator<Item = Range<usize>> {
    let most = (BLOCK_BYTES / size_of::<f32>() / inputs.max(1)).max(BLOCK_ROWS);
    let blocks = rows.div_ceil(most);
    (0..blocks).map(move |block| part(block, blocks, rows))
}

/// Work from [rows, inputs] to [rows, outputs], the rows divided among so many cores. No row depends on another, and so
/// none on their number.
pub(super) fn in_parts(
    parts: usize,
    (inputs, outputs): (usize, usize),
    input: &[f32],
    finish: Finish<'_>,
    out: &mut [f32],
    work: impl Fn(&[f32], Finish<'_>, &mut [f32]) + Sync,
) {
    let rows = out.len().checked_div(outputs).unwrap_or(0).div_ceil(parts.max(1)).max(1);
    let parts = out.par_chunks_mut((rows * outputs).max(1)).enumerate();
    cores::each(parts, |(part, out)| {
        let input = &input[part * rows * inputs..][..out.len() / outputs * inputs];
        let values = part * rows * outputs..part * rows * outputs + out.len();
        work(input, finish.of(values), out);
    });
}

fn cut_of<T: Tiles>(_tiles: T) -> Cut {
    Cut { width: T::WIDTH, granule: T::GRANULE }
}

/// The bounds of one of several parts of `0..total`, which are as equal as can be.
fn part(index: usize, parts: usize, total: usize) -> Range<usize> {
    index * total / parts..(index + 1) * total / parts
}
