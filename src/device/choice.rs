//! Which devices will be used: what is asked for, held against what is there.

use std::fmt;
use std::str::FromStr;

use super::slots::{SlotError, slots};
use super::{CpuSlot, DeviceInfo, DeviceKind};

/// One entry of `--devices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All devices of a kind: `cuda`. `cpu` is one slot with all cores.
    All(DeviceKind),
    /// One of them: `cuda:1`. `cpu:1` is a slot.
    One(DeviceKind, u32),
    /// The GPU whose UUID begins so: `GPU-3f`.
    Uuid(String),
}

/// What will be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// GPUs, in the order asked for.
    Gpus(Vec<DeviceInfo>),
    /// The processor, divided.
    Cpu(Vec<CpuSlot>),
}

/// What will be used, and what might have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What will be used.
    pub chosen: Chosen,
    /// Better devices that are left aside because this build has no encoder for them.
    pub unused_devices: Vec<DeviceInfo>,
}

impl Choice {
    /// What will be used, as in `--devices`.
    pub fn labels(&self) -> Vec<String> {
        match &self.chosen {
            Chosen::Gpus(gpus) => gpus.iter().map(DeviceInfo::label).collect(),
            Chosen::Cpu(slots) if slots.len() == 1 => vec!["cpu".to_owned()],
            Chosen::Cpu(slots) => slots.iter().map(|slot| format!("cpu:{}", slot.index)).collect(),
        }
    }
}

/// Devices that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// An entry cannot be read.
    #[error("{entry:?} is no device; write cuda:0, metal:0, cpu, cpu:0 or the beginning of a UUID (GPU-…)")]
    Unreadable {
        /// The entry.
        entry: String,
    },
    /// It is not there.
    #[error("there is no device {wanted}; there is {there}{}", because(.why))]
    NotThere {
        /// What was asked for.
        wanted: Wanted,
        /// What there is.
        there: String,
        /// Why it may not be there, as far as whoever has looked knows.
        why: Vec<String>,
    },
    /// More than one device is meant.
    #[error("{wanted} may be several devices; there is {there}; write more of the UUID")]
    Ambiguous {
        /// What was asked for.
        wanted: Wanted,
        /// What there is.
        there: String,
    },
    /// A device is named twice.
    #[error("device {device} is named twice; name each device once")]
    Repeated {
        /// The device.
        device: String,
    },
    /// GPUs and the processor together.
    #[error("GPUs and CPU slots cannot be used together; name either")]
    Mixed,
    /// This program has no encoder for it.
    #[error("{device} is there, but this program was built without {kind}; use --devices cpu, or a build with {kind}")]
    NotBuilt {
        /// The device.
        device: String,
        /// Its kind.
        kind: DeviceKind,
    },
    /// The processor cannot be divided so.
    #[error(transparent)]
    Slots(#[from] SlotError),
}

/// Chooses. Without a wish: all devices of the best kind that this build has an encoder for; `force_cpu` is the wish
/// for the processor. `there` is what was detected, `encoders` what this build can use, `cores` those of this process.
///
/// # Errors
/// [`ChoiceError`], which lists what is there.
pub fn choose(
    wanted: &[Wanted],
    there: &[DeviceInfo],
    encoders: &[DeviceKind],
    cores: usize,
) -> Result<Choice, ChoiceError> {
    if wanted.is_empty() {
        return Ok(best(there, encoders, cores));
    }
    let chosen = match wanted.iter().filter(|wanted| wanted.is_cpu()).count() {
        0 => Chosen::Gpus(gpus(wanted, there, encoders)?),
        count if count == wanted.len() => Chosen::Cpu(slots(&slot_numbers(wanted)?, cores)?),
        _ => return Err(ChoiceError::Mixed),
    };
    Ok(Choice { chosen, unused_devices: Vec::new() })
}

fn best(there: &[DeviceInfo], encoders: &[DeviceKind], cores: usize) -> Choice {
    let whole = || Chosen::Cpu(vec![CpuSlot { index: 0, cores }]);
    let usable = |device: &&DeviceInfo| encoders.contains(&device.kind);
    let kind = there.iter().filter(usable).map(|device| device.kind).min().unwrap_or(DeviceKind::Cpu);
    let of_kind = there.iter().filter(|device| device.kind == kind).cloned().collect();
    Choice {
        chosen: if kind == DeviceKind::Cpu { whole() } else { Chosen::Gpus(of_kind) },
        unused_devices: there.iter().filter(|device| device.kind < kind).cloned().collect(),
    }
}

fn gpus(wanted: &[Wanted], there: &[DeviceInfo], encoders: &[DeviceKind]) -> Result<Vec<DeviceInfo>, ChoiceError> {
    let mut chosen: Vec<DeviceInfo> = Vec::new();
    for wanted in wanted {
        for device in matching(wanted, there)? {
            if chosen.iter().any(|chosen| chosen.uuid == device.uuid) {
                return Err(ChoiceError::Repeated { device: device.label() });
            }
            if !encoders.contains(&device.kind) {
                return Err(ChoiceError::NotBuilt { device: describe(device), kind: device.kind });
            }
            chosen.push(device.clone());
        }
    }
    Ok(chosen)
}

fn matching<'a>(wanted: &Wanted, there: &'a [DeviceInfo]) -> Result<Vec<&'a DeviceInfo>, ChoiceError> {
    let found: Vec<&DeviceInfo> = there
        .iter()
        .filter(|device| match wanted {
            Wanted::All(kind) => device.kind == *kind,
            Wanted::One(kind, index) => device.kind == *kind && device.index == *index,
            Wanted::Uuid(beginning) => device.uuid.0.starts_with(beginning),
        })
        .collect();
    match (wanted, found.len()) {
        (_, 0) => Err(ChoiceError::NotThere { wanted: wanted.clone(), there: list(there), why: Vec::new() }),
        (Wanted::Uuid(_), 2..) => Err(ChoiceError::Ambiguous { wanted: wanted.clone(), there: list(there) }),
        _ => Ok(found),
    }
}

/// `cpu` beside nothing is slot 0.
fn slot_numbers(wanted: &[Wanted]) -> Result<Vec<u32>, ChoiceError> {
    let mut numbers = Vec::new();
    for wanted in wanted {
        let number = if let Wanted::One(_, number) = wanted { *number } else { 0 };
        if numbers.contains(&number) {
            return Err(ChoiceError::Repeated { device: wanted.to_string() });
        }
        numbers.push(number);
    }
    Ok(numbers)
}

fn describe(device: &DeviceInfo) -> String {
    match device.kind {
        DeviceKind::Cpu => device.label(),
        _ => format!("{} ({}, {})", device.label(), device.name, device.uuid),
    }
}

fn because(why: &[String]) -> String {
    why.iter().flat_map(|reason| ["; ", reason]).collect()
}

fn list(there: &[DeviceInfo]) -> String {
    there.iter().map(describe).collect::<Vec<_>>().join(", ")
}

impl Wanted {
    /// Whether it is the processor or a part of it.
    pub fn is_cpu(&self) -> bool {
        matches!(self, Self::All(DeviceKind::Cpu) | Self::One(DeviceKind::Cpu, _))
    }
}

impl FromStr for Wanted {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        let entry = text.trim();
        let unreadable = || ChoiceError::Unreadable { entry: text.to_owned() };
        if entry.starts_with("GPU-") {
            return Ok(Self::Uuid(entry.to_owned()));
        }
        let (kind, index) = entry.split_once(':').map_or((entry, None), |(kind, index)| (kind, Some(index)));
        let kinds = [DeviceKind::Cuda, DeviceKind::Metal, DeviceKind::Cpu];
        let kind = kinds.into_iter().find(|known| known.as_str() == kind).ok_or_else(unreadable)?;
        let Some(index) = index else { return Ok(Self::All(kind)) };
        // A sign would be read by the number's parser, but is not how a device is written.
        let digits = index.bytes().all(|byte| byte.is_ascii_digit());
        let index = index.parse().ok().filter(|_| digits).ok_or_else(unreadable)?;
        Ok(Self::One(kind, index))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(kind) => write!(formatter, "{kind}"),
            Self::One(kind, index) => write!(formatter, "{kind}:{index}"),
            Self::Uuid(beginning) => formatter.write_str(beginning),
        }
    }
}

#[cfg(test)]
mod tests;
