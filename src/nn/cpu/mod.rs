//! The operations on the CPU: one thread, activations in reused buffers, matrix products by the `gemm` crate.
//!
//! Each encoder thread has a [`Cpu`] of its own and works through whole batches; the cores are kept busy by having
//! several of them. Everything is compiled for several sets of vector [`Instructions`], of which the best is chosen when
//! the program runs: attention is written in vectors, the loops between the products so that the compiler makes them so.

mod attention;
mod buffers;
mod instructions;
mod math;
mod norm;
mod pool;
mod rotation;
mod tile;
mod vector;

pub use instructions::Instructions;
pub use norm::Norm;

use std::sync::Arc;

use gemm::Parallelism;

use self::buffers::{Buffer, Buffers};
use self::instructions::Supported;
use self::rotation::Rotations;
use super::{Activation, Attention, Backend, Epilogue, Matrix, NnError, Pooling};
use crate::domain::PackedBatch;

/// Operations of one thread.
#[derive(Debug, Clone)]
pub struct Cpu {
    instructions: Supported,
    buffers: Arc<Buffers>,
    rotations: Arc<Rotations>,
}

/// [tokens, width], row by row.
#[derive(Debug)]
pub struct Activations {
    width: usize,
    values: Buffer,
}

impl Activations {
    fn tokens(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }
}

/// Weight of [outputs, inputs] and bias of [outputs].
#[derive(Debug)]
pub struct Linear {
    weight: Matrix,
    bias: Vec<f32>,
}

impl Cpu {
    /// Operations for one thread, with the best instructions that the processor has.
    pub fn new() -> Self {
        Self::with_instructions(Instructions::detect())
    }

    /// The same with instructions no better than `most`; and no better than the processor has.
    pub fn with_instructions(most: Instructions) -> Self {
        Self { instructions: Supported::at_most(most), buffers: Arc::default(), rotations: Arc::default() }
    }

    /// The instructions in use.
    pub fn instructions(&self) -> Instructions {
        self.instructions.instructions()
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
        gemm::gemm(
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
    type Norm = Norm;
    type Attention = Attention;

    fn embedding(&self, table: Matrix) -> Result<Matrix, NnError> {
        Ok(table)
    }

    fn linear(&self, weight: Matrix, bias: Vec<f32>) -> Result<Linear, NnError> {
        Ok(Linear { weight, bias })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the reference computes with an f32 epsilon as well")]
    fn layer_norm(&self, weight: Vec<f32>, bias: Option<Vec<f32>>, epsilon: f64) -> Result<Norm, NnError> {
        Ok(Norm::Layer { weight, bias, epsilon: epsilon as f32 })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the reference computes with an f32 epsilon as well")]
    fn rms_norm(&self, weight: Vec<f32>, epsilon: f64) -> Result<Norm, NnError> {
        Ok(Norm::Rms { weight, epsilon: epsilon as f32 })
    }

    fn attention(&self, attention: Attention) -> Result<Attention, NnError> {
        attention.assert_consistent();
        Ok(attention)
    }

    fn embed(&self, lookups: &[(&Matrix, &[u32])]) -> Result<Activations, NnError> {
        let (width, tokens) = lookups.first().map_or((0, 0), |(table, indices)| (table.columns, indices.len()));
        let mut out = self.activations(tokens, width);
        for token in 0..tokens {
            let sum = &mut out.values[token * width..][..width];
            for (place, (table, indices)) in lookups.iter().enumerate() {
                let index = indices[token];
                let entry = index as usize * width;
                let row = table
                    .values
                    .get(entry..entry + width)
                    .ok_or(NnError::IndexOutOfRange { index, entries: table.rows })?;
                if place == 0 {
                    sum.copy_from_slice(row);
                } else {
                    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
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
        let Matrix { rows: outputs, columns: inputs, values: weight } = &layer.weight;
        let tokens = input.tokens();
        let mut out = self.activations(tokens, *outputs);
        // What is added at the end anyway is where the sum begins.
        match &epilogue {
            Epilogue::Residual(residual) => out.values.copy_from_slice(&residual.values),
            Epilogue::Bias | Epilogue::Activation(_) => out.values.fill(0.0),
        }
        for row in out.values.chunks_exact_mut(*outputs) {
            row.iter_mut().zip(&layer.bias).for_each(|(value, bias)| *value += bias);
        }
        let left = Rows { values: &input.values, stride: input.width };
        let right = Rows { values: weight, stride: *inputs };
        product((tokens, *outputs, *inputs), 1.0, left, right, Right::Transposed, true, &mut out.values, *outputs);
        if let Epilogue::Activation(activation) = epilogue {
            let values = &mut out.values[..];
            self.instructions.run_plain(|| match activation {
                Activation::Gelu => values.iter_mut().for_each(|x| *x = math::gelu(*x)),
                Activation::GeluTanh => values.iter_mut().for_each(|x| *x = math::gelu_tanh(*x)),
                Activation::Relu => values.iter_mut().for_each(|x| *x = x.max(0.0)),
                Activation::Silu => values.iter_mut().for_each(|x| *x = math::silu(*x)),
            });
        }
        Ok(out)
    }

    fn apply_norm(&self, norm: &Norm, input: &Activations) -> Result<Activations, NnError> {
        let width = input.width;
        let mut out = self.activations(input.tokens(), width);
        let (rows, out_rows) = (&input.values[..], &mut out.values[..]);
        self.instructions.run_plain(|| {
            for (row, out) in rows.chunks_exact(width).zip(out_rows.chunks_exact_mut(width)) {
                norm.apply(row, out);
            }
        });
        Ok(out)
    }

    fn apply_attention(
        &self,
        attention: &Attention,
        qkv: &Activations,
        batch: &PackedBatch,
    ) -> Result<Activations, NnError> {
        let mut out = self.activations(batch.tokens(), attention.output_width());
        let rotation = attention.rotary.as_ref().map(|rotary| self.rotations.get(rotary, batch.longest()));
        let (qkv, buffers) = (&qkv.values[..], &self.buffers);
        self.instructions.run(attention::Layer { attention, rotation, qkv, batch, out: &mut out.values, buffers });
        Ok(out)
    }

    fn apply_gate(&self, activation: Activation, gate_up: &Activations) -> Result<Activations, NnError> {
        let width = gate_up.width / 2;
        let mut out = self.activations(gate_up.tokens(), width);
        let (rows, out_rows) = (&gate_up.values[..], &mut out.values[..]);
        self.instructions.run_plain(|| {
            for (row, out) in rows.chunks_exact(2 * width).zip(out_rows.chunks_exact_mut(width)) {
                let (gate, up) = row.split_at(width);
                let points = out.iter_mut().zip(gate.iter().zip(up));
                match activation {
                    Activation::Gelu => points.for_each(|(out, (gate, up))| *out = math::gelu(*gate) * up),
                    Activation::GeluTanh => points.for_each(|(out, (gate, up))| *out = math::gelu_tanh(*gate) * up),
                    Activation::Relu => points.for_each(|(out, (gate, up))| *out = gate.max(0.0) * up),
                    Activation::Silu => points.for_each(|(out, (gate, up))| *out = math::silu(*gate) * up),
                }
            }
        });
        Ok(out)
    }

    fn add(&self, one: &Activations, other: &Activations) -> Result<Activations, NnError> {
        assert_eq!((one.width, one.values.len()), (other.width, other.values.len()), "shapes differ");
        let mut out = self.activations(one.tokens(), one.width);
        out.values.copy_from_slice(&one.values);
        out.values.iter_mut().zip(&other.values[..]).for_each(|(sum, x)| *sum += x);
        Ok(out)
    }

    fn scale(&self, input: &Activations, factor: f32) -> Result<Activations, NnError> {
        let mut out = self.activations(input.tokens(), input.width);
        out.values.iter_mut().zip(&input.values[..]).for_each(|(out, x)| *out = x * factor);
        Ok(out)
    }

    fn pool(&self, pooling: Pooling, hidden: &Activations, batch: &PackedBatch) -> Result<Vec<f32>, NnError> {
        let width = hidden.width;
        let mut pooled = Vec::with_capacity(batch.sequences() * width);
        for bounds in batch.cu_seqlens().windows(2) {
            pooled.extend(pool::pool(pooling, &hidden.values[bounds[0] * width..bounds[1] * width], width));
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
