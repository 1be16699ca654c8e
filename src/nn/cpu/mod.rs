//! The operations on the CPU: one thread, activations in reused buffers, linear layers over packed weights ([`gemm`]).
//!
//! Each encoder thread has a [`Cpu`] of its own and works through whole batches; the cores are kept busy by having
//! several of them. The loops between the matrix products are written so that the compiler turns them into vector
//! instructions, and are compiled for several instruction sets, of which the best is chosen when the program runs.

mod buffers;
pub mod gemm;
mod instructions;
mod math;

use std::sync::Arc;

use ::gemm::Parallelism;
use pulp::Arch;

use self::buffers::{Buffer, Buffers};
use self::gemm::{Finish, PackedLinear};
pub use self::instructions::Instructions;
use super::{Attention, Backend, Epilogue, Matrix, NnError, Pooling};
use crate::domain::PackedBatch;

/// Query rows whose scores are computed at once: their scores stay in the cache of one core, and the memory for scores
/// grows with the length of a sequence, not with its square.
const QUERY_BLOCK: usize = 64;

/// Operations of one thread.
#[derive(Debug, Clone)]
pub struct Cpu {
    arch: Arch,
    instructions: Instructions,
    buffers: Arc<Buffers>,
}

/// [tokens, width], row by row.
#[derive(Debug)]
pub struct Activations {
    width: usize,
    values: Buffer,
}

/// Weight of [outputs, inputs], packed, and bias of [outputs].
#[derive(Debug)]
pub struct Linear(PackedLinear);

/// Weight, bias and epsilon of a layer normalisation.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Cpu {
    /// Operations for one thread, with the best instructions that the processor has.
    pub fn new() -> Self {
        Self::with_instructions(Instructions::detect())
    }

    /// The same with instructions no better than `most`; and no better than the processor has.
    pub fn with_instructions(most: Instructions) -> Self {
        Self { arch: Arch::new(), instructions: most.min(Instructions::detect()), buffers: Arc::default() }
    }

    fn activations(&self, tokens: usize, width: usize) -> Activations {
        Activations { width, values: Buffers::take(&self.buffers, tokens * width) }
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

/// A view of a matrix in a slice: its first element, and the distance between rows; columns are contiguous.
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
}

/// Whether the last element of [rows, columns] at this stride is inside a slice of this length.
fn fits(length: usize, rows: usize, columns: usize, stride: usize) -> bool {
    rows == 0 || columns == 0 || (columns <= stride && (rows - 1) * stride + columns <= length)
}

/// Orientation of the right-hand side of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    /// [inner, columns] as it stands.
    Plain,
    /// [columns, inner], used transposed.
    Transposed,
}

/// `out` = `scale` · `left` · `right`, or the same added to what is there.
///
/// # Panics
/// When a view is smaller than the shape.
#[expect(clippy::too_many_arguments, reason = "the three sizes and operands of a matrix product")]
fn product(
    (rows, columns, inner): (usize, usize, usize),
    scale: f32,
    left: Rows<'_>,
    right: Rows<'_>,
    orientation: Right,
    add: bool,
    out: &mut [f32],
    out_stride: usize,
) {
    let right_shape = if orientation == Right::Plain { (inner, columns) } else { (columns, inner) };
    assert!(fits(left.values.len(), rows, inner, left.stride), "left operand is too small");
    assert!(fits(right.values.len(), right_shape.0, right_shape.1, right.stride), "right operand is too small");
    assert!(fits(out.len(), rows, columns, out_stride), "result is too small");
    let (right_columns, right_rows) = match orientation {
        Right::Plain => (1, right.stride.cast_signed()),
        Right::Transposed => (right.stride.cast_signed(), 1),
    };
    // SAFETY: the assertions above keep every element that the strides reach inside its slice, and `out` is borrowed
    // mutably, so that it overlaps neither operand.
    unsafe {
        ::gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            out_stride.cast_signed(),
            add,
            left.values.as_ptr(),
            1,
            left.stride.cast_signed(),
            right.values.as_ptr(),
            right_columns,
            right_rows,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

impl Backend for Cpu {
    type Activations = Activations;
    type Embedding = Matrix;
    type Linear = Linear;
    type LayerNorm = LayerNorm;

    fn embedding(&self, table: Matrix) -> Result<Matrix, NnError> {
        Ok(table)
    }

    fn linear(&self, weight: Matrix, bias: Vec<f32>) -> Result<Linear, NnError> {
        Ok(Linear(PackedLinear::new(self.instructions, &weight, bias)))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the reference computes with an f32 epsilon as well")]
    fn layer_norm(&self, weight: Vec<f32>, bias: Vec<f32>, epsilon: f64) -> Result<LayerNorm, NnError> {
        Ok(LayerNorm { weight, bias, epsilon: epsilon as f32 })
    }

    fn embed(&self, lookups: &[(&Matrix, &[u32])]) -> Result<Activations, NnError> {
        let (width, tokens) = lookups.first().map_or((0, 0), |(table, indices)| (table.columns, indices.len()));
        let mut out = self.activations(tokens, width);
        out.values.fill(0.0);
        for (table, indices) in lookups {
            for (sum, &index) in out.values.chunks_exact_mut(width).zip(*indices) {
                let entry = index as usize * width;
                let row = table
                    .values
                    .get(entry..entry + width)
                    .ok_or(NnError::IndexOutOfRange { index, entries: table.rows })?;
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
        }
        Ok(out)
    }

    fn apply_linear(
        &self,
        layer: &Linear,
        input: &Activations,
        epilogue: Epilogue<'_, Activations>,
    ) -> Result<Activations, NnError> {
        let Linear(layer) = layer;
        let tokens = input.values.len() / input.width;
        let mut out = self.activations(tokens, layer.outputs());
        let finish = match epilogue {
            Epilogue::Bias => Finish::Bias,
            Epilogue::Activation(activation) => Finish::Activation(activation),
            Epilogue::Residual(residual) => Finish::Residual(&residual.values),
        };
        layer.apply(&input.values, finish, &mut out.values);
        Ok(out)
    }

    fn apply_layer_norm(&self, layer: &LayerNorm, input: &Activations) -> Result<Activations, NnError> {
        let mut out = self.activations(input.values.len() / input.width, input.width);
        self.arch.dispatch(|| {
            for (row, out) in input.values.chunks_exact(input.width).zip(out.values.chunks_exact_mut(input.width)) {
                math::layer_norm(row, &layer.weight, &layer.bias, layer.epsilon, out);
            }
        });
        Ok(out)
    }

    fn attention(&self, attention: Attention, qkv: &Activations, batch: &PackedBatch) -> Result<Activations, NnError> {
        let Attention { heads, head_size } = attention;
        let (hidden, stride) = (heads * head_size, qkv.width);
        #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
        let scale = 1.0 / (head_size as f32).sqrt();
        let mut out = self.activations(batch.tokens(), hidden);
        let mut scores = Buffers::take(&self.buffers, QUERY_BLOCK * batch.longest());
        for bounds in batch.cu_seqlens().windows(2) {
            let (start, length) = (bounds[0], bounds[1] - bounds[0]);
            for head in 0..heads {
                let part = |which: usize, row: usize| Rows {
                    values: &qkv.values[row * stride + which * hidden + head * head_size..],
                    stride,
                };
                for first in (0..length).step_by(QUERY_BLOCK) {
                    let block = QUERY_BLOCK.min(length - first);
                    let scores = &mut scores[..block * length];
                    let shape = (block, length, head_size);
                    let (query, key) = (part(0, start + first), part(1, start));
                    product(shape, scale, query, key, Right::Transposed, false, scores, length);
                    self.arch.dispatch(|| scores.chunks_exact_mut(length).for_each(math::softmax));
                    let weights = Rows { values: scores, stride: length };
                    let context = &mut out.values[(start + first) * hidden + head * head_size..];
                    let shape = (block, head_size, length);
                    product(shape, 1.0, weights, part(2, start), Right::Plain, false, context, hidden);
                }
            }
        }
        Ok(out)
    }

    fn pool(&self, pooling: Pooling, hidden: &Activations, batch: &PackedBatch) -> Result<Vec<f32>, NnError> {
        let width = hidden.width;
        let mut pooled = Vec::with_capacity(batch.sequences() * width);
        for bounds in batch.cu_seqlens().windows(2) {
            let tokens = &hidden.values[bounds[0] * width..bounds[1] * width];
            match pooling {
                Pooling::Cls => pooled.extend_from_slice(&tokens[..width]),
                Pooling::Mean => pooled.extend(math::mean_of_rows(tokens, width)),
            }
        }
        Ok(pooled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "right operand is too small")]
    fn a_product_never_reads_beyond_its_operands() {
        let (left, right) = ([0.0; 6], [0.0; 5]);
        let (left, right) = (Rows { values: &left, stride: 3 }, Rows { values: &right, stride: 3 });
        product((2, 2, 3), 1.0, left, right, Right::Transposed, false, &mut [0.0; 4], 2);
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "small whole numbers are exact")]
    fn products_of_both_orientations_are_plain_sums() {
        // [2, 3] times the transpose of [2, 3], and times [3, 2].
        let left = Rows { values: &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], stride: 3 };
        let mut out = [10.0; 4];
        product((2, 2, 3), 2.0, left, left, Right::Transposed, true, &mut out, 2);
        assert_eq!(out, [38.0, 74.0, 74.0, 164.0]);
        let right = Rows { values: &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], stride: 2 };
        product((2, 2, 3), 1.0, left, right, Right::Plain, false, &mut out, 2);
        assert_eq!(out, [22.0, 28.0, 49.0, 64.0]);
    }

    #[test]
    fn an_index_beyond_a_table_is_an_error() {
        let table = Matrix { rows: 2, columns: 1, values: vec![1.0, 2.0] };
        let error = Cpu::new().embed(&[(&table, &[0, 2])]).unwrap_err();
        assert_eq!(error.to_string(), "token 2 is beyond the 2 entries of a table");
    }
}
