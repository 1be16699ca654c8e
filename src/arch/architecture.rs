//! What an architecture does.

use std::sync::Arc;

use super::error::LoadError;
use crate::domain::PackedBatch;
use crate::nn::{Backend, NnError};

/// From token ids to token vectors.
pub trait Architecture<B: Backend>: Send + Sync {
    /// [tokens, hidden] of a batch whose sequences are not empty and no longer than [`Architecture::positions`].
    ///
    /// # Errors
    /// Whatever the backend reports.
    fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError>;

    /// Width of a token vector.
    fn hidden_size(&self) -> usize;

    /// Longest sequence that has positions.
    fn positions(&self) -> usize;
}

/// An architecture that was built, shared by the workers.
pub type Loaded<B> = Result<Arc<dyn Architecture<B>>, LoadError>;
