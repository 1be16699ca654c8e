//! What a lease is filed under: one key per physical device.
//!
//! Two names of one device would be two locks, and two locks are none. So a key is the device's own UUID, never an
//! index (indices are renumbered by `CUDA_VISIBLE_DEVICES`, and differ between libraries), it is never abbreviated,
//! and it has one spelling.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::device::{CpuSlot, DeviceInfo, DeviceKind};

/// Longest key; every file system takes a name of this length with its ending.
const LONGEST: usize = 128;

/// A device, such as `GPU-3f2b…` (the UUID that `nvidia-smi -L` shows) or `cpu-0` (a slot on the processor).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey(String);

/// An identity that cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{identity:?} cannot be a device key: at most {LONGEST} letters, digits, '-', '_' and '.', the first a letter or digit"
)]
pub struct DeviceKeyError {
    /// What was given.
    pub identity: String,
}

impl DeviceKey {
    /// The key of a device whose library tells its identity. UUIDs of GPUs are brought to lower case.
    ///
    /// # Errors
    /// If it would not be a safe file name.
    pub fn new(identity: &str) -> Result<Self, DeviceKeyError> {
        let safe = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        let starts_well = identity.starts_with(|first: char| first.is_ascii_alphanumeric());
        if !starts_well || identity.len() > LONGEST || !identity.chars().all(safe) {
            return Err(DeviceKeyError { identity: identity.to_owned() });
        }
        Ok(match gpu_parts(identity) {
            Some((prefix, uuid)) => Self(format!("{prefix}{}", uuid.to_ascii_lowercase())),
            None => Self(identity.to_owned()),
        })
    }

    /// The key of a slot on the processor.
    pub fn of_slot(index: u32) -> Self {
        Self(format!("cpu-{index}"))
    }

    /// The device of a name that means the same to everybody: a whole UUID, `cpu` or `cpu:N`. Any other name depends on
    /// what is there, see [`resolve`](super::resolve).
    pub fn of_whole_name(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        if let Some(slot) = lower.strip_prefix("cpu") {
            let number = if slot.is_empty() { "0" } else { slot.strip_prefix([':', '-'])? };
            // A sign would be read by the number's parser, but is not how a slot is written.
            let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
            return number.parse().ok().filter(|_| is_number).map(Self::of_slot);
        }
        let (_, uuid) = gpu_parts(name)?;
        if is_uuid(uuid) { Self::new(name).ok() } else { None }
    }

    /// The key itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether CUDA knows the device by this key.
    pub fn is_gpu(&self) -> bool {
        gpu_parts(&self.0).is_some()
    }
}

/// A GPU by its UUID; the processor as its first slot.
impl TryFrom<&DeviceInfo> for DeviceKey {
    type Error = DeviceKeyError;

    fn try_from(device: &DeviceInfo) -> Result<Self, DeviceKeyError> {
        match device.kind {
            DeviceKind::Cpu => Ok(Self::of_slot(0)),
            DeviceKind::Cuda | DeviceKind::Metal => Self::new(&device.uuid.0),
        }
    }
}

impl From<&CpuSlot> for DeviceKey {
    fn from(slot: &CpuSlot) -> Self {
        Self::of_slot(slot.index)
    }
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for DeviceKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The prefix as CUDA spells it, and the rest.
pub(super) fn gpu_parts(name: &str) -> Option<(&'static str, &str)> {
    let (prefix, rest) = name.split_at_checked(4)?;
    ["GPU-", "MIG-"].into_iter().find(|known| known.eq_ignore_ascii_case(prefix)).map(|known| (known, rest))
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    let mut lengths = Vec::new();
    for group in text.split('-') {
        if !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return false;
        }
        lengths.push(group.len());
    }
    lengths == [8, 4, 4, 4, 12]
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

    #[track_caller]
    fn check(name: &str, expected: Option<&str>) {
        assert_eq!(DeviceKey::of_whole_name(name).as_ref().map(DeviceKey::as_str), expected, "{name:?}");
    }

    #[test]
    fn a_device_has_one_spelling() {
        check(&format!("GPU-{UUID}"), Some(&format!("GPU-{UUID}")));
        check(&format!("gpu-{}", UUID.to_uppercase()), Some(&format!("GPU-{UUID}")));
        check(&format!("MIG-{UUID}"), Some(&format!("MIG-{UUID}")));
        check("cpu", Some("cpu-0"));
        check("cpu:07", Some("cpu-7"));
        check("CPU-7", Some("cpu-7"));
        assert_eq!(DeviceKey::from(&CpuSlot { index: 7, cores: 1 }), DeviceKey::of_slot(7));
    }

    #[test]
    fn a_name_that_depends_on_what_is_there_is_no_key() {
        for name in ["cuda:0", "cuda", "3", "GPU-0123", "metal:0", "cpu:", "cpu:x", "cpu:-1", "cpu:+1", "cpu+1", "tpu"]
        {
            check(name, None);
        }
        check(&format!("MIG-GPU-{UUID}/1/0"), None);
    }

    #[test]
    fn a_key_is_a_safe_file_name() {
        for identity in ["", ".", "..", "../x", "a/b", "-a", "a b", "é", "a\n", &"a".repeat(129)] {
            assert!(DeviceKey::new(identity).is_err(), "{identity:?}");
        }
        assert_eq!(DeviceKey::new("GPU-ABC").unwrap().as_str(), "GPU-abc");
        assert_eq!(DeviceKey::new("metal-0").unwrap().as_str(), "metal-0");
    }

    #[test]
    fn only_gpus_are_known_to_cuda() {
        assert!(DeviceKey::of_whole_name(&format!("GPU-{UUID}")).unwrap().is_gpu());
        assert!(DeviceKey::of_whole_name(&format!("MIG-{UUID}")).unwrap().is_gpu());
        assert!(!DeviceKey::of_whole_name("cpu:0").unwrap().is_gpu());
    }
}
