//! GPUs that models are computed on: in what numbers, and which of them are open.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::error::EmbedError;
use super::slot::DeviceSlot;
use crate::config::{Dtype, Settings};
use crate::device::{Choice, Chosen, ComputeCapability, DeviceInfo, DeviceKind, DeviceUuid, Snapshot};
use crate::domain::Bytes;
use crate::nn::{Gpu, GpuError, NnError, Numbers};

/// The numbers in which all chosen GPUs compute, so that their vectors are of one kind; `None` where models run on the
/// processor.
///
/// # Errors
/// [`EmbedError::Dtype`], if one of them lacks what is asked for.
#[expect(clippy::match_same_arms, reason = "the arms in their order are the rule")]
pub(super) fn numbers(settings: &Settings, choice: &Choice) -> Result<Option<Numbers>, EmbedError> {
    let Chosen::Gpus(gpus) = &choice.chosen else { return Ok(None) };
    if settings.rehearse {
        return Ok(None);
    }
    let of = |capability: ComputeCapability| (capability.major, capability.minor);
    let has_bf16 =
        |gpu: &DeviceInfo| gpu.compute_capability.is_none_or(|capability| Numbers::Bf16.run_on(of(capability)));
    Ok(Some(match settings.dtype {
        Dtype::F32 => Numbers::F32,
        Dtype::F16 => Numbers::F16,
        Dtype::Bf16 => match gpus.iter().find(|gpu| !has_bf16(gpu)) {
            None => Numbers::Bf16,
            Some(gpu) => return Err(EmbedError::Dtype { wanted: "bf16", reason: lacking(gpu) }),
        },
        Dtype::Int8 => {
            let reason = format!("int8 is for processors, and {} is a GPU", label(gpus.first()));
            return Err(EmbedError::Dtype { wanted: "int8", reason });
        }
        // What is not of NVIDIA's has no capability, and computes in what is right anywhere.
        Dtype::Auto if gpus.iter().any(|gpu| gpu.compute_capability.is_none()) => Numbers::F32,
        Dtype::Auto if gpus.iter().all(has_bf16) => Numbers::Bf16,
        Dtype::Auto => Numbers::F16,
    }))
}

fn label(gpu: Option<&DeviceInfo>) -> String {
    gpu.map(DeviceInfo::label).unwrap_or_default()
}

fn lacking(gpu: &DeviceInfo) -> String {
    let capability = gpu.compute_capability.map(|capability| capability.to_string()).unwrap_or_default();
    format!(
        "{} ({}) has compute capability {capability}, and bf16 begins with 8.0, in the device and in the build; --dtype \
         f16 is for it",
        gpu.label(),
        gpu.name
    )
}

/// GPUs that are open, each opened once and kept until the run is over: their contexts take memory that is given back
/// with them.
#[derive(Debug, Default)]
pub(super) struct Gpus(Mutex<BTreeMap<DeviceUuid, Gpu>>);

impl Gpus {
    /// Opens a GPU unless it is open.
    ///
    /// # Errors
    /// [`GpuError`].
    pub(super) fn open(&self, info: &DeviceInfo) -> Result<(), GpuError> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.contains_key(&info.uuid) {
            let gpu = match info.kind {
                DeviceKind::Cuda => Gpu::cuda(&info.uuid.0)?,
                DeviceKind::Metal => Gpu::metal(info.index as usize)?,
                DeviceKind::Cpu => return Ok(()),
            };
            open.insert(info.uuid.clone(), gpu);
        }
        Ok(())
    }

    /// The GPU of a place, if it is open.
    pub(super) fn of(&self, place: &DeviceSlot) -> Option<Gpu> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&place.uuid).cloned()
    }

    /// Waits for a GPU and gives memory back that nothing is in; nothing where it is not open.
    pub(super) fn settle(&self, place: &DeviceSlot) -> Result<(), NnError> {
        self.of(place).map_or(Ok(()), |gpu| gpu.settle())
    }

    /// Takes note of what this process holds of a GPU beside its tensors, at a moment at which nothing runs there.
    pub(super) fn note(&self, place: &DeviceSlot, snapshot: &Snapshot) {
        if let Some((gpu, own)) = self.of(place).zip(snapshot.own()) {
            gpu.note(own.0);
        }
    }

    /// With what the allocator of this process knows alone.
    pub(super) fn complete(&self, place: &DeviceSlot, snapshot: Snapshot) -> Snapshot {
        match self.of(place).and_then(|gpu| gpu.pool()) {
            None => snapshot,
            Some(pool) => {
                Snapshot { allocated: Some(Bytes(pool.used)), reserved: Some(Bytes(pool.reserved)), ..snapshot }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(kind: DeviceKind, capability: Option<(u32, u32)>) -> DeviceInfo {
        DeviceInfo {
            kind,
            index: 1,
            uuid: DeviceUuid("GPU-1".to_owned()),
            name: "a card".to_owned(),
            total: None,
            compute_capability: capability.map(|(major, minor)| ComputeCapability { major, minor }),
            mig: None,
        }
    }

    fn numbers_of(dtype: Dtype, gpus: &[DeviceInfo]) -> Result<Option<Numbers>, String> {
        let choice = Choice { chosen: Chosen::Gpus(gpus.to_vec()), unused_devices: Vec::new() };
        numbers(&Settings { dtype, ..Settings::default() }, &choice).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check(dtype: Dtype, gpus: &[DeviceInfo], expected: Numbers) {
        assert_eq!(numbers_of(dtype, gpus), Ok(Some(expected)));
    }

    #[test]
    fn the_best_numbers_are_those_that_every_gpu_has() {
        let (turing, hopper) = (gpu(DeviceKind::Cuda, Some((7, 5))), gpu(DeviceKind::Cuda, Some((9, 0))));
        check(Dtype::Auto, std::slice::from_ref(&hopper), Numbers::Bf16);
        check(Dtype::Auto, &[hopper.clone(), turing.clone()], Numbers::F16);
        check(Dtype::Auto, &[gpu(DeviceKind::Metal, None)], Numbers::F32);
        check(Dtype::F32, &[hopper], Numbers::F32);
        check(Dtype::F16, &[turing], Numbers::F16);
    }

    #[test]
    fn numbers_that_a_gpu_lacks_are_an_error_that_names_both() {
        let error = numbers_of(Dtype::Bf16, &[gpu(DeviceKind::Cuda, Some((7, 5)))]).unwrap_err();
        assert!(error.contains("bf16") && error.contains("cuda:1") && error.contains("7.5"), "{error}");
        let error = numbers_of(Dtype::Int8, &[gpu(DeviceKind::Cuda, Some((9, 0)))]).unwrap_err();
        assert!(error.contains("int8") && error.contains("cuda:1"), "{error}");
    }

    #[test]
    fn a_rehearsal_and_the_processor_need_none() {
        let chosen = Chosen::Gpus(vec![gpu(DeviceKind::Cuda, Some((9, 0)))]);
        let rehearsal = Settings { rehearse: true, ..Settings::default() };
        assert_eq!(numbers(&rehearsal, &Choice { chosen, unused_devices: Vec::new() }).unwrap(), None);
        let processor = Choice { chosen: Chosen::Cpu(Vec::new()), unused_devices: Vec::new() };
        assert_eq!(numbers(&Settings::default(), &processor).unwrap(), None);
    }
}
