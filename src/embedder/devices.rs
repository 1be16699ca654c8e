//! The devices of a run: what is there, what of it will be used, and how many threads each part has.

use std::sync::Arc;

use super::gpus::Gpus;
use super::slot::DeviceSlot;
use crate::config::{Mode, Resolved, Settings};
use crate::device::{
    Choice, ChoiceError, Chosen, Detection, DeviceInfo, DeviceKind, DeviceUuid, ENCODERS, Probe, Request, Thresholds,
    Wanted, choose, cores, detect, slots,
};
use crate::lease::{DeviceKey, DeviceKeyError};

/// What is there and what of it will be used.
pub struct Devices {
    /// What is there.
    pub detection: Arc<Detection>,
    /// What of it will be used.
    pub choice: Choice,
    /// What of it is open.
    pub(super) gpus: Gpus,
}

impl Devices {
    /// Looks, and chooses.
    ///
    /// # Errors
    /// If a device that is asked for is not there or of no use.
    pub fn find(resolved: &Resolved) -> Result<Self, ChoiceError> {
        let detection = look(resolved);
        let choice = choice(&resolved.settings, &detection)?;
        Ok(Self { detection: Arc::new(detection), choice, gpus: Gpus::default() })
    }

    /// What the user of a run should know of them.
    pub fn notes(&self, settings: &Settings) -> Vec<String> {
        let rehearsal = match &self.choice.chosen {
            Chosen::Gpus(_) => "a rehearsal: the GPUs are leased and watched, but the models run on the processor",
            Chosen::Cpu(_) => "a rehearsal without a GPU is an ordinary run on the processor",
        };
        let rehearsal = settings.rehearse.then_some(rehearsal);
        unused_devices(&self.choice.unused_devices).into_iter().chain(rehearsal.map(str::to_owned)).collect()
    }

    /// The devices in the order asked for. The encoder threads are divided among them as evenly as can be.
    pub(super) fn places(&self, settings: &Settings) -> Result<Vec<DeviceSlot>, DeviceKeyError> {
        let threads = settings.threads.unwrap_or_else(cores);
        match &self.choice.chosen {
            Chosen::Cpu(slots) => {
                let labels = self.choice.labels();
                let place = |(slot, label): (&crate::device::CpuSlot, String)| {
                    let (uuid, key) = (DeviceUuid("cpu".to_owned()), DeviceKey::of_slot(slot.index));
                    DeviceSlot { label, id: None, uuid, key, threads: slot.cores }
                };
                Ok(slots.iter().zip(labels).map(place).collect())
            }
            Chosen::Gpus(gpus) => {
                let numbers: Vec<u32> = (0..).take(gpus.len()).collect();
                // Every device has a worker, even if there are fewer threads than devices.
                let shares = slots(&numbers, threads.max(gpus.len())).unwrap_or_default();
                let place = |(gpu, share): (&DeviceInfo, crate::device::CpuSlot)| {
                    let key = DeviceKey::try_from(gpu)?;
                    let (label, uuid) = (gpu.label(), gpu.uuid.clone());
                    Ok(DeviceSlot { label, id: Some(gpu.index), uuid, key, threads: share.cores })
                };
                gpus.iter().zip(shares).map(place).collect()
            }
        }
    }

    /// Whether these devices are leased, or shared as the operating system shares the processor: a GPU always is, a
    /// part of the processor if it is asked for as such or everything is to be exclusive.
    pub(super) fn are_leased(&self, settings: &Settings, mode: Mode) -> bool {
        match self.choice.chosen {
            Chosen::Gpus(_) => true,
            Chosen::Cpu(_) => mode == Mode::Exclusive || settings.devices.iter().any(|device| device.contains(':')),
        }
    }
}

/// When memory is short, as the settings have it; they were checked when they were resolved.
pub fn thresholds(settings: &Settings) -> Thresholds {
    Thresholds::new(settings.memory_warning, settings.memory_critical).unwrap_or_default()
}

/// Looks at what is there.
pub fn look(resolved: &Resolved) -> Detection {
    detect(&Request {
        nvml_library: resolved.settings.nvml_library.as_deref(),
        cuda_visible_devices: resolved.cuda.visible_devices.as_deref(),
        cuda_device_order: resolved.cuda.device_order.as_deref(),
        only_cpu: resolved.settings.force_cpu,
    })
}

/// Chooses what the settings ask for.
///
/// # Errors
/// If it is not there or of no use.
pub fn choice(settings: &Settings, detection: &Detection) -> Result<Choice, ChoiceError> {
    let mut wanted = settings.devices.iter().map(|entry| entry.parse()).collect::<Result<Vec<Wanted>, _>>()?;
    if wanted.is_empty() && settings.force_cpu {
        wanted.push(Wanted::All(DeviceKind::Cpu));
    }
    let encoders = if settings.rehearse { &[DeviceKind::Cuda, DeviceKind::Cpu] } else { ENCODERS };
    let chosen = choose(&wanted, detection.devices(), encoders, settings.threads.unwrap_or_else(cores));
    chosen.map_err(|error| match error {
        // Where there are others of its kind, it was miscounted.
        ChoiceError::NotThere { wanted, there, .. } if !wanted.is_cpu() && !has_gpus(detection) => {
            let build =
                (!encoders.contains(&DeviceKind::Cuda)).then(|| "this program was built without cuda".to_owned());
            let driver = detection.driver().err().map(ToString::to_string);
            ChoiceError::NotThere { wanted, there, why: build.into_iter().chain(driver).collect() }
        }
        error => error,
    })
}

fn has_gpus(detection: &Detection) -> bool {
    detection.devices().iter().any(|device| device.kind != DeviceKind::Cpu)
}

/// Says that GPUs stay idle, if they do.
pub fn unused_devices(devices: &[DeviceInfo]) -> Option<String> {
    let kind = devices.first()?.kind;
    let labels: Vec<String> = devices.iter().map(|device| format!("{} ({})", device.label(), device.name)).collect();
    Some(format!("this program was built without {kind}: {} will not be used", labels.join(", ")))
}
