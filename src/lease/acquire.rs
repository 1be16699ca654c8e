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
use super::foreign::{self, Occupied};
use super::held::{HeldDevice, Lease, Locks};
use super::holder::{self, Holder, plain};
use super::level::{LockName, MOST_LEVELS};
use super::process::Process;
use super::{Candidates, DeviceKey, DeviceState, DirectoryError, FileError, Inherited, LeaseDirectory, Policy, State};

/// Others hold a lock for some microseconds when they ask for its state or fail to get a second device. Only what is
/// busy for longer is leased.
const SECOND_LOOK: Duration = Duration::from_millis(25);

/// Pause between two looks at a device that is only perhaps leased, in milliseconds.
const SHORT_PAUSE: RangeInclusive<u64> = 2..=5;

/// Pause of who waits, in milliseconds. Drawn anew each time, so that none of several waiters is always the last, and
/// short against the time for which anybody holds a device.
const LONG_PAUSE: RangeInclusive<u64> = 20..=100;

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
    /// Whether the wrapper of this process has the device, and another program that it runs is using it.
    pub inside: bool,
}

/// What keeps devices from being leased for the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Another lease.
    Held(Busy),
    /// Programs without a lease.
    Foreign(Vec<Occupied>),
}

/// Devices could not be leased. None is held.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else holds one.
    #[error("{busy}; {}", way_out(*waited, busy.inside))]
    Held {
        /// The device and its holder.
        busy: Box<Busy>,
        /// For how long it was waited for.
        waited: Option<Duration>,
    },
    /// Somebody uses one without a lease.
    #[error("{}; {}", foreign::list(occupied), foreign_way_out(*waited))]
    Foreign {
        /// The devices and who uses them.
        occupied: Vec<Occupied>,
        /// For how long it was waited for.
        waited: Option<Duration>,
    },
    /// Whoever watched the waiting ended it.
    #[error("gave up waiting: {obstacle}")]
    GivenUp {
        /// What was waited for.
        obstacle: Box<Obstacle>,
    },
    /// A lock file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A lease of nothing protects nothing.
    #[error("a lease needs at least one device; name it with --devices")]
    NoDevice,
}

/// What comes of trying to lock without waiting: what was locked, or the lock that is busy.
type Attempt<'key, Locked> = Result<Result<Locked, LockName<'key>>, FileError>;

/// The leases of a machine.
#[derive(Debug)]
pub struct Manager {
    directory: LeaseDirectory,
    inherited: Inherited,
}

impl Manager {
    /// Opens the directory of lock files, which is made where there is none.
    ///
    /// # Errors
    /// If there is no such directory and none can be made.
    pub fn open(candidates: &Candidates) -> Result<Self, DirectoryError> {
        Ok(Self { directory: LeaseDirectory::open(candidates)?, inherited: Inherited::default() })
    }

    /// The same in a process that a wrapper may have given its locks: they are adopted, and not in the way.
    #[must_use]
    pub fn with_inherited(self, inherited: Inherited) -> Self {
        Self { inherited, ..self }
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
        watch: &mut dyn FnMut(&Obstacle) -> ControlFlow<()>,
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
            let name = match self.try_all(devices)? {
                Ok(locked) => return self.sign(devices, locked, who),
                Err(busy) => busy,
            };
            let waited = started.elapsed();
            let Some(left) = limit.checked_sub(waited).filter(|left| !left.is_zero()) else {
                let busy = Box::new(self.busy(name)?);
                return Err(LeaseError::Held { busy, waited: (policy != Policy::Fail).then_some(waited) });
            };
            if policy != Policy::Fail {
                let obstacle = Obstacle::Held(self.busy(name)?);
                if watch(&obstacle).is_break() {
                    return Err(LeaseError::GivenUp { obstacle: Box::new(obstacle) });
                }
            }
            thread::sleep(pause(&pauses).min(left));
        }
    }

    /// Gives a lease back. Returns the devices that programs still hold which it was lent to.
    pub fn release(&self, lease: Lease) -> Vec<DeviceKey> {
        let signed: Vec<(DeviceKey, usize, Holder)> = lease.signatures().collect();
        drop(lease);
        let still_ours = |(device, level, holder): &(DeviceKey, usize, Holder)| {
            let state = DeviceState::of_lock(&self.directory, LockName { device, level: *level });
            state.is_some_and(|(state, said)| state == State::Held && said.as_ref() == Some(holder))
        };
        let mut left: Vec<_> = signed.into_iter().filter(still_ours).collect();
        if !left.is_empty() {
            // Looking twice: who takes a device now has it for a moment before its file says so.
            thread::sleep(SECOND_LOOK);
            left.retain(still_ours);
        }
        left.into_iter().map(|(device, ..)| device).collect()
    }

    /// Locks all devices in sorted order, or none; then it returns the lock that is busy.
    fn try_all<'key>(&self, devices: &'key [DeviceKey]) -> Attempt<'key, Vec<(&'key DeviceKey, Locks)>> {
        let sorted: BTreeSet<&DeviceKey> = devices.iter().collect();
        let mut locked = Vec::new();
        for device in sorted {
            match self.try_one(device)? {
                Ok(locks) => locked.push((device, locks)),
                // Returning early gives back what was locked before.
                Err(busy) => return Ok(Err(busy)),
            }
        }
        Ok(Ok(locked))
    }

    /// Locks a device: its outermost lock, or the first one inside those that were handed to this process.
    fn try_one<'key>(&self, device: &'key DeviceKey) -> Attempt<'key, Locks> {
        let outer = self.inherited.adopt(&self.directory, device);
        let name = LockName { device, level: outer.len() };
        for _ in 0..MOST_ATTEMPTS {
            let file = self.directory.lock_file(name)?;
            match file.try_lock() {
                Ok(()) if self.directory.is_current(&file, name)? => return Ok(Ok(Locks::new(outer, file))),
                // Removed between opening and locking: others will lock another file.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Err(name)),
                Err(TryLockError::Error(source)) => return Err(self.directory.unusable(name, source)),
            }
        }
        Ok(Err(name))
    }

    /// Writes into each locked file who holds it.
    fn sign(&self, order: &[DeviceKey], locked: Vec<(&DeviceKey, Locks)>, who: &Who) -> Result<Lease, LeaseError> {
        let process = Process::this();
        let mut held = Vec::with_capacity(locked.len());
        for (device, locks) in locked {
            let epoch = self.last_epoch(device, &locks).saturating_add(1);
            let holder = Holder::new(who, &process, epoch);
            let name = LockName { device, level: locks.level() };
            holder::write(locks.own(), &holder).map_err(|source| self.directory.unusable(name, source))?;
            held.push(HeldDevice { key: device.clone(), locks: Some(locks), holder });
        }
        held.sort_by_key(|device| order.iter().position(|key| *key == device.key));
        Ok(Lease::new(held, self.inherited.clone()))
    }

    /// The largest epoch of any lease of a device, inside another or not. Nobody is inside of who asks, so the files
    /// there say who was the last; one that cannot be read is in the way of those who want that lock alone.
    fn last_epoch(&self, device: &DeviceKey, locks: &Locks) -> u64 {
        let epoch = |file: &File| holder::read(file).map_or(0, |earlier| earlier.epoch);
        let inner = (locks.level() + 1..=MOST_LEVELS).map_while(|level| {
            self.directory.existing_lock_file(LockName { device, level }, OFlags::RDONLY).ok().flatten()
        });
        locks.files().map(epoch).chain(inner.map(|file| epoch(&file))).max().unwrap_or(0)
    }

    fn busy(&self, name: LockName<'_>) -> Result<Busy, FileError> {
        let file = self.directory.existing_lock_file(name, OFlags::RDONLY)?;
        let holder = file.and_then(|file| holder::read(&file));
        Ok(Busy { device: name.device.clone(), holder, inside: name.level > 0 })
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.device.is_gpu() { "gpu" } else { "device" };
        let how = if self.inside { "is used inside its lease by" } else { "is leased by" };
        write!(formatter, "{kind} {} {how} ", self.device)?;
        match &self.holder {
            Some(holder) => write!(formatter, "{holder} since {}", plain(&holder.since)),
            None => formatter.write_str("a process that has not written its name into the lock file"),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(busy) => busy.fmt(formatter),
            Self::Foreign(occupied) => formatter.write_str(&foreign::list(occupied)),
        }
    }
}

fn way_out(waited: Option<Duration>, inside: bool) -> String {
    let free = if inside { "run one after the other" } else { "free it" };
    match waited {
        None => format!("pass --lease-wait 30m or {free}"),
        Some(waited) => format!("waited {}; pass a longer --lease-wait or {free}", in_words(waited)),
    }
}

fn foreign_way_out(waited: Option<Duration>) -> String {
    const OR_ELSE: &str = "end it, name another device, or share the device with --foreign share";
    match waited {
        None => format!("wait for it with --foreign wait, {OR_ELSE}"),
        Some(waited) => format!("waited {}; pass a longer --lease-wait, {OR_ELSE}", in_words(waited)),
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

/// A random time of at least and at most so many milliseconds.
pub(super) fn pause(milliseconds: &RangeInclusive<u64>) -> Duration {
    let (least, most) = (milliseconds.start(), milliseconds.end());
    let random = RandomState::new().hash_one(thread::current().id());
    Duration::from_millis(least + random % (most - least + 1))
}

#[cfg(test)]
mod tests;
