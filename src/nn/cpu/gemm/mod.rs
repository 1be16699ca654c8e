//! Linear layers over packed weights: y = x Wᵀ + b and what follows it, in one pass.
//!
//! Weights are laid out once, at load, in the order in which the kernel reads them (`panels`). The kernel keeps a
//! tile of the result in registers while it goes along the inner dimension (`tile`); bias, activation or residual are
//! applied to the tile before it is stored (`finish`). A panel of weights stays in the nearest caches while the rows of
//! a block pass under it, and a block of rows in the second-level cache while all panels pass over it.
//!
//! Every element is one sum along the inner dimension, from the first product to the last, whatever tile it falls into:
//! a row's result does not depend on the rows beside it. Instruction sets differ by rounding alone.
#![expect(
    clippy::inline_always,
    reason = "code is compiled for the instructions of the function that it is inlined into"
)]

mod finish;
mod function;
mod gate;
mod panels;
mod proof;
#[cfg(test)]
mod tests;
mod tile;

pub use self::finish::Finish;
use self::finish::FinishTile;
pub use self::gate::Gate;
use self::panels::Panels;
use self::proof::Proof;
use self::tile::{Tile, Tiles};
use super::Instructions;
use crate::nn::Matrix;

/// Bytes of activations that pass under one panel after the other, and so stay in the second-level cache: half of the
/// 2 MiB of current servers; on cores with less, blocks come from the third level, which still keeps up.
const BLOCK_BYTES: usize = 1 << 20;

/// Fewest rows of a block however wide they are: each block reads all weights once, from beyond the second-level cache.
/// With 4096 inputs, 128 rows measured a few hundredths above 64.
const BLOCK_ROWS: usize = 128;

/// A linear layer in the layout of one instruction set.
#[derive(Debug)]
pub struct PackedLinear {
    proof: Proof,
    inputs: usize,
    outputs: usize,
    weight: Panels,
    bias: Vec<f32>,
}

impl PackedLinear {
    /// Lays out a weight of [outputs, inputs] with a bias of `[outputs]` for the best instructions that the processor has,
    /// but none better than `most`.
    ///
    /// # Panics
    /// When the sizes do not fit each other.
    pub fn new(most: Instructions, weight: &Matrix, bias: Vec<f32>) -> Self {
        assert_eq!(bias.len(), weight.rows, "a bias has one value for each output");
        let proof = Proof::at_most(most);
        let (granule, width) = match proof {
            #[cfg(target_arch = "x86_64")]
            Proof::Avx512(proof) => shape_of(proof),
            #[cfg(target_arch = "x86_64")]
            Proof::Avx2(proof) => shape_of(proof),
            Proof::Portable(proof) => shape_of(proof),
        };
        let (inputs, outputs) = (weight.columns, weight.rows);
        Self { proof, inputs, outputs, weight: Panels::pack(weight, granule, width), bias }
    }

    /// The instructions in use.
    pub fn instructions(&self) -> Instructions {
        self.proof.instructions()
    }

    /// Width of what goes in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of what comes out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// [rows, inputs] to [rows, outputs]; the number of rows follows from `out`, of which every value is written.
    ///
    /// # Panics
    /// When the sizes do not fit each other.
    pub fn apply(&self, input: &[f32], finish: Finish<'_>, out: &mut [f32]) {
        let rows = out.len().checked_div(self.outputs).unwrap_or(0);
        assert_eq!(out.len(), rows * self.outputs, "a result has whole rows");
        assert!(
            self.outputs == 0 || input.len() == rows * self.inputs,
            "input and result have the same number of rows"
        );
        if let Finish::Residual(residual) = finish {
            assert_eq!(residual.len(), out.len(), "a residual has the shape of the result");
        }
        match self.proof {
            #[cfg(target_arch = "x86_64")]
            Proof::Avx512(proof) => self.multiply(proof, rows, input, finish, out),
            #[cfg(target_arch = "x86_64")]
            Proof::Avx2(proof) => self.multiply(proof, rows, input, finish, out),
            Proof::Portable(proof) => self.multiply(proof, rows, input, finish, out),
        }
    }

    fn multiply<S: Tiles>(&self, simd: S, rows: usize, input: &[f32], finish: Finish<'_>, out: &mut [f32]) {
        let tiles = rows.div_ceil(S::ROWS);
        let tiles_in_block = (BLOCK_BYTES / size_of::<f32>() / self.inputs.max(1)).max(BLOCK_ROWS) / S::ROWS;
        let blocks = tiles.div_ceil(tiles_in_block);
        let mut tile = Tile::default();
        for block in 0..blocks {
            for panel in self.weight.panels() {
                for index in part(block, blocks, tiles) {
                    let rows = part(index, tiles, rows);
                    let sums = tile.of(rows.len() * panel.width);
                    simd.sum(rows.len(), &input[rows.start * self.inputs..rows.end * self.inputs], panel.weight, sums);
                    let columns = panel.first..(panel.first + panel.width).min(self.outputs);
                    let bias = &self.bias[columns.clone()];
                    let outputs = self.outputs;
                    simd.vectorize(FinishTile { sums, rows, columns, width: panel.width, bias, finish, out, outputs });
                }
            }
        }
    }
}

/// The same as [`PackedLinear::apply`], bit for bit, with the rows divided among so many threads.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn apply_in_parts(layer: &PackedLinear, parts: usize, input: &[f32], finish: Finish<'_>, out: &mut [f32]) {
    let rows = out.len().checked_div(layer.outputs()).unwrap_or(0).div_ceil(parts.max(1)).max(1);
    let (inputs, outputs) = (rows * layer.inputs(), rows * layer.outputs());
    std::thread::scope(|scope| {
        let mut parts = out.chunks_mut(outputs.max(1)).enumerate().map(|(part, out)| {
            let input = &input[part * inputs..][..out.len() / layer.outputs() * layer.inputs()];
            let finish = match finish {
                Finish::Residual(residual) => Finish::Residual(&residual[part * outputs..][..out.len()]),
                other => other,
            };
            move || layer.apply(input, finish, out)
        });
        let own = parts.next();
        parts.for_each(|part| drop(scope.spawn(part)));
        own.into_iter().for_each(|mut part| part());
    });
}

fn shape_of<S: Tiles>(_proof: S) -> (usize, usize) {
    (S::GRANULE, S::WIDTH)
}

/// The bounds of one of several parts of `0..total`, which are as equal as can be.
fn part(index: usize, parts: usize, total: usize) -> std::ops::Range<usize> {
    index * total / parts..(index + 1) * total / parts
}
