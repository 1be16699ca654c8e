//! Puts a model on a device and gives each worker its hold on it.

use std::sync::Arc;

use super::{Encoder, Finish, ModelEncoder};
use crate::arch;
use crate::model::spec::{self, ModelSpec};
use crate::model::weights::Weights;
use crate::nn::{Backend, Candle, Pooling};

/// A model that could not be put on a device.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The architecture could not be built.
    #[error(transparent)]
    Architecture(#[from] arch::LoadError),
    /// The thread of a worker could not be started.
    #[error("cannot start an encoder thread: {0}")]
    Thread(#[from] rayon::ThreadPoolBuildError),
}

/// Loads a model onto the CPU for a number of workers, which share its weights.
///
/// # Errors
/// [`LoadError`].
pub fn load(
    spec: &ModelSpec,
    weights: &Weights,
    finish: Finish,
    workers: usize,
) -> Result<Vec<Box<dyn Encoder>>, LoadError> {
    let backend = Candle::cpu();
    let architecture = arch::load(spec, weights, &backend)?;
    (0..workers).map(|_| worker(backend.clone(), Arc::clone(&architecture), spec.pooling, finish)).collect()
}

fn worker<B: Backend>(
    backend: B,
    architecture: Arc<dyn arch::Architecture<B>>,
    pooling: spec::Pooling,
    finish: Finish,
) -> Result<Box<dyn Encoder>, LoadError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "encoder".to_owned()).build()?;
    let pooling = match pooling {
        spec::Pooling::Cls => Pooling::Cls,
        spec::Pooling::Mean => Pooling::Mean,
    };
    Ok(Box::new(ModelEncoder { backend, architecture, pooling, finish, pool }))
}
