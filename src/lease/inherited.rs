//! Locks that a wrapper of this process took for it.
//!
//! `lease run` starts a command with open descriptors of its outer locks and says in a variable which ones they are
//! (`GPU-…=5,cpu-0=6`). A command of this program adopts them instead of being refused by its own wrapper.
//!
//! A variable can be stale or wrong: the descriptor may be closed, or something else by now. So it is only a hint where
//! to look, and a descriptor counts if the kernel says that it holds the lock.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::FdFlags;

use super::level::LockName;
use super::{DeviceKey, LeaseDirectory};

/// The variable that tells a command which of its descriptors are locks.
pub const INHERITED_VARIABLE: &str = "EMBED_LEASE_INHERITED";

/// The first descriptor that is not standard input, output or error.
const FIRST_OTHER: RawFd = 3;

/// Descriptors that may be the outer locks of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inherited(BTreeMap<DeviceKey, RawFd>);

impl Inherited {
    /// Reads [`INHERITED_VARIABLE`]. What cannot be read is passed over: it gives nothing.
    pub fn parse(text: &str) -> Self {
        let entry = |entry: &str| {
            let (key, number) = entry.split_once('=')?;
            Some((DeviceKey::new(key).ok()?, number.parse().ok()?))
        };
        Self(text.split(',').filter_map(entry).collect())
    }

    /// For a command that is given this descriptor as well.
    pub(super) fn insert(&mut self, device: DeviceKey, descriptor: RawFd) {
        self.0.insert(device, descriptor);
    }

    /// The lock of a device that was handed to this process, if it holds.
    pub(super) fn adopt(&self, directory: &LeaseDirectory, device: &DeviceKey) -> Option<File> {
        let file = inherited_file(*self.0.get(device)?)?;
        let is_current = matches!(directory.is_current(&file, LockName::outer(device)), Ok(true));
        // On an open file that holds the lock already this succeeds and changes nothing; on one that does not it
        // succeeds only if nobody else holds it. Either way it is held afterwards.
        (is_current && file.try_lock().is_ok()).then_some(file)
    }
}

impl fmt::Display for Inherited {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<String> = self.0.iter().map(|(key, number)| format!("{key}={number}")).collect();
        formatter.write_str(&entries.join(","))
    }
}

/// A descriptor of our own for the open file behind a number, if there is one and it came from the process that
/// started this one.
fn inherited_file(number: RawFd) -> Option<File> {
    if number < FIRST_OTHER {
        return None;
    }
    // SAFETY: the number is not -1. It may be closed or belong to another part of this process: it is borrowed only to
    // ask the kernel for its flags and for a duplicate, which fails for a closed one and never changes the original.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(borrowed).ok()?;
    // What this process opened itself is closed on exec and was not inherited. Otherwise a stale number could be that
    // of a lock that another part of this process holds, and be taken for a lease of one's own.
    if flags.contains(FdFlags::CLOEXEC) {
        return None;
    }
    rustix::io::fcntl_dupfd_cloexec(borrowed, FIRST_OTHER).ok().map(File::from)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use tempfile::TempDir;

    use super::*;
    use crate::lease::Candidates;

    #[test]
    fn the_variable_is_read_as_it_is_written() {
        let text = "GPU-ab=5,cpu-0=6";
        assert_eq!(Inherited::parse(text).to_string(), text);
    }

    #[test]
    fn what_cannot_be_read_gives_nothing() {
        for text in
            ["", "cpu-0", "cpu-0=", "cpu-0=x", "cpu-0=5:", "cpu-0=5:6", "=5", "a/b=5", "cpu-0=99999999999", ",,"]
        {
            assert_eq!(Inherited::parse(text), Inherited::default(), "{text:?}");
        }
        assert_eq!(Inherited::parse("x=,cpu-0=5").to_string(), "cpu-0=5");
    }

    /// Whether the outer lock is adopted when it is behind `file`, with these flags.
    #[track_caller]
    fn check(directory: &LeaseDirectory, file: &File, flags: FdFlags, expected: bool) {
        rustix::io::fcntl_setfd(file, flags).unwrap();
        let inherited = Inherited::parse(&format!("cpu-0={}", file.as_raw_fd()));
        assert_eq!(inherited.adopt(directory, &DeviceKey::of_slot(0)).is_some(), expected);
        rustix::io::fcntl_setfd(file.as_fd(), FdFlags::CLOEXEC).unwrap();
    }

    #[test]
    fn only_an_inherited_descriptor_of_the_current_lock_file_that_holds_is_adopted() {
        let root = TempDir::new().unwrap();
        let directory = LeaseDirectory::open(&Candidates::new(Some(root.path().to_owned()), None)).unwrap();
        let device = DeviceKey::of_slot(0);
        let open = || directory.lock_file(LockName::outer(&device)).unwrap();
        let (holder, other) = (open(), open());
        holder.try_lock().unwrap();
        check(&directory, &holder, FdFlags::empty(), true);
        assert!(other.try_lock().is_err(), "closing what was adopted has freed the lock");
        check(&directory, &holder, FdFlags::CLOEXEC, false);
        check(&directory, &other, FdFlags::empty(), false);
        check(&directory, &tempfile::tempfile().unwrap(), FdFlags::empty(), false);
        std::fs::remove_file(root.path().join("cpu-0.lock")).unwrap();
        check(&directory, &holder, FdFlags::empty(), false);
    }

    #[test]
    fn numbers_that_are_no_inherited_file_are_harmless() {
        for number in [RawFd::MIN, -1, 0, 1, 2, RawFd::MAX] {
            assert!(inherited_file(number).is_none(), "{number}");
        }
    }
}
