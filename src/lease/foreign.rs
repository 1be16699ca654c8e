//! Programs that compute on a leased GPU without a lease: no lock keeps them out.
//!
//! They are seen through the driver, which names processes by their ids on the host: in a container with ids of its own
//! this process may mistake itself for a foreign one while it has a CUDA context. So look before the first one is made,
//! or hold the lease for as long as there is one. MIG instances and processors are not looked at.

use std::fmt;

use super::DeviceKey;
use super::holder::plain;
use crate::device::{DeviceUuid, Probe, Process};

/// A GPU on which somebody computes without a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupied {
    /// The GPU.
    pub device: DeviceKey,
    /// Who computes on it.
    pub processes: Vec<Process>,
}

/// What is worth saying of a device that was leased all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseNote {
    /// It is shared.
    Shared(Occupied),
    /// Nobody knows whether somebody computes on it.
    Unseen {
        /// The GPU.
        device: DeviceKey,
        /// Why not, if the driver says why.
        reason: Option<String>,
    },
}

/// What a look at some GPUs shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignUse {
    /// GPUs on which somebody else computes.
    pub occupied: Vec<Occupied>,
    /// GPUs of which nobody can tell.
    pub unseen: Vec<LeaseNote>,
}

/// Who computes on these devices and is not the process `own`. What the driver does not tell counts as nobody.
pub fn look<'a>(probe: &dyn Probe, devices: impl IntoIterator<Item = &'a DeviceKey>, own: u32) -> ForeignUse {
    let mut seen = ForeignUse::default();
    for device in devices.into_iter().filter(|device| device.is_gpu()) {
        let unseen = |reason| LeaseNote::Unseen { device: device.clone(), reason };
        match probe.snapshot(&DeviceUuid(device.as_str().to_owned())) {
            Err(error) => seen.unseen.push(unseen(Some(error.to_string()))),
            Ok(snapshot) if snapshot.processes.is_none() => seen.unseen.push(unseen(None)),
            Ok(snapshot) => {
                let processes: Vec<Process> = snapshot.foreign(own).cloned().collect();
                if !processes.is_empty() {
                    seen.occupied.push(Occupied { device: device.clone(), processes });
                }
            }
        }
    }
    seen
}

impl fmt::Display for Occupied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes: Vec<String> = self.processes.iter().map(describe).collect();
        write!(formatter, "gpu {} is in use by {} without a lease", self.device, processes.join(", "))
    }
}

impl fmt::Display for LeaseNote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared(occupied) => write!(formatter, "{occupied}, and is shared with it"),
            Self::Unseen { device, reason } => {
                write!(formatter, "cannot see whether somebody uses gpu {device} without a lease")?;
                reason.as_ref().map_or(Ok(()), |reason| write!(formatter, ": {reason}"))
            }
        }
    }
}

fn describe(process: &Process) -> String {
    let program = process.name.as_deref().map_or_else(|| "an unknown program".to_owned(), plain);
    let memory = process.used.map_or_else(|| "memory unknown".to_owned(), |used| used.to_string());
    format!("{program} (pid {}, {memory})", process.pid)
}

/// Each on its own, as one error.
pub(super) fn list(occupied: &[Occupied]) -> String {
    occupied.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
