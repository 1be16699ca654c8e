//! The few tensor operations that an encoder needs, over packed sequences.
//!
//! [`Backend`] is the seam between architectures and arithmetic: an architecture in `arch` is written once against it
//! and never learns what runs below. [`Cpu`] is what runs; [`Candle`] is the same in plain tensors, against which it is
//! checked, and the way to other devices. A backend decides how weights are laid out (its associated types), how sequences
//! of different lengths are brought together, and in what precision layers compute. Pooling is in f32 in any case.

mod candle;
pub mod cpu;

pub use candle::Candle;
pub use cpu::{Cpu, Instructions};

use crate::domain::PackedBatch;

/// A dense matrix of the host, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Number of rows; for the weight of a linear layer its outputs.
    pub rows: usize,
    /// Number of columns; for the weight of a linear layer its inputs.
    pub columns: usize,
    /// [rows, columns].
    pub values: Vec<f32>,
}

impl Matrix {
    /// Several matrices with the same number of columns as one, rows after rows, so that linear layers with the same
    /// input can run as one.
    ///
    /// # Panics
    /// When the numbers of columns differ.
    pub fn stack(parts: impl IntoIterator<Item = Matrix>) -> Matrix {
        parts
            .into_iter()
            .reduce(|mut above, below| {
                assert_eq!(above.columns, below.columns, "matrices of one stack have the same width");
                above.rows += below.rows;
                above.values.extend(below.values);
                above
            })
            .unwrap_or(Matrix { rows: 0, columns: 0, values: Vec::new() })
    }
}

/// A point-wise non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x) with the error function; `gelu`.
    Gelu,
    /// Its approximation by tanh; `gelu_new`, `gelu_pytorch_tanh`. About 5e-4 from the exact one.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x σ(x); `silu`, `swish`.
    Silu,
}

impl Activation {
    /// The activation that `config.json` calls `name`, as transformers does; `None` for one that is not implemented.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            "silu" | "swish" => Some(Self::Silu),
            _ => None,
        }
    }
}

/// What follows a linear layer and can be done before its result leaves the registers.
#[derive(Debug)]
pub enum Epilogue<'a, A> {
    /// Nothing more.
    Bias,
    /// An activation.
    Activation(Activation),
    /// The sum with other activations of the same shape.
    Residual(&'a A),
}

/// Shape of multi-head attention. Every token attends to every token of its own sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// Width of one head; scores are scaled by its inverse square root.
    pub head_size: usize,
}

/// How the token vectors of a sequence become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first token's vector.
    Cls,
    /// The mean over all tokens.
    Mean,
}

/// An operation that a backend could not carry out.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// The tokenizer gives a token that the model does not know, or a position beyond its last.
    #[error("token {index} is beyond the {entries} entries of a table")]
    IndexOutOfRange {
        /// The index.
        index: u32,
        /// Size of the table.
        entries: usize,
    },
    /// The tensor library's own words.
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
}

/// Tensor operations over packed sequences: activations are [tokens, width], all sequences of a batch end to end.
///
/// Every operation fails with [`NnError`] when an index is out of range or the tensor library refuses; shapes that do
/// not fit each other are a fault of the caller and may panic.
#[expect(clippy::missing_errors_doc, reason = "said once for all operations")]
pub trait Backend: Send + Sync + 'static {
    /// [tokens, width] on the device.
    type Activations;
    /// A table of vectors: [entries, width].
    type Embedding: Send + Sync;
    /// A linear layer.
    type Linear: Send + Sync;
    /// A layer normalisation.
    type LayerNorm: Send + Sync;

    /// Takes a table of vectors.
    fn embedding(&self, table: Matrix) -> Result<Self::Embedding, NnError>;

    /// Takes y = x Wᵀ + b with W of [outputs, inputs] and b of `[outputs]`.
    fn linear(&self, weight: Matrix, bias: Vec<f32>) -> Result<Self::Linear, NnError>;

    /// Takes y = (x - mean) / √(variance + epsilon) · weight + bias over the width.
    fn layer_norm(&self, weight: Vec<f32>, bias: Vec<f32>, epsilon: f64) -> Result<Self::LayerNorm, NnError>;

    /// Sum of the looked-up vectors: each table with `[tokens]` indices into it.
    fn embed(&self, lookups: &[(&Self::Embedding, &[u32])]) -> Result<Self::Activations, NnError>;

    /// [tokens, inputs] to [tokens, outputs].
    fn apply_linear(
        &self,
        layer: &Self::Linear,
        input: &Self::Activations,
        epilogue: Epilogue<'_, Self::Activations>,
    ) -> Result<Self::Activations, NnError>;

    /// [tokens, width] to the same shape.
    fn apply_layer_norm(
        &self,
        layer: &Self::LayerNorm,
        input: &Self::Activations,
    ) -> Result<Self::Activations, NnError>;

    /// Softmax(q kᵀ / √`head_size`) v within each sequence. `qkv` is [tokens, 3 · heads · `head_size`]: all heads of
    /// q, then of k, then of v. Gives [tokens, heads · `head_size`].
    fn attention(
        &self,
        attention: Attention,
        qkv: &Self::Activations,
        batch: &PackedBatch,
    ) -> Result<Self::Activations, NnError>;

    /// [sequences, width] on the host, in f32. Sequences must not be empty.
    fn pool(&self, pooling: Pooling, hidden: &Self::Activations, batch: &PackedBatch) -> Result<Vec<f32>, NnError>;
}
