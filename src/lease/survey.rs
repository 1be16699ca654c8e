//! Who holds what, without taking anything.

use std::fs::TryLockError;

use rustix::fs::OFlags;
use serde::Serialize;

use super::holder::{self, Holder};
use super::level::{LockName, MOST_LEVELS};
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
    /// Programs that use it under the holder's lease, each inside the one before.
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
    Ok(directory.devices()?.into_iter().filter_map(|device| look(directory, device)).collect())
}

impl DeviceState {
    /// Asks the lock of one device.
    pub fn of(directory: &LeaseDirectory, device: DeviceKey) -> Option<Self> {
        look(directory, device)
    }

    /// Asks one lock. `None` if it is not there or cannot be asked.
    pub(super) fn of_lock(directory: &LeaseDirectory, name: LockName<'_>) -> Option<(State, Option<Holder>)> {
        state(directory, name).ok().flatten()
    }
}

/// `None` if the lock file has gone meanwhile.
fn look(directory: &LeaseDirectory, device: DeviceKey) -> Option<DeviceState> {
    let state = match state(directory, LockName::outermost(&device)) {
        Ok(Some((state, said))) => {
            let (inside, inner_epoch) = look_inside(directory, &device, state);
            DeviceState {
                device,
                state,
                epoch: said.as_ref().map(|holder| holder.epoch).max(inner_epoch),
                holder: said.filter(|_| state == State::Held),
                inside,
                error: None,
            }
        }
        Ok(None) => return None,
        Err(error) => {
            let error = Some(error.to_string());
            DeviceState { device, state: State::Unknown, holder: None, inside: Vec::new(), epoch: None, error }
        }
    };
    Some(state)
}

/// Who holds the locks inside the outermost one, which is in this state, and the largest epoch there.
fn look_inside(directory: &LeaseDirectory, device: &DeviceKey, outermost: State) -> (Vec<Holder>, Option<u64>) {
    let (mut inside, mut epoch, mut around) = (Vec::new(), None, outermost);
    for level in 1..=MOST_LEVELS {
        let Some((state, said)) = DeviceState::of_lock(directory, LockName { device, level }) else { break };
        epoch = epoch.max(said.as_ref().map(|holder| holder.epoch));
        // What is held inside a lock that is free is none of ours.
        around = if around == State::Held { state } else { State::Free };
        inside.extend(said.filter(|_| around == State::Held));
    }
    (inside, epoch)
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
