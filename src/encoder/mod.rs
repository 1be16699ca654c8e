//! From packed batches to finished vectors.
//!
//! An [`Encoder`] is one worker's hold on a loaded model: architecture, a head for each kind of vectors, truncation and
//! normalisation in one step. Workers share the weights and nothing else. An encoder borrows the device that it is on from a lease, and so is
//! gone before the lease is; the two last lines exchanged do not compile:
//!
//! ```compile_fail,E0505
//! use embed_collections::encoder::{self, Finish};
//! use embed_collections::lease::Lease;
//! use embed_collections::model::{spec::ModelSpec, weights::Weights};
//! use embed_collections::nn::Instructions;
//! use embed_collections::nn::cpu::gemm::Kernel;
//!
//! fn load_and_release(lease: Lease, spec: &ModelSpec, weights: &Weights) {
//!     let finish = Finish { normalize: true, ..Finish::default() };
//!     let device = lease.devices().next().expect("a device is leased");
//!     let encoders = encoder::load(spec, weights, finish, &[(device, 1)], Kernel::single(Instructions::detect()));
//!     drop(lease);
//!     drop(encoders);
//! }
//! ```

mod dense;
mod finish;
mod heads;
mod load;

pub use finish::{Finish, Kinds, VectorFault, fault, vector_fault};
pub use load::{load, load_on, load_on_gpu};

use std::sync::Arc;

use self::heads::Heads;
use crate::arch::Architecture;
use crate::domain::{Embeddings, PackedBatch};
use crate::lease::LeasedDevice;
use crate::nn::{Backend, NnError};

/// Turns batches into vectors; one thread owns it.
pub trait Encoder: Send {
    /// The vectors of each sequence, in the batch's order. Sequences are not empty and no longer than the model's limit.
    ///
    /// A vector may be useless all the same: ask [`fault`] before anyone takes it for a result.
    ///
    /// # Errors
    /// [`EncodeError`]; the batch has no result then.
    fn encode(&mut self, batch: &PackedBatch) -> Result<Embeddings, EncodeError>;

    /// How many cores the following batches may use: more than one while other workers have nothing to do.
    fn use_cores(&mut self, _cores: usize) {}

    /// Makes the device usable again after an error of memory, see [`Backend::settle`].
    ///
    /// # Errors
    /// [`EncodeError`], if it cannot be.
    fn settle(&mut self) -> Result<(), EncodeError> {
        Ok(())
    }
}

/// A batch without a result.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// An operation failed.
    #[error(transparent)]
    Operation(#[from] NnError),
}

/// The encoder of any architecture on any backend.
struct ModelEncoder<'lease, B: Backend> {
    backend: B,
    architecture: Arc<dyn Architecture<B>>,
    heads: Arc<Heads<B>>,
    finish: Finish,
    /// Where the layers are.
    _device: LeasedDevice<'lease>,
}

impl<B: Backend> Encoder for ModelEncoder<'_, B> {
    fn encode(&mut self, batch: &PackedBatch) -> Result<Embeddings, EncodeError> {
        let Self { backend, architecture, heads, finish, .. } = self;
        Ok(backend.run(|| -> Result<_, NnError> {
            let hidden = architecture.forward(backend, batch)?;
            heads.apply(backend, finish, (&hidden, architecture.hidden_size()), batch)
        })?)
    }

    fn use_cores(&mut self, cores: usize) {
        self.backend.use_cores(cores);
    }

    fn settle(&mut self) -> Result<(), EncodeError> {
        Ok(self.backend.settle()?)
    }
}
