//! Who holds what, without taking anything.

use std::fs::TryLockError;

use rustix::fs::OFlags;
use serde::Serialize;

use super::holder::{self, Holder};
use super::level::LockName;
use super::{DeviceKey, DirectoryError, FileError, LeaseDirectory};

/// A device that was leased at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceState {
    /// The device.
    pub device: DeviceKey,
    /// Whether it can be had.
    pub state: State,
    /// Who holds it; `None` if nobody does, or if its lock file does not say.
    pub holder: Option<Holder>,
    /// The program that uses it under the holder's lease, if there is one.
    pub inside: Vec<Holder>,
    /// How often it has been taken.
    pub epoch: Option<u64>,
    /// Why its state is unknown.
    pub error: Option<String>,
}

/// What the lock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Somebody has it.
    Held,
    /// Nobody has it, whatever is written in the file.
    Free,
    /// The lock cannot be asked.
    Unknown,
}

/// Asks the lock of every device that has one.
///
/// # Errors
/// If the directory cannot be read. A lock file that cannot be used is a device whose state is unknown.
pub fn survey(directory: &LeaseDirectory) -> Result<Vec<DeviceState>, DirectoryError> {
    Ok(directory.devices()?.into_iter().filter_map(|device| DeviceState::of(directory, device)).collect())
}

impl DeviceState {
    /// Asks the lock of one device. `None` if there is no lock file.
    pub fn of(directory: &LeaseDirectory, device: DeviceKey) -> Option<Self> {
        let (state, said) = match state(directory, LockName::outer(&device)) {
            Ok(found) => found?,
            Err(error) => {
                let error = Some(error.to_string());
                return Some(Self {
                    device,
                    state: State::Unknown,
                    holder: None,
                    inside: Vec::new(),
                    epoch: None,
                    error,
                });
            }
        };
        let inner = Self::of_lock(directory, LockName::inner(&device));
        let (inner_state, inner_said) = inner.unwrap_or((State::Free, None));
        let epoch = [&said, &inner_said].into_iter().flatten().map(|holder| holder.epoch).max();
        // A lock inside one that is free is nobody's.
        let inside = inner_said.filter(|_| [state, inner_state] == [State::Held; 2]).into_iter().collect();
        Some(Self { device, state, holder: said.filter(|_| state == State::Held), inside, epoch, error: None })
    }

    /// Asks one lock. `None` if it is not there or cannot be asked.
    pub(super) fn of_lock(directory: &LeaseDirectory, name: LockName<'_>) -> Option<(State, Option<Holder>)> {
        state(directory, name).ok().flatten()
    }
}

/// A shared lock is enough to ask, and does not get into the way of others who ask. Who wants the device meanwhile
/// looks twice.
fn state(directory: &LeaseDirectory, name: LockName<'_>) -> Result<Option<(State, Option<Holder>)>, FileError> {
    let Some(file) = directory.existing_lock_file(name, OFlags::RDONLY)? else { return Ok(None) };
    let state = match file.try_lock_shared() {
        Ok(()) => {
            file.unlock().map_err(|source| directory.unusable(name, source))?;
            State::Free
        }
        Err(TryLockError::WouldBlock) => State::Held,
        Err(TryLockError::Error(source)) => return Err(directory.unusable(name, source)),
    };
    Ok(Some((state, holder::read(&file))))
}
