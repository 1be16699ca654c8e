//! The devices of a turn from the moment they are held to the moment they are handed on: what their memory was before,
//! what it is afterwards, and whether it came back.
//!
//! Everything that must happen at the end of a turn happens in `Drop`, and so on every path: success, error, panic.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::gpus::Gpus;
use super::lost::LostFlags;
use super::slot::DeviceSlot;
use crate::device::{DeviceUuid, Probe, ProbeError, Snapshot};
use crate::domain::Bytes;
use crate::telemetry::event::{Event, LeaseSample, Observer, VramSample};

/// What may stay on a device when a model is gone: the context of CUDA and the workspaces of its libraries are given back
/// only when the process ends.
const TOLERANCE: Bytes = Bytes::mib(512);

/// Drivers free memory a little after they are asked to. Whoever still has not got it back then has lost it.
const SETTLING_TIME: Duration = Duration::from_secs(3);
const SETTLING_PAUSE: Duration = Duration::from_millis(20);

/// Devices between `acquire` and `release`.
pub(super) struct Held<'a> {
    models: Vec<String>,
    places: Vec<DeviceSlot>,
    before: BTreeMap<u32, Snapshot>,
    peaks: Mutex<BTreeMap<u32, VramSample>>,
    /// Models that stay on the devices are no leak.
    kept: Mutex<Bytes>,
    lost: LostFlags,
    probe: &'a dyn Probe,
    gpus: &'a Gpus,
    observer: &'a dyn Observer,
}

impl<'a> Held<'a> {
    /// Looks at the devices, and tells that they are held. A device that does not answer is told of and left out.
    pub(super) fn begin(
        models: Vec<String>,
        places: &[DeviceSlot],
        probe: &'a dyn Probe,
        gpus: &'a Gpus,
        observer: &'a dyn Observer,
    ) -> Self {
        let (mut answering, mut before) = (Vec::new(), BTreeMap::new());
        for place in places {
            match (place.id, probe.snapshot(&place.uuid)) {
                (Some(id), Ok(snapshot)) => drop(before.insert(id, gpus.complete(place, snapshot))),
                (Some(_), Err(error @ ProbeError::Lost { .. })) => {
                    let (device, reason) = (place.label.clone(), error.to_string());
                    observer.observe(&Event::DeviceLost { device, reason });
                    continue;
                }
                _ => {}
            }
            answering.push(place.clone());
        }
        let (peaks, kept, lost) = (Mutex::default(), Mutex::default(), LostFlags::new(&answering));
        let held = Self { models, places: answering, before, peaks, kept, lost, probe, gpus, observer };
        observer.observe(&Event::Acquire(held.sample(&held.before)));
        held
    }

    /// The devices that answer.
    pub(super) fn places(&self) -> &[DeviceSlot] {
        &self.places
    }

    /// Which of them are lost.
    pub(super) fn lost(&self) -> &LostFlags {
        &self.lost
    }

    /// What was seen of a device before anything was loaded.
    pub(super) fn before(&self, place: &DeviceSlot) -> Option<&Snapshot> {
        self.before.get(&place.id?)
    }

    /// Takes note of a device's memory for its peak.
    pub(super) fn see(&self, uuid: &DeviceUuid, snapshot: &Snapshot) {
        let Some(place) = self.places.iter().find(|place| place.uuid == *uuid) else { return };
        let Some(id) = place.id else { return };
        let sample = vram(&self.gpus.complete(place, snapshot.clone()));
        let mut peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        let peak = peaks.entry(id).or_insert(sample);
        if sample.used_gb > peak.used_gb {
            *peak = sample;
        }
    }

    /// So much of a model's weights stays on each device after this turn, as the plan has it.
    pub(super) fn keep(&self, weights: Bytes) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 = kept.0.saturating_add(weights.0);
    }

    fn sample(&self, snapshots: &BTreeMap<u32, Snapshot>) -> LeaseSample {
        let ids: Vec<u32> = self.places.iter().filter_map(|place| place.id).collect();
        let unknown = VramSample::default();
        let of = |id: &u32| (id.to_string(), snapshots.get(id).map_or(unknown, vram));
        LeaseSample { model: self.models.join("+"), vram: ids.iter().map(of).collect(), device_ids: ids }
    }

    /// Has memory given back that nothing is in any more, and looks until it is back where it was, or the time for that is
    /// over.
    fn settle(&self) -> BTreeMap<u32, Snapshot> {
        for place in &self.places {
            if let Err(error) = self.gpus.settle(place)
                && self.lost.note(&place.uuid)
            {
                let (device, reason) = (place.label.clone(), error.to_string());
                self.observer.observe(&Event::DeviceLost { device, reason });
            }
        }
        let deadline = Instant::now() + SETTLING_TIME;
        loop {
            let after = self.look();
            let is_back = |place: &DeviceSlot| self.leaked(place, &after).is_none();
            if self.places.iter().all(is_back) || Instant::now() >= deadline {
                return after;
            }
            std::thread::sleep(SETTLING_PAUSE);
        }
    }

    fn look(&self) -> BTreeMap<u32, Snapshot> {
        let look = |place: &DeviceSlot| {
            let snapshot = self.probe.snapshot(&place.uuid).ok()?;
            Some((place.id?, self.gpus.complete(place, snapshot)))
        };
        self.places.iter().filter_map(look).collect()
    }

    /// Used memory before and after, if more stays than is tolerated. What other processes hold is not ours to give
    /// back.
    fn leaked(&self, place: &DeviceSlot, after: &BTreeMap<u32, Snapshot>) -> Option<(Bytes, Bytes, Bytes)> {
        let id = place.id?;
        let (before, after) = (own(self.before.get(&id)?)?, own(after.get(&id)?)?);
        let kept = *self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let tolerance = Bytes(TOLERANCE.0.saturating_add(kept.0));
        (after.saturating_sub(before) > tolerance).then_some((before, after, tolerance))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let after = self.settle();
        let peaks = std::mem::take(self.peaks.get_mut().unwrap_or_else(PoisonError::into_inner));
        for (device_id, vram) in peaks {
            self.observer.observe(&Event::VramPeak { models: self.models.clone(), device_id, vram });
        }
        // The lease is still held: afterwards, the memory of its next holder would be taken for ours.
        for place in &self.places {
            if let Some((before, after, tolerance)) = self.leaked(place, &after) {
                self.observer.observe(&Event::Leak {
                    models: self.models.clone(),
                    device: place.label.clone(),
                    before_bytes: before.0,
                    after_bytes: after.0,
                    tolerance_bytes: tolerance.0,
                });
            }
        }
        self.observer.observe(&Event::Release(self.sample(&after)));
    }
}

/// Used memory without that of other processes, as far as that is known.
fn own(snapshot: &Snapshot) -> Option<Bytes> {
    let foreign = snapshot.foreign(std::process::id()).filter_map(|process| process.used).map(|used| used.0).sum();
    Some(snapshot.used?.saturating_sub(Bytes(foreign)))
}

fn vram(snapshot: &Snapshot) -> VramSample {
    let gib = |amount: Option<Bytes>| amount.map(Bytes::gib);
    VramSample {
        allocated_gb: gib(snapshot.allocated),
        reserved_gb: gib(snapshot.reserved),
        used_gb: gib(snapshot.used),
        free_gb: gib(snapshot.free),
        total_gb: gib(snapshot.total),
    }
}
