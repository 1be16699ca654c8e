//! The two lock files of a device.
//!
//! Programs that a holder runs may ask for its device themselves. They work under its lease, one at a time among
//! themselves: each of them takes the inner lock.

use super::DeviceKey;

const OUTER_ENDING: &str = ".lock";
const INNER_ENDING: &str = ".inner";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Level {
    /// The lease itself.
    Outer,
    /// A program that works under it.
    Inner,
}

/// One of the lock files of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LockName<'key> {
    pub(super) device: &'key DeviceKey,
    pub(super) level: Level,
}

impl<'key> LockName<'key> {
    pub(super) fn outer(device: &'key DeviceKey) -> Self {
        Self { device, level: Level::Outer }
    }

    pub(super) fn inner(device: &'key DeviceKey) -> Self {
        Self { device, level: Level::Inner }
    }

    /// `cpu-0.lock` or `cpu-0.inner`.
    pub(super) fn file_name(self) -> String {
        let ending = match self.level {
            Level::Outer => OUTER_ENDING,
            Level::Inner => INNER_ENDING,
        };
        format!("{}{ending}", self.device)
    }

    /// The device whose outer lock has this name. Another spelling of a key is not the file of that key.
    pub(super) fn device_of_outer(file_name: &str) -> Option<DeviceKey> {
        let name = file_name.strip_suffix(OUTER_ENDING)?;
        DeviceKey::new(name).ok().filter(|key| key.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_two_files_and_the_outer_one_names_it() {
        let device = DeviceKey::of_slot(0);
        let names = [LockName::outer(&device).file_name(), LockName::inner(&device).file_name()];
        assert_eq!(names, ["cpu-0.lock", "cpu-0.inner"]);
        let devices: Vec<Option<DeviceKey>> = names.iter().map(|name| LockName::device_of_outer(name)).collect();
        assert_eq!(devices, [Some(device), None]);
    }
}
