//! From packed batches to finished vectors.
//!
//! An [`Encoder`] is one worker's hold on a loaded model: architecture, pooling, truncation and normalisation in one
//! step. Workers share the weights and nothing else.

mod finish;
mod load;

pub use finish::{Finish, VectorFault, vector_fault};
pub use load::{load, load_on};

use std::sync::Arc;

use crate::arch::Architecture;
use crate::domain::{Embeddings, PackedBatch};
use crate::nn::{Backend, NnError, Pooling};

/// Turns batches into vectors; one thread owns it.
pub trait Encoder: Send {
    /// One vector a sequence, in the batch's order. Sequences are not empty and no longer than the model's limit.
    ///
    /// A vector may be useless all the same: ask [`vector_fault`] before anyone takes it for a result.
    ///
    /// # Errors
    /// [`EncodeError`]; the batch has no result then.
    fn encode(&mut self, batch: &PackedBatch) -> Result<Embeddings, EncodeError>;
}

/// A batch without a result.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// An operation failed.
    #[error(transparent)]
    Operation(#[from] NnError),
}

/// The encoder of any architecture on any backend.
struct ModelEncoder<B: Backend> {
    backend: B,
    architecture: Arc<dyn Architecture<B>>,
    pooling: Pooling,
    finish: Finish,
}

impl<B: Backend> Encoder for ModelEncoder<B> {
    fn encode(&mut self, batch: &PackedBatch) -> Result<Embeddings, EncodeError> {
        let hidden = self.architecture.forward(&self.backend, batch)?;
        let pooled = self.backend.pool(self.pooling, &hidden, batch)?;
        Ok(self.finish.apply(pooled, self.architecture.hidden_size()))
    }
}
