//! Devices that are ours until the value is dropped.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::FdFlags;

use super::foreign::LeaseNote;
use super::holder::{self, Holder, Requester};
use super::inherited::{INHERITED_VARIABLE, Inherited};
use super::level::Level;
use super::process::Process;
use super::{DeviceKey, process};

/// The right to use some devices, given back when it is dropped or when the process ends.
#[derive(Debug)]
pub struct Lease {
    devices: Vec<HeldDevice>,
    /// What a wrapper lent to this process, for commands that it is lent on to.
    inherited: Inherited,
    notes: Vec<LeaseNote>,
}

/// A device that is leased for at least `'lease`.
#[derive(Debug, Clone, Copy)]
pub struct LeasedDevice<'lease> {
    device: &'lease HeldDevice,
}

impl<'lease> LeasedDevice<'lease> {
    /// Which device it is.
    pub fn key(self) -> &'lease DeviceKey {
        &self.device.key
    }

    /// The number of this lease of the device: larger than that of every earlier one.
    pub fn epoch(self) -> u64 {
        self.device.holder.epoch
    }
}

impl Lease {
    pub(super) fn new(devices: Vec<HeldDevice>, inherited: Inherited) -> Self {
        Self { devices, inherited, notes: Vec::new() }
    }

    /// Devices that need no agreement, for the operating system shares them among all processes: the processor. There is
    /// no lock and no epoch, so that it never fails and nobody waits.
    pub fn shared(devices: impl IntoIterator<Item = DeviceKey>) -> Self {
        let nobody = Requester { run: String::new(), model: None };
        let holder = Holder::new(&nobody, &Process::this(), 0);
        let held = |key| HeldDevice { key, locks: None, holder: holder.clone() };
        Self::new(devices.into_iter().map(held).collect(), Inherited::default())
    }

    /// The devices, in the order in which they were asked for.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = LeasedDevice<'_>> {
        self.devices.iter().map(|device| LeasedDevice { device })
    }

    /// What the user should know of the devices: that they are shared, or that nobody knows.
    pub fn notes(&self) -> &[LeaseNote] {
        &self.notes
    }

    pub(super) fn add_notes(&mut self, notes: Vec<LeaseNote>) {
        self.notes.extend(notes);
    }

    /// What is written into which lock.
    pub(super) fn signatures(&self) -> impl Iterator<Item = (DeviceKey, Level, Holder)> {
        let signature =
            |device: &HeldDevice| Some((device.key.clone(), device.locks.as_ref()?.level(), device.holder.clone()));
        self.devices.iter().filter_map(signature)
    }

    /// Lets a command hold the devices as well: from its start until it and every process that inherits from it has
    /// ended, also if this process is killed meanwhile. A command of this program works under this lease.
    ///
    /// From now on dropping the lease only ends this process's part of it.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn lend_to(&mut self, command: &mut Command) -> io::Result<()> {
        let mut copies = Vec::new();
        let mut inherited = self.inherited.clone();
        for device in &self.devices {
            let Some(locks) = &device.locks else { continue };
            let own = locks.own.try_clone()?;
            let outer = locks.outer.as_ref().map(File::try_clone).transpose()?;
            inherited.insert(device.key.clone(), outer.as_ref().unwrap_or(&own).as_raw_fd());
            copies.extend(outer.into_iter().chain([own]));
        }
        command.env(INHERITED_VARIABLE, inherited.to_string());
        let keep_open = move || copies.iter().try_for_each(|file| Ok(rustix::io::fcntl_setfd(file, FdFlags::empty())?));
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes system calls
        // (fcntl) on descriptors that it owns, and neither allocates nor locks; nor does the conversion of an errno.
        unsafe {
            command.pre_exec(keep_open);
        }
        self.devices.iter_mut().filter_map(|device| device.locks.as_mut()).for_each(|locks| locks.lent = true);
        Ok(())
    }

    /// Tells others that this process, and not the one that took the lease, is the one to look at.
    ///
    /// # Errors
    /// If a lock file cannot be written; the lease is not touched by that.
    pub fn name_process(&mut self, pid: u32) -> io::Result<()> {
        let start_ticks = process::start_ticks(pid);
        self.devices.iter_mut().try_for_each(|device| {
            (device.holder.pid, device.holder.pid_start_ticks) = (pid, start_ticks);
            device.locks.as_ref().map_or(Ok(()), |locks| holder::write(locks.own(), &device.holder))
        })
    }
}

/// A device whose lock says that it is ours.
#[derive(Debug)]
pub(super) struct HeldDevice {
    pub(super) key: DeviceKey,
    /// `None` for what needs no lock.
    pub(super) locks: Option<Locks>,
    pub(super) holder: Holder,
}

/// The locked lock files of a device.
#[derive(Debug)]
pub(super) struct Locks {
    /// That of a wrapper. It is only closed: what it locks is not ours to give back.
    outer: Option<File>,
    own: File,
    /// Whether a command shares our own, so that only closing it is right.
    lent: bool,
}

impl Locks {
    pub(super) fn new(outer: Option<File>, own: File) -> Self {
        Self { outer, own, lent: false }
    }

    /// The lock that this process took.
    pub(super) fn own(&self) -> &File {
        &self.own
    }

    /// The level of that lock.
    pub(super) fn level(&self) -> Level {
        if self.outer.is_some() { Level::Inner } else { Level::Outer }
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        if !self.lent {
            // Closing would do, but not at once while another thread is between fork and exec with a copy of the
            // descriptor. If it fails, closing follows in any case.
            let _ = self.own.unlock();
        }
    }
}
