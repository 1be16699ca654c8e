//! A thread that looks at every device at intervals, and reports what it sees and what changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::threshold::{Crossing, LevelWatch, Thresholds};
use super::{DeviceUuid, Probe, ProbeError, Snapshot};

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

/// Something that a sampler has to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampling {
    /// A device was looked at.
    Sampled(Sample),
    /// Its memory went over or under a threshold.
    Crossed(Crossing),
    /// It answered before and does not any more; others go on.
    Silent {
        /// The device.
        uuid: DeviceUuid,
        /// Why.
        error: ProbeError,
    },
    /// It answers again.
    Back {
        /// The device.
        uuid: DeviceUuid,
    },
}

/// Samples until it is dropped.
pub struct Sampler {
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

/// Of 100 parts of the time, one at most is spent on looking.
const MOST_WORK: u32 = 100;

/// A driver that takes long for an answer is asked seldom, but not never.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Sampler {
    /// Begins with a sample at once, and takes one every `interval`; `tell` is called on the sampler's thread. Where
    /// looking takes more than a hundredth of the interval, the pauses are longer.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        probe: Arc<dyn Probe>,
        interval: Duration,
        thresholds: Thresholds,
        mut tell: impl FnMut(&Sampling) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let mut watcher = Watcher { levels: LevelWatch::new(thresholds), silent: BTreeSet::new() };
        let work = move || {
            loop {
                let start = Instant::now();
                for device in probe.devices() {
                    let outcome = probe.snapshot(&device.uuid);
                    let sample = Sample { time: SystemTime::now(), uuid: device.uuid.clone(), outcome };
                    // The sample is told last, so that whoever counts samples has heard of all changes.
                    watcher.changes(&sample).iter().for_each(&mut tell);
                    tell(&Sampling::Sampled(sample));
                }
                let rest = pause(interval, start.elapsed());
                if stopped.recv_timeout(rest) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("device sampler".to_owned()).spawn(work)?;
        Ok(Self { thread: Some((stop, thread)) })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // A panic of the listener has been reported on its thread; there is nothing to give back.
            let _ = thread.join();
        }
    }
}

/// Time between the end of one look at all devices and the next.
fn pause(interval: Duration, spent: Duration) -> Duration {
    let rest = interval.saturating_sub(spent);
    rest.max(spent.saturating_mul(MOST_WORK - 1).min(LONGEST_PAUSE))
}

/// What was known of the devices, to tell changes from states.
struct Watcher {
    levels: LevelWatch,
    silent: BTreeSet<DeviceUuid>,
}

impl Watcher {
    fn changes(&mut self, sample: &Sample) -> Vec<Sampling> {
        let uuid = &sample.uuid;
        match &sample.outcome {
            Ok(snapshot) => {
                let back = self.silent.remove(uuid).then(|| Sampling::Back { uuid: uuid.clone() });
                let crossed = self.levels.update(uuid, snapshot.utilisation()).map(Sampling::Crossed);
                back.into_iter().chain(crossed).collect()
            }
            Err(error) if self.silent.insert(uuid.clone()) => {
                vec![Sampling::Silent { uuid: uuid.clone(), error: error.clone() }]
            }
            Err(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
