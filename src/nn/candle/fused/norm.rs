//! Norms over a sum, in one pass: the sum is rounded where it is kept, not before its norm is taken.

use candle_core::Tensor;

use super::pointwise::{check, suffix};
use crate::nn::NnError;
use crate::nn::candle::kernels::{self, Argument, MAX_SHARED, Module, Shape};
use crate::nn::candle::weights::Norm;

/// What a norm is taken of: input + bias + residual, each [tokens, width] but the bias.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn::candle) struct Sum<'a> {
    pub(in crate::nn::candle) input: &'a Tensor,
    pub(in crate::nn::candle) bias: Option<&'a Tensor>,
    pub(in crate::nn::candle) residual: Option<&'a Tensor>,
}

/// Where results go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nn::candle) enum Destination {
    /// The norm has memory of its own; the sum is not kept.
    New,
    /// The norm takes the place of the input, which nobody else has; the sum is not kept.
    Input,
    /// The norm has memory of its own, and the sum takes the place of the input, which nobody else has.
    InputAndNew,
}

/// Sums of a block beside its row, in numbers.
const PARTIAL_SUMS: usize = 64;

/// Threads of a block.
const THREADS: usize = 128;

/// Whether the kernel takes a norm.
pub(in crate::nn::candle) fn takes(norm: &Norm) -> bool {
    let (Norm::Layer { weight, .. } | Norm::Rms { weight, .. }) = norm;
    fits(weight.elem_count())
}

/// Whether rows of this width fit into the memory of a block: wider ones are left to plain tensors.
fn fits(width: usize) -> bool {
    width > 0 && shared_bytes(width) <= MAX_SHARED
}

fn shared_bytes(width: usize) -> usize {
    (PARTIAL_SUMS + width) * size_of::<f32>()
}

/// The norm; see [`Destination`] for what becomes of the input.
pub(in crate::nn::candle) fn norm(norm: &Norm, sum: Sum<'_>, into: Destination) -> Result<Tensor, NnError> {
    let Sum { input, bias, residual } = sum;
    let (rows, width) = input.dims2()?;
    // A copy would be another tensor than the one that is to be replaced.
    let input = if into == Destination::New { input.contiguous()? } else { input.clone() };
    let residual = residual.map(Tensor::contiguous).transpose()?;
    let (weight, shift, epsilon) = match norm {
        Norm::Layer { weight, bias, epsilon } => (weight, Some(bias), *epsilon),
        Norm::Rms { weight, epsilon } => (weight, None, *epsilon),
    };
    check(&input, bias, residual.as_ref())?;
    check(&input, Some(weight), None)?;
    check(&input, shift, None)?;
    let normed = match into {
        Destination::Input => input.clone(),
        // SAFETY: the kernel writes every number of every row.
        Destination::New | Destination::InputAndNew => unsafe { kernels::unwritten(rows, width, &input)? },
    };
    let all = [Some(&input), bias, residual.as_ref(), Some(weight), shift];
    let aligned = kernels::is_aligned(width, &all.into_iter().flatten().collect::<Vec<_>>());
    let arguments = [
        Argument::Tensor(&normed),
        Argument::Maybe((into == Destination::InputAndNew).then_some(&input)),
        Argument::Tensor(&input),
        Argument::Maybe(bias),
        Argument::Maybe(residual.as_ref()),
        Argument::Tensor(weight),
        Argument::Maybe(shift),
        kernels::int(width),
        Argument::Int(matches!(norm, Norm::Layer { .. }).into()),
        Argument::Int(aligned.into()),
        Argument::Float(epsilon),
    ];
    let kernel = format!("norm_{}", suffix(&input)?);
    let shape = Shape { blocks: rows, threads: THREADS, shared_bytes: shared_bytes(width) };
    // SAFETY: these are the parameters of `norm_*`; a block has a row, all that has rows has as many of one width, which is
    // that of the weights as well, and what is written is new or the caller's own.
    unsafe { kernels::launch(input.device(), Module::Norm, &kernel, shape, &arguments)? };
    Ok(normed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_fit_into_a_block_are_taken() {
        assert!(fits(1) && fits(768) && fits(12_224));
        assert!(!fits(0) && !fits(12_225));
    }
}
