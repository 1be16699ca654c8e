//! Puts a model on a device and gives each worker its hold on it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::heads::Heads;
use super::{Encoder, ModelEncoder};
use crate::arch::{self, LoadError};
use crate::domain::VectorKind;
use crate::lease::LeasedDevice;
use crate::model::spec::ModelSpec;
use crate::model::weights::Weights;
use crate::nn::cpu::gemm::Kernel;
use crate::nn::{Backend, Candle, Cpu, Gpu, Instructions, Numbers};

/// What is loaded beside the layers.
#[derive(Debug, Clone, Copy)]
pub struct HeadOptions<'a> {
    /// The kinds of vectors that some profile asks for.
    pub kinds: &'a [VectorKind],
    /// The best instructions for what is computed on the host, whatever the device: Dense layers.
    pub instructions: Instructions,
}

/// Loads a model onto devices for a number of workers on each. The workers come in the order of the devices, and
/// nothing of the model outlives the lease.
///
/// Where this program has no encoder for a device's kind, the layers are computed on the processor, and the device is
/// only held; it is for the caller to want that. There, `kernel` computes the linear layers. All workers on the
/// processor share one copy of the weights.
///
/// # Errors
/// [`LoadError`].
pub fn load<'lease>(
    spec: &ModelSpec,
    weights: &Weights,
    heads: HeadOptions<'_>,
    devices: &[(LeasedDevice<'lease>, usize)],
    kernel: Kernel,
) -> Result<Vec<Box<dyn Encoder + 'lease>>, LoadError> {
    let workers = devices.iter().flat_map(|(device, workers)| std::iter::repeat_n(*device, *workers));
    let cpu = || Cpu::with_kernel(kernel);
    load_on(spec, weights, heads, workers.map(|device| (device, cpu())).collect())
}

/// Loads a model onto a GPU, in numbers that it computes in, for workers that share its weights.
///
/// # Errors
/// [`LoadError`].
pub fn load_on_gpu<'lease>(
    spec: &ModelSpec,
    weights: &Weights,
    heads: HeadOptions<'_>,
    (gpu, numbers): (&Gpu, Numbers),
    workers: &[LeasedDevice<'lease>],
) -> Result<Vec<Box<dyn Encoder + 'lease>>, LoadError> {
    let worker = |device: &LeasedDevice<'lease>| Ok((*device, Candle::on(gpu, numbers)?));
    let workers = workers.iter().map(worker).collect::<Result<Vec<_>, LoadError>>()?;
    let encoders = load_on(spec, weights, heads, workers)?;
    // What failed on the way is known before a batch is lost to it.
    gpu.settle()?;
    Ok(encoders)
}

/// Loads a model for one worker on each of some backends, which share its weights.
///
/// # Errors
/// [`LoadError`].
pub fn load_on<'lease, B: Backend>(
    spec: &ModelSpec,
    weights: &Weights,
    heads: HeadOptions<'_>,
    workers: Vec<(LeasedDevice<'lease>, B)>,
) -> Result<Vec<Box<dyn Encoder + 'lease>>, LoadError> {
    let Some((_, first)) = workers.first() else { return Ok(Vec::new()) };
    let architecture = arch::load(spec, weights, first)?;
    let heads = Arc::new(Heads::load(spec, heads, weights, first)?);
    let worker = |(device, backend)| -> Box<dyn Encoder + 'lease> {
        let architecture = Arc::clone(&architecture);
        let (heads, begun) = (Arc::clone(&heads), VecDeque::new());
        Box::new(ModelEncoder { backend, architecture, heads, begun, number: 0, _device: device })
    };
    Ok(workers.into_iter().map(worker).collect())
}
