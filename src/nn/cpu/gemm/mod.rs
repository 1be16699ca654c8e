//! Linear layers over packed weights: y = x Wᵀ + b and what follows it, in one pass.
//!
//! Weights are laid out at load in the order in which the kernel reads them (`panels`). The kernel keeps a tile of the
//! result in registers along the inner dimension (`tile`) and applies bias, activation or residual before it stores the
//! tile (`finish`). A panel of weights stays in the nearest caches for all rows of a block, and a block of rows in the
//! second-level cache for all panels; the next panel is prefetched. Panels of a layer and of its gate alternate
//! (`apply_panels`), so that their two results never exist as a whole.
//!
//! Factors are f32, bf16 (`bf16`) or eight-bit integers (`int8`). Every element is one sum in the order of the inner
//! dimension, so a row's result does not depend on the rows beside it. Instruction sets differ by rounding alone.
#![expect(
    clippy::inline_always,
    reason = "code is compiled for the instructions of the function that it is inlined into"
)]

#[cfg(target_arch = "x86_64")]
mod bf16;
mod columns;
mod finish;
mod function;
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
#[cfg(target_arch = "x86_64")]
mod words;

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

pub(super) use self::columns::Columns;
pub use self::finish::Finish;
use self::finish::FinishTile;
use self::kernel::Proof;
pub use self::kernel::{Arithmetic, Kernel, Lacking};
use self::panels::{Cut, Panels};
use self::tile::{Tile, Tiles, Widened};
use self::vectors::Vectors;
use super::cores;
use crate::nn::Matrix;

/// Bytes of activations in a block, which stay in the second-level cache: half of the 2 MiB of current servers. On cores
/// with less, the third level keeps up.
const BLOCK_BYTES: usize = 1 << 20;

/// Fewest rows of a block: each block reads all weights from beyond the second-level cache. With 4096 inputs, 128 rows
/// measured a few hundredths above 64.
const BLOCK_ROWS: usize = 128;

/// Most bytes of the next panel to prefetch: a quarter of 2 MiB. Without it, the first rows of each panel wait: with 768
/// inputs and 32 to 128 rows, products went from 82 % to 95 % of what registers alone reach. With 4,864 inputs, a whole
/// panel ahead evicted the one in use.
const LATER_BYTES: usize = 1 << 19;

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

/// What panels are made of.
trait Word: Copy + Default {
    /// The panels of a weight that is made of these words.
    fn panels(weight: &Weight) -> Option<&Panels<Self>>;
}

impl Word for f32 {
    fn panels(weight: &Weight) -> Option<&Panels<f32>> {
        if let Weight::Numbers(panels) = weight { Some(panels) } else { None }
    }
}

impl Word for u32 {
    fn panels(weight: &Weight) -> Option<&Panels<u32>> {
        if let Weight::Words(panels) = weight { Some(panels) } else { None }
    }
}

/// A layer and what follows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) layer: &'a PackedLinear,
    pub(super) finish: Finish<'a>,
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
            let all = 0..self.panels();
            apply_panels(&[Step { layer: self, finish }], &all, input, Columns::all(out, self.outputs));
        }
    }
}

/// The outputs of some panels by layers of one shape, each written over the one before, panel by panel. A residual is
/// that of the whole result.
///
/// # Panics
/// When the sizes do not fit each other, or the kernels differ.
pub(super) fn apply_panels(steps: &[Step<'_>], panels: &Range<usize>, input: &[f32], out: Columns<'_>) {
    let Some(&Step { layer: first, .. }) = steps.first() else { return };
    let (inputs, rows) = (first.inputs, out.rows());
    assert_eq!(out.columns(), first.columns(panels), "the result is that of the panels");
    assert_eq!(input.len(), rows * inputs, "input and result have the same number of rows");
    for Step { layer, finish } in steps {
        assert_eq!((layer.inputs, layer.outputs), (inputs, first.outputs), "layers have one shape");
        let kernel = |layer: &PackedLinear| (layer.kernel.arithmetic(), layer.kernel.instructions());
        assert_eq!(kernel(layer), kernel(first), "layers are packed for one kernel");
        if let Finish::Residual(residual) = finish {
            assert_eq!(residual.len(), rows * layer.outputs, "a residual has the shape of the result");
        }
    }
    let mut work = Work { steps, panels, out };
    for rows in blocks(rows, inputs) {
        let input = &input[rows.start * inputs..rows.end * inputs];
        match first.kernel.0 {
            Proof::Single(Vectors::Portable(proof)) => work.multiply(proof, rows, input),
            Proof::Widened(Vectors::Portable(proof)) => work.multiply(Widened(proof), rows, input),
            #[cfg(target_arch = "x86_64")]
            Proof::Single(Vectors::Avx2(proof)) => work.multiply(proof, rows, input),
            #[cfg(target_arch = "x86_64")]
            Proof::Widened(Vectors::Avx2(proof)) => work.multiply(Widened(proof), rows, input),
            #[cfg(target_arch = "x86_64")]
            Proof::Single(Vectors::Avx512(proof)) => work.multiply(proof, rows, input),
            #[cfg(target_arch = "x86_64")]
            Proof::Widened(Vectors::Avx512(proof)) => work.multiply(Widened(proof), rows, input),
            #[cfg(target_arch = "x86_64")]
            Proof::Bf16(proof) => work.multiply_words(proof, rows, |words| proof.convert(inputs, input, words)),
            #[cfg(target_arch = "x86_64")]
            Proof::Int8(proof) => work.multiply_words(proof, rows, |words| proof.convert(inputs, input, words)),
        }
    }
}

/// Some columns of a result, and what gives them.
struct Work<'a> {
    steps: &'a [Step<'a>],
    /// Whose outputs they are.
    panels: &'a Range<usize>,
    out: Columns<'a>,
}

impl Work<'_> {
    /// Some rows whose words have yet to be made.
    #[cfg(target_arch = "x86_64")]
    fn multiply_words<T: Tiles<Input = u32, Word = u32>>(
        &mut self,
        tiles: T,
        rows: Range<usize>,
        convert: impl FnOnce(&mut [u32]),
    ) {
        let mut words = WORDS.take();
        let length = rows.len() * panels_of::<u32>(self.steps[0].layer).words();
        if words.len() < length {
            words.resize(length, 0);
        }
        convert(&mut words[..length]);
        self.multiply(tiles, rows, &words[..length]);
        WORDS.set(words);
    }

    /// Some rows of the result, from as many of the input.
    fn multiply<T: Tiles>(&mut self, tiles: T, rows: Range<usize>, input: &[T::Input])
    where
        T::Word: Word,
    {
        use pulp::Simd;
        let width = input.len() / rows.len();
        let count = rows.len().div_ceil(T::ROWS);
        let mut tile = Tile::default();
        for index in self.panels.clone() {
            for (place, &Step { layer, finish }) in self.steps.iter().enumerate() {
                let panel = panels_of::<T::Word>(layer).panel(index);
                // Where a panel is used once, it comes from memory as fast as what would be asked for beside it.
                let later = if count > 1 { following::<T::Word>(self.steps, self.panels, index, place) } else { &[] };
                let columns = panel.first..(panel.first + panel.width).min(layer.outputs);
                let bias = &layer.bias[columns.clone()];
                for index in 0..count {
                    let own = part(index, count, rows.len());
                    let sums = tile.of(own.len() * panel.width);
                    let later = &later[part(index, count, later.len())];
                    tiles.sum(own.len(), &input[own.start * width..own.end * width], panel.weight, later, sums);
                    let rows = rows.start + own.start..rows.start + own.end;
                    let (width, columns, outputs) = (panel.width, columns.clone(), layer.outputs);
                    let out = &mut self.out;
                    tiles.simd().vectorize(FinishTile { sums, width, rows, columns, bias, finish, outputs, out });
                }
            }
        }
    }
}

/// The beginning of the panel that follows one of a step.
fn following<'a, W: Word>(steps: &'a [Step<'_>], panels: &Range<usize>, index: usize, step: usize) -> &'a [W] {
    let (index, step) = if step + 1 < steps.len() { (index, step + 1) } else { (index + 1, 0) };
    if !panels.contains(&index) {
        return &[];
    }
    let weight = panels_of::<W>(steps[step].layer).panel(index).weight;
    &weight[..weight.len().min(LATER_BYTES / size_of::<W>())]
}

/// The panels of a layer.
fn panels_of<W: Word>(layer: &PackedLinear) -> &Panels<W> {
    let Some(panels) = W::panels(&layer.weight) else {
        unreachable!("a weight is packed for its kernel {:?}", layer.kernel)
    };
    panels
}

/// The rows that pass under all panels together.
fn blocks(rows: usize, inputs: usize) -> impl Iterator<Item = Range<usize>> {
    let most = (BLOCK_BYTES / size_of::<f32>() / inputs.max(1)).max(BLOCK_ROWS);
    let blocks = rows.div_ceil(most);
    (0..blocks).map(move |block| part(block, blocks, rows))
}

/// Divides the rows of work from [rows, inputs] to [rows, outputs] among cores; `work` gets the range of its values.
pub(super) fn in_parts(
    parts: usize,
    (inputs, outputs): (usize, usize),
    input: &[f32],
    out: &mut [f32],
    work: impl Fn(&[f32], Range<usize>, &mut [f32]) + Sync,
) {
    let rows = out.len().checked_div(outputs).unwrap_or(0).div_ceil(parts.max(1)).max(1);
    let parts = out.par_chunks_mut((rows * outputs).max(1)).enumerate();
    cores::each(parts, |(part, out)| {
        let input = &input[part * rows * inputs..][..out.len() / outputs * inputs];
        let first = part * rows * outputs;
        work(input, first..first + out.len(), out);
    });
}

fn cut_of<T: Tiles>(_tiles: T) -> Cut {
    Cut { width: T::WIDTH, granule: T::GRANULE }
}

/// The bounds of one of several parts of `0..total`, which are as equal as can be.
fn part(index: usize, parts: usize, total: usize) -> Range<usize> {
    index * total / parts..(index + 1) * total / parts
}
