//! A look at the memory of a device, and why there may be none.

use std::path::PathBuf;

use serde::Serialize;

use super::{DeviceInfo, DeviceUuid};
use crate::domain::Bytes;

/// Whoever can look at devices. Looking costs little and changes nothing.
pub trait Probe: Send + Sync {
    /// The devices that it knows.
    fn devices(&self) -> &[DeviceInfo];

    /// Looks at the memory of one of them.
    ///
    /// # Errors
    /// [`ProbeError`]; another device may still answer.
    fn snapshot(&self, device: &DeviceUuid) -> Result<Snapshot, ProbeError>;
}

/// The memory of a device at one time. What cannot be read is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The device.
    pub uuid: DeviceUuid,
    /// All there is.
    #[serde(rename = "total_bytes")]
    pub total: Option<Bytes>,
    /// Held by anyone.
    #[serde(rename = "used_bytes")]
    pub used: Option<Bytes>,
    /// Held by nobody.
    #[serde(rename = "free_bytes")]
    pub free: Option<Bytes>,
    /// Held by tensors of this process; known to its allocator alone.
    #[serde(rename = "allocated_bytes")]
    pub allocated: Option<Bytes>,
    /// Held by the allocator of this process; known to it alone.
    #[serde(rename = "reserved_bytes")]
    pub reserved: Option<Bytes>,
    /// Who computes on it. `None` is not the same as nobody.
    pub processes: Option<Vec<Process>>,
}

/// A process on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its id as the driver sees it: in a container with its own process ids, that of the host.
    pub pid: u32,
    /// Its program.
    pub name: Option<String>,
    /// Memory that it holds.
    #[serde(rename = "used_bytes")]
    pub used: Option<Bytes>,
}

impl Snapshot {
    /// The part of the memory that is not free, from 0 to 1.
    pub fn utilisation(&self) -> Option<f64> {
        let total = self.total.filter(|total| total.0 > 0)?;
        Some(self.taken()?.0 as f64 / total.0 as f64)
    }

    /// Memory that is not available: the driver keeps some that is neither used nor free.
    pub fn taken(&self) -> Option<Bytes> {
        self.total.zip(self.free).map(|(total, free)| total.saturating_sub(free)).or(self.used)
    }

    /// What this process holds, if the driver reports it.
    pub fn own(&self) -> Option<Bytes> {
        let pid = std::process::id();
        self.processes.iter().flatten().find(|process| process.pid == pid)?.used
    }

    /// The processes on it that are not `own`.
    pub fn foreign(&self, own: u32) -> impl Iterator<Item = &Process> {
        self.processes.iter().flatten().filter(move |process| process.pid != own)
    }
}

/// Why a device or its driver cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Nobody wanted to know.
    #[error("the NVIDIA driver is not asked, for only the CPU is to be used")]
    NotAsked,
    /// There is no driver library, or it is none.
    #[error(
        "cannot load {}: {reason}; a machine without NVIDIA GPUs needs none; else install the NVIDIA driver, or start \
         the container with its GPUs (docker: --gpus all)", library.display()
    )]
    LibraryMissing {
        /// The library.
        library: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// The library is too old or another one.
    #[error("{} has no function {function}: too old, or not the driver's library; update the NVIDIA driver to 510 or \
             newer", library.display())]
    SymbolMissing {
        /// The library.
        library: PathBuf,
        /// What it lacks.
        function: String,
    },
    /// The library is there, the kernel module is not.
    #[error(
        "the NVIDIA driver is installed but not loaded; see `dmesg | grep -i nvidia`, then `modprobe nvidia` or \
             reboot; in a container, start it with its GPUs (docker: --gpus all)"
    )]
    DriverNotLoaded,
    /// After an update of the driver and before a reboot.
    #[error("the NVIDIA driver's library and kernel module are of different versions; reboot, or reload the module")]
    VersionMismatch,
    /// The device files may not be opened.
    #[error("no permission to ask the NVIDIA driver; check the rights of /dev/nvidia*, or the container's devices")]
    NoPermission,
    /// A GPU fell off the bus.
    #[error("gpu {index}{} is lost: the driver cannot reach it any more; see `dmesg | grep -i xid`, then reset it \
             (`nvidia-smi --gpu-reset -i {index}`) or reboot", in_brackets(.uuid.as_ref()))]
    Lost {
        /// Its number for the driver.
        index: u32,
        /// What it was known by, if it ever answered.
        uuid: Option<DeviceUuid>,
    },
    /// The driver answers with another fault.
    #[error("{what}: the NVIDIA driver answers: {reason}; see `nvidia-smi`")]
    Driver {
        /// What was asked.
        what: String,
        /// Its answer.
        reason: String,
    },
    /// A file of the system that tells about memory cannot be read.
    #[error("cannot read {}: {reason}; is /proc mounted?", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Nobody knows the device.
    #[error("there is no device {uuid} any more; `embed-collections devices` lists what there is")]
    Unknown {
        /// What was asked for.
        uuid: DeviceUuid,
    },
    /// There is no way to look at devices of this kind.
    #[error("the memory of {uuid} cannot be read on this system")]
    Unsupported {
        /// The device.
        uuid: DeviceUuid,
    },
}

fn in_brackets(uuid: Option<&DeviceUuid>) -> String {
    uuid.map(|uuid| format!(" ({uuid})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(total: Option<u64>, used: Option<u64>, free: Option<u64>, expected: Option<f64>) {
        let [total, used, free] = [total, used, free].map(|amount| amount.map(Bytes));
        let uuid = DeviceUuid("GPU-1".to_owned());
        let snapshot = Snapshot { uuid, total, used, free, allocated: None, reserved: None, processes: None };
        assert_eq!(snapshot.utilisation(), expected);
    }

    #[test]
    fn utilisation_counts_what_cannot_be_had_and_is_unknown_where_memory_is() {
        check(Some(100), Some(40), Some(60), Some(0.4));
        check(Some(100), Some(40), Some(50), Some(0.5));
        check(Some(100), Some(40), None, Some(0.4));
        check(Some(100), None, None, None);
        check(None, Some(40), Some(60), None);
        check(Some(0), Some(0), Some(0), None);
    }
}
