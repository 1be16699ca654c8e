//! Model architectures, one file each, written once against [`nn::Backend`](crate::nn::Backend).

mod bert;

pub use bert::Bert;

use crate::domain::PackedBatch;
use crate::nn::{Backend, NnError};

/// From token ids to token vectors.
pub trait Architecture<B: Backend>: Send + Sync {
    /// [tokens, hidden] of a batch whose sequences are not empty and within [`Architecture::positions`].
    fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError>;

    /// Width of a token vector.
    fn hidden_size(&self) -> usize;

    /// Longest sequence that has positions.
    fn positions(&self) -> usize;
}
