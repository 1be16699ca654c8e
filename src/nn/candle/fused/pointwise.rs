//! What follows a linear layer: bias, activation, gate and residual, in one pass over its result, which it replaces.

use candle_core::Tensor;

use crate::nn::candle::kernels::{self, Argument, Module, Shape};
use crate::nn::{Activation, NnError};

/// What there is to do to the product of a linear layer: activation(product + bias) + residual.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::nn::candle) struct Finish<'a> {
    pub(in crate::nn::candle) bias: Option<&'a Tensor>,
    pub(in crate::nn::candle) activation: Option<Activation>,
    pub(in crate::nn::candle) residual: Option<&'a Tensor>,
}

/// Finishes a product of [tokens, outputs] that nobody else has.
pub(in crate::nn::candle) fn finish(product: Tensor, finish: Finish<'_>) -> Result<Tensor, NnError> {
    let Finish { bias, activation, residual } = finish;
    if bias.is_none() && activation.is_none() && residual.is_none() {
        return Ok(product);
    }
    let (rows, width) = product.dims2()?;
    let residual = residual.map(Tensor::contiguous).transpose()?;
    check(&product, bias, residual.as_ref())?;
    let all: Vec<&Tensor> = [Some(&product), bias, residual.as_ref()].into_iter().flatten().collect();
    let aligned = kernels::is_aligned(width, &all);
    let arguments = [
        Argument::Tensor(&product),
        Argument::Maybe(bias),
        Argument::Maybe(residual.as_ref()),
        kernels::int(width),
        Argument::Int(code(activation)),
        Argument::Int(aligned.into()),
    ];
    // SAFETY: these are the parameters of `finish_*`; a block has a row, product and residual have as many, the bias is as
    // wide as they, and the product is the caller's own.
    unsafe { begin(&product, "finish", rows, width, aligned, &arguments)? };
    Ok(product)
}

/// activation(gate + bias) · (up + bias) of two products of [tokens, outputs] that nobody else has, in place of the first.
pub(in crate::nn::candle) fn gated(
    gate: Tensor,
    up: &Tensor,
    [gate_bias, up_bias]: [Option<&Tensor>; 2],
    activation: Activation,
) -> Result<Tensor, NnError> {
    let (rows, width) = gate.dims2()?;
    check(&gate, gate_bias, Some(up))?;
    check(up, up_bias, None)?;
    let all: Vec<&Tensor> = [Some(&gate), Some(up), gate_bias, up_bias].into_iter().flatten().collect();
    let aligned = kernels::is_aligned(width, &all);
    let arguments = [
        Argument::Tensor(&gate),
        Argument::Tensor(up),
        Argument::Maybe(gate_bias),
        Argument::Maybe(up_bias),
        kernels::int(width),
        Argument::Int(code(Some(activation))),
        Argument::Int(aligned.into()),
    ];
    // SAFETY: these are the parameters of `gated_*`; a block has a row, both products have as many of one width, which is
    // that of the biases, and the first is the caller's own.
    unsafe { begin(&gate, "gated", rows, width, aligned, &arguments)? };
    Ok(gate)
}

/// # Safety
/// As for [`kernels::launch`].
unsafe fn begin(
    product: &Tensor,
    kernel: &str,
    rows: usize,
    width: usize,
    aligned: bool,
    arguments: &[Argument<'_>],
) -> Result<(), NnError> {
    let kernel = format!("{kernel}_{}", suffix(product)?);
    let accesses = if aligned { width * product.dtype().size_in_bytes() / 16 } else { width };
    let shape = Shape { blocks: rows, threads: accesses.next_multiple_of(32).clamp(32, 256), shared_bytes: 0 };
    // SAFETY: as the caller says.
    unsafe { kernels::launch(product.device(), Module::Pointwise, &kernel, shape, arguments) }
}

/// Refuses what does not fit together: a kernel would read what lies beyond.
pub(super) fn check(input: &Tensor, bias: Option<&Tensor>, other: Option<&Tensor>) -> Result<(), NnError> {
    let (_, width) = input.dims2()?;
    let same_numbers = bias.into_iter().chain(other).all(|tensor| tensor.dtype() == input.dtype());
    let fits = bias.is_none_or(|bias| bias.dims() == [width]) && other.is_none_or(|other| other.dims() == input.dims());
    if same_numbers && fits {
        return Ok(());
    }
    let shape = |tensor: Option<&Tensor>| tensor.map(|tensor| (tensor.dims().to_vec(), tensor.dtype()));
    let message = format!("{:?} with {:?} and {:?}", shape(Some(input)), shape(bias), shape(other));
    Err(NnError::other(format!("shapes that do not fit each other: {message}")))
}

/// The kind of numbers in the name of a kernel.
pub(super) fn suffix(tensor: &Tensor) -> Result<&'static str, NnError> {
    let none = || NnError::other(format!("no kernel computes in {:?}", tensor.dtype()));
    kernels::suffix(tensor.dtype()).ok_or_else(none)
}

/// As in `kernels/pointwise.cu`.
fn code(activation: Option<Activation>) -> i32 {
    match activation {
        None => 0,
        Some(Activation::Gelu) => 1,
        Some(Activation::GeluTanh) => 2,
        Some(Activation::Relu) => 3,
        Some(Activation::Silu) => 4,
    }
}
