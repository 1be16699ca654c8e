//! What a lease is filed under: one key per physical device.
//!
//! Two names of one device would be two locks, and two locks are none. So a key is the device's own UUID, never an
//! index (indices are renumbered by `CUDA_VISIBLE_DEVICES`, and differ between libraries), it is never abbreviated,
//! and it has one spelling.

use std::fmt;

use serde::{Serialize, Serializer};

/// Longest key; every file system takes a name of this length with its ending.
const LONGEST: usize = 128;

/// A device, such as `GPU-3f2b…` (the UUID that `nvidia-smi -L` shows) or `cpu-0` (a slot on the processor).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey(String);

/// A text that cannot name a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceNameError {
    /// It would not be a safe file name.
    #[error(
        "{name:?} cannot be a device key: at most {LONGEST} letters, digits, '-', '_' and '.', the first a letter or digit"
    )]
    Characters {
        /// What was given.
        name: String,
    },
    /// Which device has this number depends on who counts.
    #[error("{name:?} is a number, and numbers of GPUs differ between programs: give the UUID, see nvidia-smi -L")]
    Index {
        /// What was given.
        name: String,
    },
    /// An abbreviation names the same device as the whole UUID and would be another lease.
    #[error(
        "{name:?} is not a whole UUID such as GPU-01234567-89ab-cdef-0123-456789abcdef: give all of it, see nvidia-smi -L"
    )]
    Incomplete {
        /// What was given.
        name: String,
    },
    /// Neither a GPU nor a slot.
    #[error("{name:?} is not a device: give the UUID of a GPU (see nvidia-smi -L) or a slot such as cpu:0")]
    Unknown {
        /// What was given.
        name: String,
    },
}

impl DeviceKey {
    /// The key of a device whose library tells its identity. UUIDs of GPUs are brought to lower case.
    ///
    /// # Errors
    /// If it would not be a safe file name.
    pub fn new(identity: &str) -> Result<Self, DeviceNameError> {
        let safe = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        let starts_well = identity.starts_with(|first: char| first.is_ascii_alphanumeric());
        if !starts_well || identity.len() > LONGEST || !identity.chars().all(safe) {
            return Err(DeviceNameError::Characters { name: identity.to_owned() });
        }
        Ok(match gpu_parts(identity) {
            Some((prefix, uuid)) => Self(format!("{prefix}{}", uuid.to_ascii_lowercase())),
            None => Self(identity.to_owned()),
        })
    }

    /// The device that a user names: a UUID, or `cpu:N`. This is the place where `cuda:N` will become a UUID once
    /// devices are detected; until then it is refused with a way out.
    ///
    /// # Errors
    /// If it is an index, an abbreviation or no device at all.
    pub fn of_name(name: &str) -> Result<Self, DeviceNameError> {
        let lower = name.to_ascii_lowercase();
        if let Some(slot) = lower.strip_prefix("cpu") {
            let number = if slot.is_empty() { "0" } else { slot.strip_prefix([':', '-']).unwrap_or("") };
            let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
            let slot: Option<u32> = number.parse().ok().filter(|_| is_number);
            return slot
                .map(|slot| Self(format!("cpu-{slot}")))
                .ok_or_else(|| DeviceNameError::Unknown { name: name.to_owned() });
        }
        let index = lower.strip_prefix("cuda").or(lower.strip_prefix("gpu:")).unwrap_or(&lower);
        if index.trim_start_matches(':').bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(DeviceNameError::Index { name: name.to_owned() });
        }
        match gpu_parts(name) {
            Some((_, uuid)) if is_uuid(uuid) => Self::new(name),
            Some(_) => Err(DeviceNameError::Incomplete { name: name.to_owned() }),
            None => Err(DeviceNameError::Unknown { name: name.to_owned() }),
        }
    }

    /// A slot on the processor.
    pub fn of_slot(number: u32) -> Self {
        Self(format!("cpu-{number}"))
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
fn gpu_parts(name: &str) -> Option<(&'static str, &str)> {
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
    fn check(name: &str, expected: &str) {
        match DeviceKey::of_name(name) {
            Ok(key) => assert_eq!(key.as_str(), expected, "{name:?}"),
            Err(error) => assert!(error.to_string().contains(expected), "{name:?}: {error}"),
        }
    }

    #[test]
    fn a_device_has_one_spelling() {
        check(&format!("GPU-{UUID}"), &format!("GPU-{UUID}"));
        check(&format!("gpu-{}", UUID.to_uppercase()), &format!("GPU-{UUID}"));
        check(&format!("MIG-{UUID}"), &format!("MIG-{UUID}"));
        check("cpu", "cpu-0");
        check("cpu:07", "cpu-7");
        check("CPU-7", "cpu-7");
    }

    #[test]
    fn what_could_be_two_names_of_one_device_is_refused_with_a_way_out() {
        for index in ["cuda:0", "cuda", "cuda0", "gpu:1", "3"] {
            check(index, "give the UUID, see nvidia-smi -L");
        }
        check("GPU-0123", "is not a whole UUID");
        check(&format!("MIG-GPU-{UUID}/1/0"), "is not a whole UUID");
        for unknown in ["metal:0", "cpu:", "cpu:x", "cpu:-1", "cpu+1", "tpu"] {
            check(unknown, "is not a device");
        }
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
        assert!(DeviceKey::of_name(&format!("GPU-{UUID}")).unwrap().is_gpu());
        assert!(DeviceKey::of_name(&format!("MIG-{UUID}")).unwrap().is_gpu());
        assert!(!DeviceKey::of_name("cpu:0").unwrap().is_gpu());
    }
}
