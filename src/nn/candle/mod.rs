//! The operations on candle tensors: what runs on GPUs, and on the CPU the reference for tests.
//!
//! Weights and activations are in f32, f16 or bf16; norms, rotary positions, softmax and pooling are always in f32.
//! On GPUs of NVIDIA most of it is done by the project's own kernels (`fused`, `kernels`), which plain tensors are the
//! twin of: [`Kernels`].

mod attention;
mod buckets;
#[cfg(feature = "cuda")]
mod cuda;
mod error;
#[cfg(any(feature = "flash-attn", test))]
mod flash;
mod fused;
mod gpu;
mod kernels;
mod layers;
mod layout;
mod numbers;
mod pool;
mod relative_attention;
mod vocabulary;
mod weights;

pub use buckets::Grouping;
pub use fused::LARGEST_FUSED_HEAD;
pub use gpu::{Gpu, GpuError};
pub use numbers::Numbers;
pub use vocabulary::VOCABULARY_BYTES;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use self::fused::norm::Destination;
use self::layout::{Layout, vector};
use self::weights::{Linear, Norm, Projection};
use super::{Attention, Backend, Branch, Epilogue, FeedForward, Matrix, NnError, Pending, RelativeAttention, Wanted};
use crate::domain::{PackedBatch, SparseVector};
use crate::model::pooling::{Pooling, SpladePooling};

/// The error function.
pub(crate) fn erf(x: f32) -> f32 {
    candle_core::cpu::erf::erf_f32(x)
}

/// Which kernels compute where there is a choice: on GPUs of NVIDIA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// The project's own, wherever they take what is to be computed.
    Fused,
    /// Those of candle alone, for tests that hold the others against them.
    Plain,
}

/// Operations on one candle device.
#[derive(Debug)]
pub struct Candle {
    device: Device,
    /// Where the device is one that counts its memory.
    gpu: Option<Gpu>,
    numbers: Numbers,
    grouping: Grouping,
    kernels: Kernels,
    /// That of the last batch, which every layer asks for.
    layout: Mutex<Option<Arc<Layout>>>,
}

/// Another worker's, with batches of its own.
impl Clone for Candle {
    fn clone(&self) -> Self {
        let new = Self::new(self.device.clone(), self.numbers, self.grouping);
        Self { gpu: self.gpu.clone(), kernels: self.kernels, ..new }
    }
}

impl Candle {
    /// Operations on the CPU, in f32.
    pub fn cpu() -> Self {
        Self::cpu_as(Numbers::F32, Grouping::OneLength)
    }

    /// Operations on the CPU as a GPU would do them.
    pub fn cpu_as(numbers: Numbers, grouping: Grouping) -> Self {
        Self::new(Device::Cpu, numbers, grouping)
    }

    /// Operations on a GPU that is open.
    ///
    /// # Errors
    /// [`GpuError::Lacks`], if it cannot compute in these numbers.
    pub fn on(gpu: &Gpu, numbers: Numbers) -> Result<Self, GpuError> {
        gpu.check(numbers)?;
        Ok(Self { gpu: Some(gpu.clone()), ..Self::new(gpu.device().clone(), numbers, Grouping::Padded) })
    }

    /// The same with other kernels.
    #[must_use]
    pub fn with(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    fn new(device: Device, numbers: Numbers, grouping: Grouping) -> Self {
        Self { device, gpu: None, numbers, grouping, kernels: Kernels::Fused, layout: Mutex::default() }
    }

    /// Whether the project's own kernels compute here. There is nothing to launch for a batch without tokens.
    fn fuses(&self, input: &Tensor) -> bool {
        cfg!(feature = "cuda") && self.device.is_cuda() && self.kernels == Kernels::Fused && input.elem_count() > 0
    }

    /// Weights in the dtype of the backend, converted on the host.
    fn matrix(&self, matrix: Matrix) -> Result<Tensor, NnError> {
        self.weight(&Tensor::from_vec(matrix.values, (matrix.rows, matrix.columns), &Device::Cpu)?)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Tensor, NnError> {
        self.weight(&vector(values, &Device::Cpu)?)
    }

    fn weight(&self, values: &Tensor) -> Result<Tensor, NnError> {
        Ok(values.to_dtype(self.numbers.dtype())?.to_device(&self.device)?)
    }

    /// In f32.
    fn wanted(&self, hidden: &Tensor, wanted: &Wanted<'_, Projection>) -> Result<Tensor, NnError> {
        let hidden = match wanted.tokens {
            // Devices refuse to do nothing, and to have memory of no bytes.
            Some([]) => return Ok(Tensor::zeros((0, 1), DType::F32, &Device::Cpu)?),
            Some(tokens) => hidden.index_select(&vector(tokens.to_vec(), &self.device)?, 0)?,
            None => hidden.clone(),
        };
        let hidden = hidden.to_dtype(DType::F32)?;
        match wanted.projection {
            Some(Projection(layer)) => self.apply_linear(layer, &hidden, Epilogue::Bias),
            None => Ok(hidden),
        }
    }

    /// Numbers of the device, copied to the host when they are read.
    fn copied_later(&self, tensor: &Tensor) -> Result<Pending, NnError> {
        let tensor = tensor.flatten_all()?;
        match &self.gpu {
            Some(gpu) => gpu.copied_later(tensor),
            None => Ok(Pending::ready(tensor.to_vec1()?)),
        }
    }

    fn layout(&self, batch: &PackedBatch) -> Arc<Layout> {
        let mut last = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = last.as_ref().filter(|layout| layout.is_of(batch)) {
            return Arc::clone(layout);
        }
        // What was there makes room first.
        *last = None;
        let layout = Arc::new(Layout::new(batch, self.grouping, &self.device));
        *last = Some(Arc::clone(&layout));
        layout
    }
}

/// The results of all buckets of a batch, one after the other.
fn by_buckets(
    qkv: &Tensor,
    output_width: usize,
    layout: &Layout,
    apply: impl Fn(&Tensor, &layout::PlacedBucket) -> Result<Tensor, NnError>,
) -> Result<Tensor, NnError> {
    let mut contexts = Vec::new();
    for place in layout.buckets()? {
        contexts.push(place.scattered(apply(&place.gathered(qkv)?, place)?)?);
    }
    Ok(match contexts.len() {
        0 => Tensor::zeros((0, output_width), qkv.dtype(), qkv.device())?,
        1 => contexts.remove(0),
        _ => Tensor::cat(&contexts, 0)?,
    })
}

impl Backend for Candle {
    type Activations = Tensor;
    type Embedding = Tensor;
    type Linear = Linear;
    type Norm = Norm;
    type Projection = Projection;
    type Attention = attention::Layer;
    type RelativeAttention = relative_attention::Layer;

    fn settle(&self) -> Result<(), NnError> {
        *self.layout.lock().unwrap_or_else(PoisonError::into_inner) = None;
        gpu::settle(&self.device)
    }

    fn embedding(&self, table: Matrix) -> Result<Tensor, NnError> {
        self.matrix(table)
    }

    fn linear(&self, weight: Matrix, bias: Option<Vec<f32>>) -> Result<Linear, NnError> {
        let bias = bias.map(|bias| self.vector(bias)).transpose()?;
        Ok(Linear { weight: self.matrix(weight)?.t()?, bias })
    }

    fn projection(&self, weight: Matrix, bias: Option<Vec<f32>>) -> Result<Projection, NnError> {
        let bias = bias.map(|bias| vector(bias, &self.device)).transpose()?;
        let weight = Tensor::from_vec(weight.values, (weight.rows, weight.columns), &self.device)?;
        Ok(Projection(Linear { weight: weight.t()?, bias }))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the reference computes with an f32 epsilon as well")]
    fn layer_norm(&self, weight: Vec<f32>, bias: Option<Vec<f32>>, epsilon: f64) -> Result<Norm, NnError> {
        let bias = bias.unwrap_or_else(|| vec![0.0; weight.len()]);
        Ok(Norm::Layer { weight: self.vector(weight)?, bias: self.vector(bias)?, epsilon: epsilon as f32 })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the reference computes with an f32 epsilon as well")]
    fn rms_norm(&self, weight: Vec<f32>, epsilon: f64) -> Result<Norm, NnError> {
        Ok(Norm::Rms { weight: self.vector(weight)?, epsilon: epsilon as f32 })
    }

    fn attention(&self, attention: Attention) -> Result<attention::Layer, NnError> {
        attention::Layer::new(attention, &self.device)
    }

    fn relative_attention(&self, attention: RelativeAttention) -> Result<relative_attention::Layer, NnError> {
        relative_attention::Layer::new(attention, &self.device)
    }

    fn embed(&self, lookups: &[(&Tensor, &[u32])]) -> Result<Tensor, NnError> {
        let mut sum: Option<Tensor> = None;
        for (table, indices) in lookups {
            // A GPU would read what lies beyond.
            let entries = table.dim(0)?;
            if let Some(&index) = indices.iter().find(|index| **index as usize >= entries) {
                return Err(NnError::IndexOutOfRange { index, entries });
            }
            // The driver has no memory of no bytes: what is of no tokens stays on the host, here and in what follows.
            if indices.is_empty() {
                return Ok(Tensor::zeros((0, table.dim(1)?), table.dtype(), &Device::Cpu)?);
            }
            let found = table.index_select(&Tensor::new(*indices, &self.device)?, 0)?;
            sum = Some(match sum {
                Some(sum) => (sum + found)?,
                None => found,
            });
        }
        sum.ok_or_else(|| NnError::other("no table to look up in"))
    }

    fn apply_linear(&self, layer: &Linear, input: &Tensor, epilogue: Epilogue<'_, Tensor>) -> Result<Tensor, NnError> {
        if is_of_no_tokens(input) {
            return Ok(Tensor::zeros((0, layer.weight.dim(1)?), input.dtype(), input.device())?);
        }
        self.linear_then(layer, input, &epilogue)
    }

    fn apply_feed_forward(
        &self,
        layer: &FeedForward<Linear>,
        input: &Tensor,
        epilogue: Epilogue<'_, Tensor>,
    ) -> Result<Tensor, NnError> {
        self.apply_linear(&layer.down, &self.inner(&layer.inner, input)?, epilogue)
    }

    fn add_branch_then_norm(
        &self,
        branch: Branch<'_, Linear>,
        input: &Tensor,
        residual: &Tensor,
        norm: &Norm,
    ) -> Result<Tensor, NnError> {
        if self.fuses(residual) && fused::norm::takes(norm) {
            return Ok(self.fused_sum(&branch, input, residual, norm, Destination::Input)?.1);
        }
        self.apply_norm(norm, &self.add_branch(branch, input, residual)?)
    }

    fn add_branch_and_norm(
        &self,
        branch: Branch<'_, Linear>,
        input: &Tensor,
        residual: &Tensor,
        norm: &Norm,
    ) -> Result<(Tensor, Tensor), NnError> {
        if self.fuses(residual) && fused::norm::takes(norm) {
            return self.fused_sum(&branch, input, residual, norm, Destination::InputAndNew);
        }
        let sum = self.add_branch(branch, input, residual)?;
        let normed = self.apply_norm(norm, &sum)?;
        Ok((sum, normed))
    }

    fn apply_norm(&self, norm: &Norm, input: &Tensor) -> Result<Tensor, NnError> {
        self.normed(norm, input)
    }

    fn apply_attention(&self, layer: &attention::Layer, qkv: &Tensor, batch: &PackedBatch) -> Result<Tensor, NnError> {
        let layout = self.layout(batch);
        #[cfg(feature = "flash-attn")]
        if self.fuses(qkv) && flash::takes(&layer.description, batch, qkv.dtype()) {
            return flash::attend(layer, qkv, &layout);
        }
        if self.fuses(qkv) && fused::attention::takes(&layer.description, batch, qkv.dtype()) {
            return fused::attention::attend(layer, qkv, &layout);
        }
        by_buckets(qkv, layer.description.output_width(), &layout, |qkv, place| layer.apply(qkv, place, &layout))
    }

    fn apply_relative_attention(
        &self,
        layer: &relative_attention::Layer,
        qkv: &Tensor,
        batch: &PackedBatch,
    ) -> Result<Tensor, NnError> {
        let layout = self.layout(batch);
        by_buckets(qkv, layer.description.output_width(), &layout, |qkv, place| layer.apply(qkv, place, &layout))
    }

    fn add(&self, one: &Tensor, other: &Tensor) -> Result<Tensor, NnError> {
        Ok((one + other)?)
    }

    fn scale(&self, input: &Tensor, factor: f32) -> Result<Tensor, NnError> {
        Ok((input * f64::from(factor))?)
    }

    fn pool(
        &self,
        poolings: &[Pooling],
        left_out: usize,
        hidden: &Tensor,
        batch: &PackedBatch,
    ) -> Result<Pending, NnError> {
        if batch.sequences() == 0 || poolings.is_empty() {
            return Ok(Pending::ready(Vec::new()));
        }
        pool::pool(poolings, left_out, hidden, batch, self.grouping, |pooled| self.copied_later(pooled))
    }

    fn computes_apart(&self) -> bool {
        self.gpu.as_ref().is_some_and(Gpu::computes_apart)
    }

    fn take_peak(&self) -> Option<u64> {
        self.gpu.as_ref()?.take_peak()
    }

    fn weigh_vocabulary(
        &self,
        decoder: &Linear,
        input: &Tensor,
        pooling: SpladePooling,
        batch: &PackedBatch,
    ) -> Result<Pending<Vec<SparseVector>>, NnError> {
        vocabulary::weigh((decoder, input), pooling, batch, self.grouping, &|weights| self.copied_later(weights))
    }

    fn copies(&self, hidden: &Tensor, wanted: &[Wanted<'_, Projection>]) -> Result<Pending<Vec<Vec<f32>>>, NnError> {
        let parts = wanted.iter().map(|wanted| self.wanted(hidden, wanted)).collect::<Result<Vec<_>, _>>()?;
        let lengths: Vec<usize> = parts.iter().map(Tensor::elem_count).collect();
        let values = match joined(&parts)? {
            Some(joined) => self.copied_later(&joined)?,
            None => Pending::ready(Vec::new()),
        };
        Ok(values.map(|values| {
            let mut values = values.into_iter();
            lengths.into_iter().map(|length| values.by_ref().take(length).collect()).collect()
        }))
    }
}

/// All numbers of some tensors, one after the other; `None` if there are none.
fn joined(parts: &[Tensor]) -> Result<Option<Tensor>, NnError> {
    let parts = parts.iter().filter(|part| part.elem_count() > 0).map(Tensor::flatten_all);
    let mut parts = parts.collect::<Result<Vec<_>, _>>()?;
    Ok(if parts.len() > 1 { Some(Tensor::cat(&parts, 0)?) } else { parts.pop() })
}

/// Whether it belongs to a batch of texts that all have no token, and lies on the host.
fn is_of_no_tokens(activations: &Tensor) -> bool {
    activations.elem_count() == 0
}
