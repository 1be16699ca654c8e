//! The operations of a backend.

use super::{Attention, Branch, Epilogue, FeedForward, Matrix, NnError, Pending, RelativeAttention, Wanted};
use crate::domain::{PackedBatch, SparseVector};
use crate::model::pooling::{Pooling, SpladePooling};

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

    /// Runs work made of many operations on the threads that the backend wants.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T
    where
        Self: Sized,
    {
        work()
    }

    /// Whether the device computes while the host continues, so that the next batch can begin before this one's results
    /// are read.
    fn computes_apart(&self) -> bool {
        false
    }

    /// Waits for the device, clears deferred errors, and releases cached memory. After an out-of-memory error the device
    /// is usable again; other errors remain.
    fn settle(&self) -> Result<(), NnError> {
        Ok(())
    }

    /// Peak bytes that this process held on the device since the last call, weights and context included; `None` where
    /// the allocator does not count them.
    fn take_peak(&self) -> Option<u64> {
        None
    }

    /// Takes a table of vectors.
    fn embedding(&self, table: Matrix) -> Result<Self::Embedding, NnError>;

    /// Takes y = x Wᵀ + b with W of [outputs, inputs] and b of `[outputs]`, or without b.
    fn linear(&self, weight: Matrix, bias: Option<Vec<f32>>) -> Result<Self::Linear, NnError>;

    /// Takes a layer of a head, as [`linear`](Self::linear) does, but always in f32.
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
    /// Where the device computes apart, this says what is to be computed; the result is [`Pending`].
    fn pool(
        &self,
        poolings: &[Pooling],
        left_out: usize,
        hidden: &Self::Activations,
        batch: &PackedBatch,
    ) -> Result<Pending, NnError>;

    /// One sparse vector a sequence on the host: what a pooling makes of a layer's outputs for all its tokens. `input` is
    /// [tokens, inputs]; [tokens, outputs] never exists as a whole, for vocabularies are large.
    fn weigh_vocabulary(
        &self,
        decoder: &Self::Linear,
        input: &Self::Activations,
        pooling: SpladePooling,
        batch: &PackedBatch,
    ) -> Result<Pending<Vec<SparseVector>>, NnError>;

    /// What is wanted of [tokens, width], each on the host in f32, with one wait for all.
    fn copies(
        &self,
        hidden: &Self::Activations,
        wanted: &[Wanted<'_, Self::Projection>],
    ) -> Result<Pending<Vec<Vec<f32>>>, NnError>;
}
