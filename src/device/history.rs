//! The latest samples of every device.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use super::{DeviceUuid, ProbeError, Snapshot};

/// Samples kept of each device.
pub const HISTORY_LENGTH: usize = 100;

/// One look at one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When.
    pub time: SystemTime,
    /// The device.
    pub uuid: DeviceUuid,
    /// What was seen.
    pub outcome: Result<Snapshot, ProbeError>,
}

/// The last [`HISTORY_LENGTH`] samples of each device, the oldest first.
#[derive(Debug, Clone, Default)]
pub struct History(BTreeMap<DeviceUuid, VecDeque<Sample>>);

impl History {
    /// Adds a sample, and forgets the oldest of its device if there are too many.
    pub fn push(&mut self, sample: Sample) {
        let samples = self.0.entry(sample.uuid.clone()).or_default();
        if samples.len() == HISTORY_LENGTH {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The samples of a device, the oldest first.
    pub fn of(&self, device: &DeviceUuid) -> impl DoubleEndedIterator<Item = &Sample> {
        self.0.get(device).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_device_keeps_its_last_hundred() {
        let mut history = History::default();
        let [one, other] = ["GPU-1", "GPU-2"].map(|uuid| DeviceUuid(uuid.to_owned()));
        let sample = |uuid: &DeviceUuid, second| Sample {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            uuid: uuid.clone(),
            outcome: Err(ProbeError::Unknown { uuid: uuid.clone() }),
        };
        history.push(sample(&other, 7));
        for second in 0..130 {
            history.push(sample(&one, second));
        }
        let times: Vec<u64> = history
            .of(&one)
            .map(|sample| sample.time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
            .collect();
        assert_eq!(times, (30..130).collect::<Vec<_>>());
        assert_eq!(history.of(&other).count(), 1);
    }
}
