//! An encoder on the processor in f32, which is loaded when somebody needs it: for texts that no device has memory for,
//! and for vectors that lower arithmetic made useless.

use crate::domain::{Embeddings, PackedBatch};
use crate::encoder::{EncodeError, Encoder, load_on};
use crate::lease::LeasedDevice;
use crate::model::Profile;
use crate::nn::Cpu;
use crate::nn::cpu::gemm::Kernel;

use super::staged::Staged;

/// Loads its model with the first batch.
pub(super) struct Spare<'a> {
    staged: &'a Staged,
    /// It works for as long as this is leased.
    device: LeasedDevice<'a>,
    kernel: Kernel,
    cores: usize,
    encoder: Option<Box<dyn Encoder + 'a>>,
}

impl<'a> Spare<'a> {
    /// `kernel` computes in f32, with so many cores.
    pub(super) fn new(staged: &'a Staged, device: LeasedDevice<'a>, kernel: Kernel, cores: usize) -> Self {
        Self { staged, device, kernel, cores, encoder: None }
    }

    fn load(&self) -> Result<Box<dyn Encoder + 'a>, EncodeError> {
        let Staged { spec, weights, .. } = self.staged;
        let worker = (self.device, Cpu::with_kernel(self.kernel));
        // One worker, one encoder.
        let mut encoder = load_on(spec, weights, self.staged.heads(), vec![worker])?.swap_remove(0);
        encoder.use_cores(self.cores);
        Ok(encoder)
    }
}

impl Encoder for Spare<'_> {
    fn encode(&mut self, batch: &PackedBatch, profile: &Profile) -> Result<Embeddings, EncodeError> {
        let encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => self.load()?,
        };
        self.encoder.insert(encoder).encode(batch, profile)
    }
}
