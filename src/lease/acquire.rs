//! Taking devices: all or none, at once or after waiting.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::ops::{ControlFlow, RangeInclusive};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::directory::MOST_ATTEMPTS;
use super::held::{HeldDevice, Lease};
use super::holder::{self, Holder, plain};
use super::process::Process;
use super::{Candidates, DeviceKey, DirectoryError, FileError, LeaseDirectory};

/// Others hold a lock for some microseconds when they ask for its state or fail to get a second device. Only what is
/// busy for longer is leased.
const SECOND_LOOK: Duration = Duration::from_millis(25);

/// Pause between two looks at a device that is only perhaps leased, in milliseconds.
const SHORT_PAUSE: RangeInclusive<u64> = 2..=5;

/// Pause of who waits, in milliseconds. Drawn anew each time, so that none of several waiters is always the last, and
/// short against the time for which anybody holds a device.
const LONG_PAUSE: RangeInclusive<u64> = 20..=100;

/// What to do if a device is leased already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Give up.
    Fail,
    /// Try again for so long.
    Wait(Duration),
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Name of the run.
    pub run: String,
    /// The model for which the devices are taken.
    pub model: Option<String>,
}

/// A device that somebody else holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busy {
    /// The device.
    pub device: DeviceKey,
    /// Who holds it, if its lock file says so.
    pub holder: Option<Holder>,
}

/// Devices could not be leased. None is held.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else holds one.
    #[error("{busy}; {}", way_out(*waited))]
    Held {
        /// The device and its holder.
        busy: Box<Busy>,
        /// For how long it was waited for.
        waited: Option<Duration>,
    },
    /// Whoever watched the waiting ended it.
    #[error("gave up waiting: {busy}")]
    GivenUp {
        /// The device and its holder.
        busy: Box<Busy>,
    },
    /// A lock file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A lease of nothing protects nothing.
    #[error("a lease needs at least one device")]
    NoDevice,
}

/// The leases of a machine.
#[derive(Debug)]
pub struct Manager {
    directory: LeaseDirectory,
}

impl Manager {
    /// Opens the directory of lock files, which is made where there is none.
    ///
    /// # Errors
    /// If there is no such directory and none can be made.
    pub fn open(candidates: &Candidates) -> Result<Self, DirectoryError> {
        Ok(Self { directory: LeaseDirectory::open(candidates)? })
    }

    /// Where the lock files are.
    pub fn directory(&self) -> &LeaseDirectory {
        &self.directory
    }

    /// Takes all of these devices or none.
    ///
    /// # Errors
    /// If one is leased already and stays so, or its lock file cannot be used; then none is held.
    pub fn acquire(&self, devices: &[DeviceKey], policy: Policy, who: &Who) -> Result<Lease, LeaseError> {
        self.acquire_watched(devices, policy, who, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`acquire`](Self::acquire); before every pause of a wait `watch` learns what is waited for, and may end it.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and if `watch` ends the wait.
    pub fn acquire_watched(
        &self,
        devices: &[DeviceKey],
        policy: Policy,
        who: &Who,
        watch: &mut dyn FnMut(&Busy) -> ControlFlow<()>,
    ) -> Result<Lease, LeaseError> {
        if devices.is_empty() {
            return Err(LeaseError::NoDevice);
        }
        let started = Instant::now();
        let (limit, pauses) = match policy {
            Policy::Fail => (SECOND_LOOK, SHORT_PAUSE),
            Policy::Wait(limit) => (limit.max(SECOND_LOOK), LONG_PAUSE),
        };
        loop {
            let device = match self.try_all(devices)? {
                Ok(files) => return self.sign(devices, files, who),
                Err(device) => device,
            };
            let waited = started.elapsed();
            let Some(left) = limit.checked_sub(waited).filter(|left| !left.is_zero()) else {
                let busy = Box::new(self.busy(device)?);
                return Err(LeaseError::Held { busy, waited: (policy != Policy::Fail).then_some(waited) });
            };
            if policy != Policy::Fail {
                let busy = self.busy(device)?;
                if watch(&busy).is_break() {
                    return Err(LeaseError::GivenUp { busy: Box::new(busy) });
                }
            }
            thread::sleep(pause(&pauses).min(left));
        }
    }

    /// Locks all devices in sorted order, or none; then it returns the one that is busy.
    fn try_all(&self, devices: &[DeviceKey]) -> Result<Result<Vec<(DeviceKey, File)>, DeviceKey>, FileError> {
        let sorted: BTreeSet<&DeviceKey> = devices.iter().collect();
        let mut files = Vec::new();
        for device in sorted {
            // Returning early closes the files and so unlocks what was locked before.
            let Some(file) = self.try_one(device)? else { return Ok(Err(device.clone())) };
            files.push((device.clone(), file));
        }
        Ok(Ok(files))
    }

    fn try_one(&self, device: &DeviceKey) -> Result<Option<File>, FileError> {
        for _ in 0..MOST_ATTEMPTS {
            let file = self.directory.lock_file(device)?;
            match file.try_lock() {
                Ok(()) if self.directory.is_current(&file, device)? => return Ok(Some(file)),
                // Removed between opening and locking: others will lock another file.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(self.directory.unusable(device, source)),
            }
        }
        Ok(None)
    }

    /// Writes into each locked file who holds it.
    fn sign(&self, order: &[DeviceKey], files: Vec<(DeviceKey, File)>, who: &Who) -> Result<Lease, LeaseError> {
        let process = Process::this();
        let mut held = Vec::with_capacity(files.len());
        for (key, file) in files {
            let epoch = holder::read(&file).map_or(0, |earlier| earlier.epoch).saturating_add(1);
            let holder = Holder::new(who, &process, epoch);
            holder::write(&file, &holder).map_err(|source| self.directory.unusable(&key, source))?;
            held.push(HeldDevice { key, file: Some(file), holder, lent: false });
        }
        held.sort_by_key(|device| order.iter().position(|key| *key == device.key));
        Ok(Lease::new(held))
    }

    fn busy(&self, device: DeviceKey) -> Result<Busy, FileError> {
        let file = self.directory.existing_lock_file(&device, OFlags::RDONLY)?;
        Ok(Busy { holder: file.and_then(|file| holder::read(&file)), device })
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.device.is_gpu() { "gpu" } else { "device" };
        write!(formatter, "{kind} {} is leased by ", self.device)?;
        match &self.holder {
            Some(holder) => write!(formatter, "{holder} since {}", plain(&holder.since)),
            None => formatter.write_str("a process that has not written its name into the lock file"),
        }
    }
}

fn way_out(waited: Option<Duration>) -> String {
    match waited {
        None => "pass --lease-wait 30m or free it".to_owned(),
        Some(waited) => format!("waited {}; pass a longer --lease-wait or free it", in_words(waited)),
    }
}

/// In seconds, or in milliseconds if there is no whole second.
fn in_words(span: Duration) -> humantime::FormattedDuration {
    let seconds = Duration::from_secs(span.as_secs());
    humantime::format_duration(if seconds.is_zero() {
        Duration::from_millis(u64::from(span.subsec_millis()))
    } else {
        seconds
    })
}

fn pause(milliseconds: &RangeInclusive<u64>) -> Duration {
    let (least, most) = (milliseconds.start(), milliseconds.end());
    let random = RandomState::new().hash_one(thread::current().id());
    Duration::from_millis(least + random % (most - least + 1))
}

#[cfg(test)]
mod tests;
