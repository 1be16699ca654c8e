//! Programs that compute on a leased GPU without a lease: whoever does not ask is not kept out by a lock.
//!
//! They are seen through the driver, which names processes by their ids on the host: in a container with ids of its own
//! this process may not recognise itself, and would be foreign to itself while it has a CUDA context. So look before
//! the first one is made, or hold the lease for as long as there is one. MIG instances and processors are not looked at.

use std::fmt;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use super::acquire::{LeaseError, Manager, Obstacle, Who, pause};
use super::holder::plain;
use super::{DeviceKey, Lease, Policy};
use crate::config::Foreign;
use crate::device::{DeviceUuid, Probe, Process};

/// A program that has ended is seen for as long as the driver needs to clean up after it, and one that has given its
/// lease back until it has dropped its CUDA context. Only who stays for longer is foreign.
const GRACE: Duration = Duration::from_secs(2);

/// Pause between two looks within that time.
const GRACE_PAUSE: Duration = Duration::from_millis(100);

/// Pause of who waits for a foreign process, in milliseconds. Nobody's computation ends sooner for being looked at.
const PAUSE: std::ops::RangeInclusive<u64> = 500..=1000;

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
pub enum Remark {
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
pub struct Sight {
    /// GPUs on which somebody else computes.
    pub occupied: Vec<Occupied>,
    /// GPUs of which nobody can tell.
    pub unseen: Vec<Remark>,
}

/// Who computes on these devices and is not the process `own`. What the driver does not tell counts as nobody.
pub fn look<'a>(probe: &dyn Probe, devices: impl IntoIterator<Item = &'a DeviceKey>, own: u32) -> Sight {
    let mut sight = Sight::default();
    for device in devices.into_iter().filter(|device| device.is_gpu()) {
        let unseen = |reason| Remark::Unseen { device: device.clone(), reason };
        match probe.snapshot(&DeviceUuid(device.as_str().to_owned())) {
            Err(error) => sight.unseen.push(unseen(Some(error.to_string()))),
            Ok(snapshot) if snapshot.processes.is_none() => sight.unseen.push(unseen(None)),
            Ok(snapshot) => {
                let processes: Vec<Process> = snapshot.foreign(own).cloned().collect();
                if !processes.is_empty() {
                    sight.occupied.push(Occupied { device: device.clone(), processes });
                }
            }
        }
    }
    sight
}

impl Manager {
    /// As [`acquire_watched`](Self::acquire_watched), and with programs that compute on the GPUs without a lease dealt
    /// with as `foreign` says. `probe` looks for them when the locks are held, so that none with a lease is among them.
    ///
    /// Who waits for one gives the locks back meanwhile, lest others wait for nothing; the time of `policy` is for both
    /// kinds of waiting, and without one nobody waits.
    ///
    /// # Errors
    /// As [`acquire_watched`](Self::acquire_watched), and if there are foreign processes.
    pub fn acquire_clear(
        &self,
        devices: &[DeviceKey],
        policy: Policy,
        foreign: Foreign,
        probe: &dyn Probe,
        who: &Who,
        watch: &mut dyn FnMut(&Obstacle) -> ControlFlow<()>,
    ) -> Result<Lease, LeaseError> {
        let started = Instant::now();
        loop {
            let rest = policy.after(started.elapsed());
            let mut lease = self.acquire_watched(devices, rest, who, watch).map_err(|error| match error {
                LeaseError::Held { busy, waited: Some(_) } => {
                    LeaseError::Held { busy, waited: Some(started.elapsed()) }
                }
                error => error,
            })?;
            let grace = if foreign == Foreign::Share { Duration::ZERO } else { GRACE };
            let Sight { occupied, unseen } = look_patiently(probe, devices, grace);
            if occupied.is_empty() || foreign == Foreign::Share {
                let shared = occupied.into_iter().map(Remark::Shared);
                lease.remark(shared.chain(unseen).collect());
                return Ok(lease);
            }
            drop(lease);
            let waited = started.elapsed();
            let left = match policy.after(waited) {
                Policy::Wait(left) if foreign == Foreign::Wait => left,
                _ => Duration::ZERO,
            };
            if left.is_zero() {
                let waited = (foreign == Foreign::Wait).then_some(waited);
                return Err(LeaseError::Foreign { occupied, waited });
            }
            let obstacle = Obstacle::Foreign(occupied);
            if watch(&obstacle).is_break() {
                return Err(LeaseError::GivenUp { obstacle: Box::new(obstacle) });
            }
            thread::sleep(pause(&PAUSE).min(left));
        }
    }
}

/// Looks until nobody is there, at most for so long.
fn look_patiently(probe: &dyn Probe, devices: &[DeviceKey], grace: Duration) -> Sight {
    let started = Instant::now();
    loop {
        let sight = look(probe, devices, std::process::id());
        if sight.occupied.is_empty() || started.elapsed() >= grace {
            return sight;
        }
        thread::sleep(GRACE_PAUSE);
    }
}

impl fmt::Display for Occupied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes: Vec<String> = self.processes.iter().map(describe).collect();
        write!(formatter, "gpu {} is in use by {} without a lease", self.device, processes.join(", "))
    }
}

impl fmt::Display for Remark {
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

#[cfg(test)]
mod tests;
