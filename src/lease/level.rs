//! Locks inside locks: the files of one device.
//!
//! Who holds a device may run programs that ask for it themselves. They work under the lease that is there already, one
//! at a time among themselves, so each level of this nesting has a lock of its own: who takes the lock of one level
//! holds those of all levels outside it.

use super::DeviceKey;

/// Most levels; nobody runs so many programs of this kind inside each other but by mistake.
pub(super) const MOST_LEVELS: usize = 8;

const ENDING: &str = ".lock";
const INNER_ENDING: &str = ".inner";

/// One of the lock files of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LockName<'key> {
    pub(super) device: &'key DeviceKey,
    /// 0 for the lease itself, 1 for a program inside it, and so on.
    pub(super) level: usize,
}

impl<'key> LockName<'key> {
    pub(super) fn outermost(device: &'key DeviceKey) -> Self {
        Self { device, level: 0 }
    }

    /// `cpu-0.lock`, `cpu-0.inner`, `cpu-0.inner2`.
    pub(super) fn file_name(self) -> String {
        let Self { device, level } = self;
        match level {
            0 => format!("{device}{ENDING}"),
            1 => format!("{device}{INNER_ENDING}"),
            _ => format!("{device}{INNER_ENDING}{level}"),
        }
    }

    /// The device whose outermost lock has this name. Another spelling of a key is not the file of that key.
    pub(super) fn device_of_outermost(file_name: &str) -> Option<DeviceKey> {
        let name = file_name.strip_suffix(ENDING)?;
        DeviceKey::new(name).ok().filter(|key| key.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_a_file_and_only_the_outermost_is_a_device() {
        let device = DeviceKey::of_slot(0);
        let names: Vec<String> = (0..3).map(|level| LockName { device: &device, level }.file_name()).collect();
        assert_eq!(names, ["cpu-0.lock", "cpu-0.inner", "cpu-0.inner2"]);
        let devices: Vec<Option<DeviceKey>> = names.iter().map(|name| LockName::device_of_outermost(name)).collect();
        assert_eq!(devices, [Some(device), None, None]);
    }
}
