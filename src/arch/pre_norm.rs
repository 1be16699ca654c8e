//! Layers that normalise what goes in and add what comes out, with RMS norms: what decoders and T5's encoder are built
//! of.
//!
//! Files with the names and numbers of an architecture put it together; the way through it is here.

use crate::domain::PackedBatch;
use crate::nn::{Backend, Branch, Epilogue, FeedForward, NnError};

use super::Architecture;

/// A stack of layers between a table of tokens and a last norm.
pub(super) struct PreNorm<B: Backend> {
    /// Already scaled, where the architecture does so.
    pub(super) words: B::Embedding,
    pub(super) layers: Vec<Layer<B>>,
    pub(super) norm: B::Norm,
    pub(super) hidden_size: usize,
}

/// Attention, then a feed-forward layer.
pub(super) struct Layer<B: Backend> {
    pub(super) attention_norm: B::Norm,
    /// Query, key and value in one.
    pub(super) qkv: B::Linear,
    pub(super) attention: B::Attention,
    pub(super) attention_output: B::Linear,
    /// Over the output, before it is added.
    pub(super) after_attention: Option<B::Norm>,
    pub(super) feed_forward_norm: B::Norm,
    pub(super) feed_forward: FeedForward<B::Linear>,
    /// Over the output, before it is added.
    pub(super) after_feed_forward: Option<B::Norm>,
}

/// What goes from one half of a layer to the next.
struct Stream<A> {
    /// What outputs are added to.
    sum: A,
    /// Its norm, which goes into the next half.
    normed: A,
}

impl<B: Backend> Layer<B> {
    /// Through both halves; `next_norm` is that of what follows the layer.
    fn forward(
        &self,
        backend: &B,
        stream: &Stream<B::Activations>,
        next_norm: &B::Norm,
        batch: &PackedBatch,
    ) -> Result<Stream<B::Activations>, NnError> {
        let qkv = backend.apply_linear(&self.qkv, &stream.normed, Epilogue::Bias)?;
        let context = backend.apply_attention(&self.attention, &qkv, batch)?;
        let (attended, input) = match &self.after_attention {
            None => {
                let output = Branch::Linear(&self.attention_output);
                backend.add_branch_and_norm(output, &context, &stream.sum, &self.feed_forward_norm)?
            }
            Some(norm) => {
                let output = backend.apply_linear(&self.attention_output, &context, Epilogue::Bias)?;
                let sum = backend.add(&stream.sum, &backend.apply_norm(norm, &output)?)?;
                let normed = backend.apply_norm(&self.feed_forward_norm, &sum)?;
                (sum, normed)
            }
        };
        let (sum, normed) = match &self.after_feed_forward {
            None => {
                let output = Branch::FeedForward(&self.feed_forward);
                backend.add_branch_and_norm(output, &input, &attended, next_norm)?
            }
            Some(norm) => {
                let output = backend.apply_feed_forward(&self.feed_forward, &input, Epilogue::Bias)?;
                let sum = backend.add(&attended, &backend.apply_norm(norm, &output)?)?;
                let normed = backend.apply_norm(next_norm, &sum)?;
                (sum, normed)
            }
        };
        Ok(Stream { sum, normed })
    }
}

impl<B: Backend> Architecture<B> for PreNorm<B> {
    fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError> {
        let sum = backend.embed(&[(&self.words, batch.ids())])?;
        let norm_before = |index: usize| self.layers.get(index).map_or(&self.norm, |layer| &layer.attention_norm);
        let normed = backend.apply_norm(norm_before(0), &sum)?;
        let mut stream = Stream { sum, normed };
        for (index, layer) in self.layers.iter().enumerate() {
            stream = layer.forward(backend, &stream, norm_before(index + 1), batch)?;
        }
        Ok(stream.normed)
    }

    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// There is no table that ends: positions are angles or distances.
    fn positions(&self) -> usize {
        usize::MAX
    }
}
