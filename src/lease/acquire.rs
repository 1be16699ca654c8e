//! Taking devices: all or none, at once or after waiting.

use std::collections::BTreeSet;
use std::fs::TryLockError;
use std::ops::{ControlFlow, RangeInclusive};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::backoff::{FOREIGN_PAUSE, LONG_PAUSE, SHORT_PAUSE, pause};
use super::directory::MOST_ATTEMPTS;
use super::error::{Busy, LeaseError, Obstacle};
use super::foreign::{ForeignUse, LeaseNote, look};
use super::held::{HeldDevice, Lease, Locks};
use super::holder::{self, Holder, Requester};
use super::level::{Level, LockName};
use super::process::Process;
use super::{Candidates, DeviceKey, DeviceState, DirectoryError, FileError, Inherited, LeaseDirectory, Policy, State};
use crate::device::Probe;
use crate::domain::Foreign;

/// Others hold a lock for some microseconds when they ask for its state or fail to get a second device. Only what is
/// busy for longer is leased.
const SECOND_LOOK: Duration = Duration::from_millis(25);

/// The driver shows a program that has ended until it has cleaned up after it, and one that has released its lease
/// until it has dropped its CUDA context. Only a process that stays for longer is foreign.
const GRACE: Duration = Duration::from_secs(2);

/// Pause between two looks within that time.
const GRACE_PAUSE: Duration = Duration::from_millis(100);

/// How devices are asked for.
pub struct Request<'a> {
    /// What to do if one is leased already. Its time is for both kinds of waiting.
    pub policy: Policy,
    /// What to do about programs that compute on a GPU without a lease.
    pub foreign: Foreign,
    /// Shows those programs; without it nobody looks for them.
    pub probe: Option<&'a dyn Probe>,
    /// Who asks.
    pub requester: &'a Requester,
    /// Learns before every pause what is waited for, and may end the wait.
    pub watch: &'a mut dyn FnMut(&Obstacle) -> ControlFlow<()>,
}

impl Request<'_> {
    fn pause(&mut self, obstacle: Obstacle, range: &RangeInclusive<u64>, left: Duration) -> Result<(), LeaseError> {
        if (self.watch)(&obstacle).is_break() {
            return Err(LeaseError::GivenUp { obstacle: Box::new(obstacle) });
        }
        thread::sleep(pause(range).min(left));
        Ok(())
    }

    /// Looks for foreign processes until there are none, or until those that are just ending would have ended.
    fn foreign_use(&self, devices: &[DeviceKey]) -> ForeignUse {
        let Some(probe) = self.probe else { return ForeignUse::default() };
        let started = Instant::now();
        loop {
            let seen = look(probe, devices, std::process::id());
            if seen.occupied.is_empty() || self.foreign == Foreign::Share || started.elapsed() >= GRACE {
                return seen;
            }
            thread::sleep(GRACE_PAUSE);
        }
    }
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

    /// The same in a process that a wrapper may have given its locks, which are adopted.
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
    /// Foreign processes are looked for when the locks are held, so that none with a lease is among them. The locks are
    /// released while it waits for one, so that others need not wait as well.
    ///
    /// # Errors
    /// If a device stays leased or used by others, its lock file cannot be used, or the wait is ended.
    pub fn acquire(&self, devices: &[DeviceKey], mut request: Request<'_>) -> Result<Lease, LeaseError> {
        let started = Instant::now();
        loop {
            let mut lease = self.lock(devices, &mut request, started)?;
            let ForeignUse { occupied, unseen } = request.foreign_use(devices);
            if occupied.is_empty() || request.foreign == Foreign::Share {
                let shared = occupied.into_iter().map(LeaseNote::Shared);
                lease.add_notes(shared.chain(unseen).collect());
                return Ok(lease);
            }
            drop(lease);
            let waited = started.elapsed();
            let left = match request.policy.after(waited) {
                Policy::Wait(left) if request.foreign == Foreign::Wait => left,
                _ => Duration::ZERO,
            };
            if left.is_zero() {
                let waited = (request.foreign == Foreign::Wait).then_some(waited);
                return Err(LeaseError::Foreign { occupied, waited });
            }
            request.pause(Obstacle::Foreign(occupied), &FOREIGN_PAUSE, left)?;
        }
    }

    /// Locks all devices, waiting as the request says. `started` is when the whole request began.
    fn lock(&self, devices: &[DeviceKey], request: &mut Request<'_>, started: Instant) -> Result<Lease, LeaseError> {
        if devices.is_empty() {
            return Err(LeaseError::NoDevice);
        }
        let began = Instant::now();
        let limit = match request.policy.after(started.elapsed()) {
            Policy::Fail => SECOND_LOOK,
            Policy::Wait(limit) => limit.max(SECOND_LOOK),
        };
        loop {
            let name = match self.try_all(devices)? {
                Ok(locked) => return self.sign(devices, locked, request.requester),
                Err(busy) => busy,
            };
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                let waited = (request.policy != Policy::Fail).then(|| started.elapsed());
                return Err(LeaseError::Held { busy: Box::new(self.busy(name)?), waited });
            }
            match request.policy {
                Policy::Fail => thread::sleep(pause(&SHORT_PAUSE).min(left)),
                Policy::Wait(_) => request.pause(Obstacle::Held(self.busy(name)?), &LONG_PAUSE, left)?,
            }
        }
    }

    /// Gives a lease back. Returns the devices that programs still hold which it was lent to.
    pub fn release(&self, lease: Lease) -> Vec<DeviceKey> {
        let signed: Vec<(DeviceKey, Level, Holder)> = lease.signatures().collect();
        drop(lease);
        let still_ours = |(device, level, holder): &(DeviceKey, Level, Holder)| {
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

    /// Locks a device: its outer lock, or the inner one if the outer was handed to this process.
    fn try_one<'key>(&self, device: &'key DeviceKey) -> Attempt<'key, Locks> {
        let outer = self.inherited.adopt(&self.directory, device);
        let name = if outer.is_some() { LockName::inner(device) } else { LockName::outer(device) };
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
    fn sign(
        &self,
        order: &[DeviceKey],
        locked: Vec<(&DeviceKey, Locks)>,
        requester: &Requester,
    ) -> Result<Lease, LeaseError> {
        let process = Process::this();
        let mut held = Vec::with_capacity(locked.len());
        for (device, locks) in locked {
            let names = [LockName::outer(device), LockName::inner(device)];
            let last = names.into_iter().filter_map(|name| self.holder(name).ok()?).map(|holder| holder.epoch).max();
            let holder = Holder::new(requester, &process, last.unwrap_or(0).saturating_add(1));
            let name = LockName { device, level: locks.level() };
            holder::write(locks.own(), &holder).map_err(|source| self.directory.unusable(name, source))?;
            held.push(HeldDevice { key: device.clone(), locks: Some(locks), holder });
        }
        held.sort_by_key(|device| order.iter().position(|key| *key == device.key));
        Ok(Lease::new(held, self.inherited.clone()))
    }

    /// What a lock file says, if it is there and can be read.
    fn holder(&self, name: LockName<'_>) -> Result<Option<Holder>, FileError> {
        let file = self.directory.existing_lock_file(name, OFlags::RDONLY)?;
        Ok(file.and_then(|file| holder::read(&file)))
    }

    fn busy(&self, name: LockName<'_>) -> Result<Busy, FileError> {
        let inside = name.level == Level::Inner;
        Ok(Busy { device: name.device.clone(), holder: self.holder(name)?, inside })
    }
}

#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod tests;
