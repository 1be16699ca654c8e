//! Who watches the devices while a turn lasts: thresholds, intruders, devices that are lost.
//!
//! A sampler looks at intervals on its own thread; a second thread of the turn's scope makes events of what it sees, so
//! that observers need not outlive the turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};

use super::held::Held;
use crate::batch::{Change, Controllers, Pressure};
use crate::device::{
    Crossing, Detection, DeviceInfo, DeviceUuid, Level, Probe, ProbeError, Process, Sample, Sampler, Sampling,
    Snapshot, Thresholds,
};
use crate::telemetry::event::{Event, Mitigation, Observer};

/// Between two looks: often enough to react before a batch or two are over, and, with a look of a tenth of a
/// millisecond, far below a hundredth of the time.
const INTERVAL: Duration = Duration::from_millis(100);

/// A model whose batches shrink on a device whose memory runs short.
pub(super) struct Watched<'a> {
    pub model: &'a str,
    pub controllers: &'a Mutex<Controllers>,
}

/// Watches the GPUs among the held devices until what it returns is dropped; nothing, where there is none.
pub(super) fn watch<'scope>(
    scope: &'scope Scope<'scope, '_>,
    detection: &Arc<Detection>,
    thresholds: Thresholds,
    held: &'scope Held<'_>,
    models: &'scope [Watched<'scope>],
    observer: &'scope dyn Observer,
) -> std::io::Result<Option<Sampler>> {
    let gpus: Vec<DeviceUuid> =
        held.places().iter().filter(|place| place.is_gpu()).map(|place| place.uuid.clone()).collect();
    if gpus.is_empty() {
        return Ok(None);
    }
    let devices = detection.devices().iter().filter(|device| gpus.contains(&device.uuid)).cloned().collect();
    let probe = Part { detection: Arc::clone(detection), devices };
    let (sender, seen) = unbounded();
    let sampler = Sampler::start(Arc::new(probe), INTERVAL, thresholds, move |sampling| {
        // Nobody listens any more once the turn is over.
        let _ = sender.send(sampling.clone());
    })?;
    let known =
        held.places().iter().filter_map(|place| Some((place.uuid.clone(), pids(held.before(place)?)))).collect();
    let watcher = Watcher { held, models, observer, known };
    scope.spawn(move || watcher.run(&seen));
    Ok(Some(sampler))
}

/// Some of the devices that were detected.
struct Part {
    detection: Arc<Detection>,
    devices: Vec<DeviceInfo>,
}

impl Probe for Part {
    fn devices(&self) -> &[DeviceInfo] {
        &self.devices
    }

    fn snapshot(&self, device: &DeviceUuid) -> Result<Snapshot, ProbeError> {
        self.detection.snapshot(device)
    }
}

struct Watcher<'a, 'held> {
    held: &'a Held<'held>,
    models: &'a [Watched<'a>],
    observer: &'a dyn Observer,
    /// Processes that were seen on each device.
    known: BTreeMap<DeviceUuid, BTreeSet<u32>>,
}

impl Watcher<'_, '_> {
    fn run(mut self, seen: &Receiver<Sampling>) {
        for sampling in seen {
            match sampling {
                Sampling::Sampled(Sample { uuid, outcome: Ok(snapshot), .. }) => {
                    self.held.see(&uuid, &snapshot);
                    self.tell_controllers(&uuid, &snapshot);
                    self.look_for_intruders(&uuid, &snapshot);
                }
                Sampling::Sampled(_) => {}
                Sampling::Crossed(crossing) => self.crossed(&crossing),
                Sampling::Silent { uuid, error } => self.silent(&uuid, &error),
                Sampling::Back { uuid } => self.observer.observe(&Event::DeviceBack { device: self.label(&uuid) }),
            }
        }
    }

    fn label(&self, uuid: &DeviceUuid) -> String {
        let place = self.held.places().iter().find(|place| place.uuid == *uuid);
        place.map_or_else(|| uuid.to_string(), |place| place.label.clone())
    }

    fn look_for_intruders(&mut self, uuid: &DeviceUuid, snapshot: &Snapshot) {
        let known = self.known.entry(uuid.clone()).or_default();
        let new: Vec<String> =
            snapshot.foreign(std::process::id()).filter(|process| known.insert(process.pid)).map(describe).collect();
        if !new.is_empty() {
            self.observer.observe(&Event::Intrusion { device: self.label(uuid), processes: new });
        }
    }

    /// What others hold on a device is no room for batches.
    fn tell_controllers(&self, uuid: &DeviceUuid, snapshot: &Snapshot) {
        let Some((total, used)) = snapshot.total.zip(snapshot.taken()) else { return };
        let (device, own) = (self.label(uuid), snapshot.own().map(|own| own.0));
        for Watched { controllers, .. } in self.models {
            let mut controllers = controllers.lock().unwrap_or_else(PoisonError::into_inner);
            controllers.of(&device).into_iter().for_each(|controller| controller.see(total.0, used.0, own));
        }
    }

    fn crossed(&self, crossing: &Crossing) {
        let device = self.label(&crossing.uuid);
        self.observer.observe(&Event::MemoryLevel {
            device: device.clone(),
            from: crossing.from.as_str(),
            to: crossing.to.as_str(),
            utilisation: crossing.utilisation,
        });
        let pressure = match crossing.to {
            Level::Normal => Pressure::None,
            Level::Warning => Pressure::Warning,
            Level::Critical => Pressure::Critical,
        };
        for Watched { model, controllers } in self.models {
            let mut controllers = controllers.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = controllers.of(&device).and_then(|controller| controller.feel(pressure));
            drop(controllers);
            if let Some(Change { limits, .. }) = changed {
                let action = if pressure == Pressure::None { "grow_batch" } else { "shrink_batch" };
                self.observer.observe(&Event::Mitigation(Mitigation {
                    model: (*model).to_owned(),
                    action: action.to_owned(),
                    reason: format!("{:.0} % of its memory are taken", crossing.utilisation * 100.0),
                    device: device.clone(),
                    batch_tokens: limits.tokens,
                    batch_size: limits.sequences,
                }));
            }
        }
    }

    fn silent(&self, uuid: &DeviceUuid, error: &ProbeError) {
        // A driver that does not answer once may be busy; only what it says is lost has its work done by others.
        if let ProbeError::Lost { .. } = error {
            if self.held.lost().note(uuid) {
                self.observer.observe(&Event::DeviceLost { device: self.label(uuid), reason: error.to_string() });
            }
        } else {
            let note = format!("{} does not answer: {error}", self.label(uuid));
            self.observer.observe(&Event::DeviceNote { note });
        }
    }
}

fn pids(snapshot: &Snapshot) -> BTreeSet<u32> {
    snapshot.processes.iter().flatten().map(|process| process.pid).collect()
}

/// A process in words: its program and number, and the memory that it holds.
fn describe(process: &Process) -> String {
    let name = process.name.as_deref().unwrap_or("unknown program");
    let used = process.used.map(|used| format!(", {used}")).unwrap_or_default();
    format!("{} ({name}{used})", process.pid)
}
