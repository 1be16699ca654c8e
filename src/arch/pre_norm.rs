//! Layers that normalise what goes in and add what comes out, with RMS norms: what decoders and T5's encoder are built
//! of.
//!
//! Files with the names and numbers of an architecture put it together; the way through it is here.

use crate::domain::PackedBatch;
use crate::nn::{Backend, Epilogue, FeedForward, NnError};

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

impl<B: Backend> Layer<B> {
    fn forward(&self, backend: &B, hidden: &B::Activations, batch: &PackedBatch) -> Result<B::Activations, NnError> {
        let input = backend.apply_norm(&self.attention_norm, hidden)?;
        let qkv = backend.apply_linear(&self.qkv, &input, Epilogue::Bias)?;
        let context = backend.apply_attention(&self.attention, &qkv, batch)?;
        let attended = match &self.after_attention {
            None => backend.apply_linear(&self.attention_output, &context, Epilogue::Residual(hidden))?,
            Some(norm) => {
                let output = backend.apply_linear(&self.attention_output, &context, Epilogue::Bias)?;
                backend.add(hidden, &backend.apply_norm(norm, &output)?)?
            }
        };
        let input = backend.apply_norm(&self.feed_forward_norm, &attended)?;
        match &self.after_feed_forward {
            None => backend.apply_feed_forward(&self.feed_forward, &input, Epilogue::Residual(&attended)),
            Some(norm) => {
                let output = backend.apply_feed_forward(&self.feed_forward, &input, Epilogue::Bias)?;
                backend.add(&attended, &backend.apply_norm(norm, &output)?)
            }
        }
    }
}

impl<B: Backend> Architecture<B> for PreNorm<B> {
    fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError> {
        let mut hidden = backend.embed(&[(&self.words, batch.ids())])?;
        for layer in &self.layers {
            hidden = layer.forward(backend, &hidden, batch)?;
        }
        backend.apply_norm(&self.norm, &hidden)
    }

    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// There is no table that ends: positions are angles or distances.
    fn positions(&self) -> usize {
        usize::MAX
    }
}
