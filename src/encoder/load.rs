//! Puts a model on a device and gives each worker its hold on it.

use std::sync::Arc;

use super::{Encoder, Finish, ModelEncoder};
use crate::arch::{self, LoadError};
use crate::model::spec::{self, ModelSpec};
use crate::model::weights::Weights;
use crate::nn::{Backend, Cpu, Pooling};

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
    load_on(spec, weights, finish, (0..workers).map(|_| Cpu::new()).collect())
}

/// Loads a model for one worker on each of some backends of the same device.
///
/// # Errors
/// [`LoadError`].
pub fn load_on<B: Backend>(
    spec: &ModelSpec,
    weights: &Weights,
    finish: Finish,
    backends: Vec<B>,
) -> Result<Vec<Box<dyn Encoder>>, LoadError> {
    let Some(first) = backends.first() else { return Ok(Vec::new()) };
    let architecture = arch::load(spec, weights, first)?;
    let pooling = match spec.pooling {
        spec::Pooling::Cls => Pooling::Cls,
        spec::Pooling::Mean => Pooling::Mean,
    };
    let worker = |backend| -> Box<dyn Encoder> {
        Box::new(ModelEncoder { backend, architecture: Arc::clone(&architecture), pooling, finish })
    };
    Ok(backends.into_iter().map(worker).collect())
}
