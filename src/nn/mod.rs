//! The few tensor operations that an encoder needs, over packed sequences.
//!
//! [`Backend`] is the seam between architectures and arithmetic: an architecture in `arch` is written once against it
//! and never learns what runs below. [`Cpu`] is what runs; [`Candle`] is the same in plain tensors, against which it is
//! checked, and the way to other devices. A backend decides how weights are laid out (its associated types), how sequences
//! of different lengths are brought together, and in what precision layers compute. Pooling is in f32 in any case.

mod attention;
mod awaited;
mod candle;
pub mod cpu;
mod error;
mod relative_attention;
mod splade;

#[cfg(test)]
mod agreement_tests;

pub use attention::{Attention, HeadNorm, Mask, Pairing, PositionBias, Rotary};
pub use awaited::Awaited;
pub(crate) use candle::erf;
pub use candle::{Candle, Gpu, GpuError, Grouping, Kernels, LARGEST_FUSED_HEAD, Numbers, VOCABULARY_BYTES};
pub use cpu::{Cpu, Instructions};
pub use error::NnError;
pub use relative_attention::{Distances, RelativeAttention};
pub use splade::{SpladeActivation, SpladePooling, SpladeStrategy};

use crate::domain::{PackedBatch, SparseVector};

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
            "gelu" | "gelu_python" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
                Some(Self::GeluTanh)
            }
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

/// The feed-forward half of a transformer layer: down(inner(x)).
///
/// The backend has it as a whole because what lies in the middle is the widest that an encoder computes, and need not
/// exist for all tokens at once.
#[derive(Debug)]
pub struct FeedForward<L> {
    /// [tokens, hidden] to [tokens, inner].
    pub inner: Inner<L>,
    /// [tokens, inner] to [tokens, hidden].
    pub down: L,
}

/// The first half of a feed-forward layer; each of its linear layers is [tokens, hidden] to [tokens, inner].
#[derive(Debug)]
pub enum Inner<L> {
    /// activation(up(x)).
    Plain {
        /// The layer.
        up: L,
        /// What follows it.
        activation: Activation,
    },
    /// activation(gate(x)) · up(x); `SwiGLU` and its kin (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
    Gated {
        /// The layer that is activated.
        gate: L,
        /// The layer that it is multiplied with.
        up: L,
        /// What follows the gate.
        activation: Activation,
    },
}

/// What is added to the tokens that went into a half of a transformer layer: its last step.
#[derive(Debug)]
pub enum Branch<'a, L> {
    /// A linear layer.
    Linear(&'a L),
    /// A feed-forward layer.
    FeedForward(&'a FeedForward<L>),
}

/// How the token vectors of a sequence become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first token's vector.
    Cls,
    /// The largest of each component over all tokens.
    Max,
    /// The mean over all tokens.
    Mean,
    /// The sum over all tokens divided by the square root of their number.
    #[serde(rename = "mean_sqrt_len_tokens")]
    MeanSqrtLen,
    /// The mean weighted by position, counted from 1.
    WeightedMean,
    /// The last token's vector.
    LastToken,
}

impl Pooling {
    /// All of them, in the order in which several are joined.
    pub const ALL: [Self; 6] =
        [Self::Cls, Self::Max, Self::Mean, Self::MeanSqrtLen, Self::WeightedMean, Self::LastToken];

    /// The name that sentence-transformers gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanSqrtLen => "mean_sqrt_len_tokens",
            Self::WeightedMean => "weightedmean",
            Self::LastToken => "lasttoken",
        }
    }
}

/// Some rows of [tokens, width], as they are or through a layer: [rows, width] or [rows, outputs].
#[derive(Debug)]
pub struct Wanted<'a, P> {
    /// Which tokens; `None` for all. Each is one of the batch.
    pub tokens: Option<&'a [u32]>,
    /// Through what.
    pub projection: Option<&'a P>,
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
    /// A normalisation of token vectors.
    type Norm: Send + Sync;
    /// A layer whose outputs go to the host.
    type Projection: Send + Sync;
    /// An attention layer.
    type Attention: Send + Sync;
    /// An attention layer with relative positions.
    type RelativeAttention: Send + Sync;

    /// How many cores the following operations may use, where that is for the backend to decide.
    fn use_cores(&mut self, _cores: usize) {}

    /// Does work that is made of many operations, where the backend wants it done.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T
    where
        Self: Sized,
    {
        work()
    }

    /// Whether the device computes while the host goes on, so that the next batch may be begun before the results of this
    /// one are asked for.
    fn computes_apart(&self) -> bool {
        false
    }

    /// Waits for the device, forgets what failed there while nobody could be told of it, and gives back memory that is
    /// kept for later use. After an error of memory the device can be used again; before memory is looked at, none is
    /// counted that nobody has. An error of another kind remains one.
    fn settle(&self) -> Result<(), NnError> {
        Ok(())
    }

    /// The most bytes that this process held on the device since the last time this was asked, weights and context
    /// included. A device whose allocator counts that gives it here; `None` elsewhere, and then only looks at the device
    /// now and then correct what batches are reckoned to take.
    fn take_peak(&self) -> Option<u64> {
        None
    }

    /// Takes a table of vectors.
    fn embedding(&self, table: Matrix) -> Result<Self::Embedding, NnError>;

    /// Takes y = x Wᵀ + b with W of [outputs, inputs] and b of `[outputs]`, or without b.
    fn linear(&self, weight: Matrix, bias: Option<Vec<f32>>) -> Result<Self::Linear, NnError>;

    /// Takes a layer of a head, as [`linear`](Self::linear) does. It is in f32 whatever the others compute in: it is
    /// small, and what it loses nothing makes good.
    fn projection(&self, weight: Matrix, bias: Option<Vec<f32>>) -> Result<Self::Projection, NnError>;

    /// Takes y = (x - mean) / √(variance + epsilon) · weight + bias over the width.
    fn layer_norm(&self, weight: Vec<f32>, bias: Option<Vec<f32>>, epsilon: f64) -> Result<Self::Norm, NnError>;

    /// Takes y = x / √(mean of squares + epsilon) · weight over the width. Gemma's norms multiply by 1 + what its
    /// checkpoints hold: add it before.
    fn rms_norm(&self, weight: Vec<f32>, epsilon: f64) -> Result<Self::Norm, NnError>;

    /// Takes an attention layer.
    fn attention(&self, attention: Attention) -> Result<Self::Attention, NnError>;

    /// Takes an attention layer with relative positions.
    fn relative_attention(&self, attention: RelativeAttention) -> Result<Self::RelativeAttention, NnError>;

    /// Sum of the looked-up vectors: each table with `[tokens]` indices into it.
    fn embed(&self, lookups: &[(&Self::Embedding, &[u32])]) -> Result<Self::Activations, NnError>;

    /// [tokens, inputs] to [tokens, outputs].
    fn apply_linear(
        &self,
        layer: &Self::Linear,
        input: &Self::Activations,
        epilogue: Epilogue<'_, Self::Activations>,
    ) -> Result<Self::Activations, NnError>;

    /// [tokens, hidden] to the same shape, row by row.
    fn apply_feed_forward(
        &self,
        layer: &FeedForward<Self::Linear>,
        input: &Self::Activations,
        epilogue: Epilogue<'_, Self::Activations>,
    ) -> Result<Self::Activations, NnError>;

    /// residual + branch(input).
    fn add_branch(
        &self,
        branch: Branch<'_, Self::Linear>,
        input: &Self::Activations,
        residual: &Self::Activations,
    ) -> Result<Self::Activations, NnError> {
        match branch {
            Branch::Linear(layer) => self.apply_linear(layer, input, Epilogue::Residual(residual)),
            Branch::FeedForward(layer) => self.apply_feed_forward(layer, input, Epilogue::Residual(residual)),
        }
    }

    /// norm(residual + branch(input)): how halves of layers end whose norm follows the sum.
    fn add_branch_then_norm(
        &self,
        branch: Branch<'_, Self::Linear>,
        input: &Self::Activations,
        residual: &Self::Activations,
        norm: &Self::Norm,
    ) -> Result<Self::Activations, NnError> {
        self.apply_norm(norm, &self.add_branch(branch, input, residual)?)
    }

    /// residual + branch(input), and its norm: how halves of layers end where what follows begins with a norm.
    fn add_branch_and_norm(
        &self,
        branch: Branch<'_, Self::Linear>,
        input: &Self::Activations,
        residual: &Self::Activations,
        norm: &Self::Norm,
    ) -> Result<(Self::Activations, Self::Activations), NnError> {
        let sum = self.add_branch(branch, input, residual)?;
        let normed = self.apply_norm(norm, &sum)?;
        Ok((sum, normed))
    }

    /// [tokens, width] to the same shape.
    fn apply_norm(&self, norm: &Self::Norm, input: &Self::Activations) -> Result<Self::Activations, NnError>;

    /// Attention within each sequence, to those of its tokens that are seen. `qkv` is [tokens, (heads + 2 · `key_value_heads`) · `head_size`]: all heads of q,
    /// then of k, then of v. Gives [tokens, heads · `head_size`].
    fn apply_attention(
        &self,
        attention: &Self::Attention,
        qkv: &Self::Activations,
        batch: &PackedBatch,
    ) -> Result<Self::Activations, NnError>;

    /// Attention with relative positions within each sequence. `qkv` is [tokens, 3 · heads · `head_size`]: all heads of q,
    /// then of k, then of v. Gives [tokens, heads · `head_size`].
    fn apply_relative_attention(
        &self,
        attention: &Self::RelativeAttention,
        qkv: &Self::Activations,
        batch: &PackedBatch,
    ) -> Result<Self::Activations, NnError>;

    /// The sum of two of the same shape.
    fn add(&self, one: &Self::Activations, other: &Self::Activations) -> Result<Self::Activations, NnError>;

    /// Every number times `factor`.
    fn scale(&self, input: &Self::Activations, factor: f32) -> Result<Self::Activations, NnError>;

    /// [sequences, poolings · width] on the host, in f32: what each pooling gives, side by side.
    ///
    /// So many leading tokens of every sequence take no part. Where none remains, the result is what
    /// sentence-transformers gives: the first token's for [`Pooling::Cls`], -∞ for [`Pooling::Max`], else zeros. For a
    /// sequence without tokens it is zeros.
    ///
    /// Where the device computes apart, this says what is to be computed; the result is [`Awaited`].
    fn pool(
        &self,
        poolings: &[Pooling],
        left_out: usize,
        hidden: &Self::Activations,
        batch: &PackedBatch,
    ) -> Result<Awaited, NnError>;

    /// One sparse vector a sequence on the host: what a pooling makes of a layer's outputs for all its tokens. `input` is
    /// [tokens, inputs]; [tokens, outputs] never exists as a whole, for vocabularies are large.
    fn weigh_vocabulary(
        &self,
        decoder: &Self::Linear,
        input: &Self::Activations,
        pooling: SpladePooling,
        batch: &PackedBatch,
    ) -> Result<Awaited<Vec<SparseVector>>, NnError>;

    /// What is wanted of [tokens, width], each on the host in f32, with one wait for all.
    fn copies(
        &self,
        hidden: &Self::Activations,
        wanted: &[Wanted<'_, Self::Projection>],
    ) -> Result<Awaited<Vec<Vec<f32>>>, NnError>;
}
