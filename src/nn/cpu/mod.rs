//! The operations on the CPU: one thread, activations in reused buffers, linear layers over packed weights ([`gemm`]).
//!
//! Each encoder thread has its own [`Cpu`] and computes whole batches; idle cores take over parts of the others'
//! operations (`cores`). Code is compiled for several sets of vector [`Instructions`]; the best is chosen at run time.

mod attention;
mod buffers;
mod cores;
pub mod gemm;
mod instructions;
mod linear;
mod norm;
mod pool;
mod relative_attention;
mod rotation;
mod tile;
mod vector;
mod vocabulary;

pub use instructions::Instructions;
pub use linear::Linear;
pub use norm::Norm;

use std::sync::Arc;

use self::buffers::{Buffer, Buffers};
use self::gemm::{Finish, Kernel, PackedLinear};
use self::instructions::Supported;
use self::rotation::Rotations;
use super::{Attention, Backend, Epilogue, FeedForward, Matrix, NnError, Pending, RelativeAttention, Wanted};
use crate::domain::{PackedBatch, SparseVector};
use crate::model::pooling::{Pooling, SpladePooling};

/// Operations of one thread, which other cores may help for a while.
#[derive(Debug, Clone)]
pub struct Cpu {
    instructions: Supported,
    /// Of the linear layers.
    kernel: Kernel,
    cores: usize,
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

impl Cpu {
    /// Operations for one thread, with the best instructions that the processor has.
    pub fn new() -> Self {
        Self::with_instructions(Instructions::detect())
    }

    /// The same with instructions no better than `most`; and no better than the processor has.
    pub fn with_instructions(most: Instructions) -> Self {
        Self::with_kernel(Kernel::single(most))
    }

    /// The same with linear layers computed by a kernel, and all else with its instructions.
    pub fn with_kernel(kernel: Kernel) -> Self {
        let (buffers, rotations) = (Arc::default(), Arc::default());
        Self { instructions: Supported::at_most(kernel.instructions()), kernel, cores: 1, buffers, rotations }
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

/// An epilogue on the host.
fn finish<'a>(epilogue: &Epilogue<'a, Activations>) -> Finish<'a> {
    match *epilogue {
        Epilogue::Bias => Finish::Bias,
        Epilogue::Activation(activation) => Finish::Activation(activation),
        Epilogue::Residual(residual) => Finish::Residual(&residual.values),
    }
}

impl Backend for Cpu {
    type Activations = Activations;
    type Embedding = Matrix;
    type Linear = Linear;
    type Norm = Norm;
    type Projection = Linear;
    type Attention = Attention;
    type RelativeAttention = RelativeAttention;

    fn use_cores(&mut self, cores: usize) {
        self.cores = cores.max(1);
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if self.cores > 1 { cores::enter(self.cores, work) } else { work() }
    }

    fn embedding(&self, table: Matrix) -> Result<Matrix, NnError> {
        Ok(table)
    }

    fn linear(&self, weight: Matrix, bias: Option<Vec<f32>>) -> Result<Linear, NnError> {
        Ok(Linear(PackedLinear::new(self.kernel, &weight, bias)))
    }

    fn projection(&self, weight: Matrix, bias: Option<Vec<f32>>) -> Result<Linear, NnError> {
        Ok(Linear(PackedLinear::new(Kernel::single(self.instructions()), &weight, bias)))
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

    fn relative_attention(&self, attention: RelativeAttention) -> Result<RelativeAttention, NnError> {
        attention.assert_consistent();
        Ok(attention)
    }

    fn embed(&self, lookups: &[(&Matrix, &[u32])]) -> Result<Activations, NnError> {
        let (width, tokens) = lookups.first().map_or((0, 0), |(table, indices)| (table.columns, indices.len()));
        let mut out = self.activations(tokens, width);
        let embed = |first: usize, rows: &mut [f32]| -> Result<(), NnError> {
            for (token, sum) in (first..).zip(rows.chunks_exact_mut(width.max(1))) {
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
            Ok(())
        };
        cores::rows(self.cores, &mut out.values, width, embed)?;
        Ok(out)
    }

    fn apply_linear(
        &self,
        layer: &Linear,
        input: &Activations,
        epilogue: Epilogue<'_, Activations>,
    ) -> Result<Activations, NnError> {
        let mut out = self.activations(input.tokens(), layer.0.outputs());
        layer.apply(self.cores, &input.values, finish(&epilogue), &mut out.values);
        Ok(out)
    }

    fn apply_feed_forward(
        &self,
        layer: &FeedForward<Linear>,
        input: &Activations,
        epilogue: Epilogue<'_, Activations>,
    ) -> Result<Activations, NnError> {
        let mut out = self.activations(input.tokens(), layer.down.0.outputs());
        layer.apply(self.cores, &self.buffers, &input.values, finish(&epilogue), &mut out.values);
        Ok(out)
    }

    fn apply_norm(&self, norm: &Norm, input: &Activations) -> Result<Activations, NnError> {
        let width = input.width;
        let mut out = self.activations(input.tokens(), width);
        cores::rows(self.cores, &mut out.values, width, |first, out| {
            let rows = &input.values[first * width..][..out.len()];
            // Inlined, or it would be compiled for what every processor has.
            self.instructions.run_plain(
                #[inline(always)]
                || {
                    for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                        norm.apply(row, out);
                    }
                },
            );
            Ok(())
        })?;
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
        let layer = attention::Layer { attention, rotation, qkv, batch, out: &mut out.values, buffers };
        let cores = layer.cores_of_use(self.cores);
        layer.compute(self.instructions, cores);
        Ok(out)
    }

    fn apply_relative_attention(
        &self,
        attention: &RelativeAttention,
        qkv: &Activations,
        batch: &PackedBatch,
    ) -> Result<Activations, NnError> {
        let mut out = self.activations(batch.tokens(), attention.output_width());
        let (qkv, buffers, instructions) = (&qkv.values[..], &self.buffers, self.instructions);
        relative_attention::Layer { attention, qkv, batch, out: &mut out.values, buffers, instructions }.apply();
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

    fn pool(
        &self,
        poolings: &[Pooling],
        left_out: usize,
        hidden: &Activations,
        batch: &PackedBatch,
    ) -> Result<Pending, NnError> {
        let width = hidden.width;
        let mut pooled = Vec::with_capacity(batch.sequences() * poolings.len() * width);
        for bounds in batch.cu_seqlens().windows(2) {
            let tokens = &hidden.values[bounds[0] * width..bounds[1] * width];
            for &pooling in poolings {
                pooled.extend(pool::pool(pooling, tokens, width, left_out));
            }
        }
        Ok(Pending::ready(pooled))
    }

    fn weigh_vocabulary(
        &self,
        decoder: &Linear,
        input: &Activations,
        pooling: SpladePooling,
        batch: &PackedBatch,
    ) -> Result<Pending<Vec<SparseVector>>, NnError> {
        Ok(Pending::ready(self.weigh_vocabulary(decoder, input, pooling, batch)))
    }

    fn copies(&self, hidden: &Activations, wanted: &[Wanted<'_, Linear>]) -> Result<Pending<Vec<Vec<f32>>>, NnError> {
        let width = hidden.width;
        let of_one = |wanted: &Wanted<'_, Linear>| {
            let some: Option<Vec<f32>> = wanted.tokens.map(|tokens| {
                let row = |token: &u32| &hidden.values[*token as usize * width..][..width];
                tokens.iter().flat_map(row).copied().collect()
            });
            let rows = some.as_deref().unwrap_or(&hidden.values);
            match wanted.projection {
                Some(layer) => {
                    let mut out = vec![0.0; rows.len() / width.max(1) * layer.0.outputs()];
                    layer.apply(self.cores, rows, Finish::Bias, &mut out);
                    out
                }
                None => some.unwrap_or_else(|| hidden.values.to_vec()),
            }
        };
        Ok(Pending::ready(wanted.iter().map(of_one).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_beyond_a_table_is_an_error() {
        let table = Matrix { rows: 2, columns: 1, values: vec![1.0, 2.0] };
        let error = Cpu::new().embed(&[(&table, &[0, 2])]).unwrap_err();
        assert_eq!(error.to_string(), "token 2 is beyond the 2 entries of a table");
    }
}
