//! From packed batches to finished vectors.
//!
//! An [`Encoder`] is one worker's hold on a loaded model: architecture and a head for each kind of vectors. Each batch
//! comes with a [`Profile`], which says what is wanted of the model, so that one loaded model serves several profiles.
//! Workers share the weights and nothing else. An encoder borrows its device from a lease, and so is gone before the
//! lease is; the two last lines exchanged do not compile:
//!
//! ```compile_fail,E0505
//! use embed_collections::encoder::{self, HeadOptions};
//! use embed_collections::lease::Lease;
//! use embed_collections::model::{spec::ModelSpec, weights::Weights};
//! use embed_collections::nn::Instructions;
//! use embed_collections::nn::cpu::gemm::Kernel;
//!
//! fn load_and_release(lease: Lease, spec: &ModelSpec, weights: &Weights) {
//!     let heads = HeadOptions { kinds: &[spec.default_kind], instructions: Instructions::detect() };
//!     let device = lease.devices().next().expect("a device is leased");
//!     let encoders = encoder::load(spec, weights, heads, &[(device, 1)], Kernel::single(Instructions::detect()));
//!     drop(lease);
//!     drop(encoders);
//! }
//! ```

mod dense;
mod finish;
mod heads;
mod load;
#[cfg(test)]
mod tests;

pub use finish::{VectorFault, fault, vector_fault};
pub use load::{HeadOptions, load, load_on, load_on_gpu};

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use self::heads::Heads;
use crate::arch::{Architecture, LoadError};
use crate::domain::{Embeddings, FailureKind, PackedBatch};
use crate::lease::LeasedDevice;
use crate::model::Profile;
use crate::nn::{Backend, NnError};

/// Turns batches into vectors; one thread owns it.
pub trait Encoder: Send {
    /// The vectors of each sequence, in the batch's order. Sequences are not empty and no longer than the model's limit.
    ///
    /// A vector may be useless all the same: ask [`fault`] before anyone takes it for a result.
    ///
    /// # Errors
    /// [`EncodeError`]; the batch has no result then.
    fn encode(&mut self, batch: &PackedBatch, profile: &Profile) -> Result<Embeddings, EncodeError>;

    /// Whether batches can be begun before the vectors of the one before are asked for: where the device computes while
    /// this thread goes on. Elsewhere only [`encode`](Self::encode) is of use.
    fn computes_apart(&self) -> bool {
        false
    }

    /// Begins with a batch, whose vectors [`finish`](Self::finish) gives. At most one more is begun before they are asked
    /// for; of those before it nothing is known any more.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing is begun then.
    fn begin(&mut self, _batch: &PackedBatch, _profile: &Profile) -> Result<Begun, EncodeError> {
        Err(EncodeError::NotBegun)
    }

    /// Waits for a batch that was begun, which is this one, and gives what [`encode`](Self::encode) would have given.
    ///
    /// # Errors
    /// [`EncodeError`]; the batch has no result then.
    fn finish(&mut self, _begun: Begun, _batch: &PackedBatch, _profile: &Profile) -> Result<Embeddings, EncodeError> {
        Err(EncodeError::NotBegun)
    }

    /// How many cores the following batches may use: more than one while other workers have nothing to do.
    fn use_cores(&mut self, _cores: usize) {}

    /// The most bytes that this process held on the device since the last time this was asked, see
    /// [`Backend::take_peak`].
    fn take_peak(&mut self) -> Option<u64> {
        None
    }

    /// Makes the device usable again after an error of memory, see [`Backend::settle`].
    ///
    /// # Errors
    /// [`EncodeError`], if it cannot be.
    fn settle(&mut self) -> Result<(), EncodeError> {
        Ok(())
    }
}

/// The number of a batch that an encoder has begun.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun(pub(crate) u64);

/// An encoder that several threads share, one batch at a time.
pub trait SharedEncoder: Sync {
    /// As [`Encoder::encode`].
    ///
    /// # Errors
    /// As there.
    fn encode(&self, batch: &PackedBatch, profile: &Profile) -> Result<Embeddings, EncodeError>;
}

impl<E: Encoder> SharedEncoder for Mutex<E> {
    fn encode(&self, batch: &PackedBatch, profile: &Profile) -> Result<Embeddings, EncodeError> {
        self.lock().unwrap_or_else(PoisonError::into_inner).encode(batch, profile)
    }
}

/// A batch without a result.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// An operation failed.
    #[error(transparent)]
    Operation(#[from] NnError),
    /// An encoder that is loaded when it is needed could not be.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The vectors of a batch are asked for that was not begun, or too long ago.
    #[error("internal error: the vectors of a batch were asked for that is not under way")]
    NotBegun,
}

impl EncodeError {
    /// What it says about the device.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Operation(error) | Self::Load(LoadError::Operation(error)) => error.kind(),
            Self::Load(_) | Self::NotBegun => FailureKind::Other,
        }
    }
}

/// The encoder of any architecture on any backend.
struct ModelEncoder<'lease, B: Backend> {
    backend: B,
    architecture: Arc<dyn Architecture<B>>,
    heads: Arc<Heads<B>>,
    /// The last two that were begun, the older one first.
    begun: VecDeque<(u64, heads::Begun)>,
    number: u64,
    /// Where the layers are.
    _device: LeasedDevice<'lease>,
}

impl<B: Backend> Encoder for ModelEncoder<'_, B> {
    fn encode(&mut self, batch: &PackedBatch, profile: &Profile) -> Result<Embeddings, EncodeError> {
        let Self { backend, architecture, heads, .. } = self;
        Ok(backend.run(|| -> Result<_, NnError> {
            let begun = heads.begin(backend, profile, &architecture.forward(backend, batch)?, batch)?;
            heads.finish(profile, begun, architecture.hidden_size(), batch)
        })?)
    }

    fn computes_apart(&self) -> bool {
        self.backend.computes_apart()
    }

    fn begin(&mut self, batch: &PackedBatch, profile: &Profile) -> Result<Begun, EncodeError> {
        let Self { backend, architecture, heads, .. } = self;
        let begun = backend.run(|| heads.begin(backend, profile, &architecture.forward(backend, batch)?, batch))?;
        self.number += 1;
        while self.begun.len() > 1 {
            self.begun.pop_front();
        }
        self.begun.push_back((self.number, begun));
        Ok(Begun(self.number))
    }

    fn finish(
        &mut self,
        Begun(number): Begun,
        batch: &PackedBatch,
        profile: &Profile,
    ) -> Result<Embeddings, EncodeError> {
        let place = self.begun.iter().position(|(begun, _)| *begun == number);
        let Some((_, begun)) = place.and_then(|place| self.begun.remove(place)) else {
            return Err(EncodeError::NotBegun);
        };
        Ok(self.heads.finish(profile, begun, self.architecture.hidden_size(), batch)?)
    }

    fn use_cores(&mut self, cores: usize) {
        self.backend.use_cores(cores);
    }

    fn take_peak(&mut self) -> Option<u64> {
        self.backend.take_peak()
    }

    fn settle(&mut self) -> Result<(), EncodeError> {
        Ok(self.backend.settle()?)
    }
}
