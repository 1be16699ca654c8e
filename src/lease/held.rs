//! Devices that are ours until the value is dropped.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::FdFlags;

use super::holder::{self, Holder};
use super::process::Process;
use super::{DeviceKey, Who, process};

/// The right to use some devices, given back when it is dropped or when the process ends.
#[derive(Debug)]
pub struct Lease {
    devices: Vec<HeldDevice>,
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
    pub(super) fn new(devices: Vec<HeldDevice>) -> Self {
        Self { devices }
    }

    /// Devices that need no agreement, for the operating system shares them among all processes: the processor. There is
    /// no lock and no epoch, so that it never fails and nobody waits.
    pub fn shared(devices: impl IntoIterator<Item = DeviceKey>) -> Self {
        let who = Who { run: String::new(), model: None };
        let holder = Holder::new(&who, &Process::this(), 0);
        let held = |key| HeldDevice { key, file: None, holder: holder.clone(), lent: false };
        Self { devices: devices.into_iter().map(held).collect() }
    }

    /// The devices, in the order in which they were asked for.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = LeasedDevice<'_>> {
        self.devices.iter().map(|device| LeasedDevice { device })
    }

    /// Lets a command hold the devices as well: from its start until it and every process that inherits from it has
    /// ended, also if this process is killed meanwhile.
    ///
    /// From now on dropping the lease only ends this process's part of it.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn lend_to(&mut self, command: &mut Command) -> io::Result<()> {
        let files = self.devices.iter().filter_map(|device| device.file.as_ref());
        let copies: Vec<File> = files.map(File::try_clone).collect::<io::Result<_>>()?;
        let keep_open = move || copies.iter().try_for_each(|file| Ok(rustix::io::fcntl_setfd(file, FdFlags::empty())?));
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes system calls
        // (fcntl) on descriptors that it owns, and neither allocates nor locks; nor does the conversion of an errno.
        unsafe {
            command.pre_exec(keep_open);
        }
        for device in &mut self.devices {
            device.lent = true;
        }
        Ok(())
    }

    /// Tells others that this process, and not the one that took the lease, is the one to look at.
    ///
    /// # Errors
    /// If a lock file cannot be written; the lease is not touched by that.
    pub fn name_process(&mut self, pid: u32) -> io::Result<()> {
        self.devices.iter_mut().try_for_each(|device| {
            device.holder.pid = pid;
            device.holder.pid_start_ticks = process::start_ticks(pid);
            device.file.as_ref().map_or(Ok(()), |file| holder::write(file, &device.holder))
        })
    }
}

/// A locked lock file.
#[derive(Debug)]
pub(super) struct HeldDevice {
    pub(super) key: DeviceKey,
    pub(super) file: Option<File>,
    pub(super) holder: Holder,
    /// Whether a command shares the lock, so that only closing the file is right.
    pub(super) lent: bool,
}

impl Drop for HeldDevice {
    fn drop(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|_| !self.lent) {
            // Closing would do, but not at once while another thread is between fork and exec with a copy of the
            // descriptor. If it fails, closing follows in any case.
            let _ = file.unlock();
        }
    }
}
