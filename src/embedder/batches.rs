//! How large the batches of a turn are on each of its devices: controllers at the beginning, what they learned at the
//! end.

use std::sync::{Mutex, PoisonError};

use super::fitting::{Fitting, rules};
use super::held::Held;
use super::job::Turns;
use super::learned::{Learned, Subject};
use super::slot::DeviceSlot;
use super::staged::Staged;
use crate::batch::{BatchLimits, Controller, Controllers, Costs, MemoryModel, Occupancy, Span};
use crate::config::Settings;
use crate::device::{Probe, Snapshot};
use crate::plan::{MEMORY_PART, MemoryKind, soft_limit};
use crate::telemetry::event::Event;

/// Tokens of the first batches on a GPU, which has hardly anything to do with fewer.
const GPU_START_TOKENS: usize = 4096;

/// Tokens of the largest batches on a GPU: far beyond what makes any faster.
const GPU_MOST_TOKENS: usize = 1 << 20;

/// The controllers of the models of a turn.
pub(super) struct Batches<'a> {
    models: Vec<Mutex<Controllers>>,
    turns: &'a Turns<'a>,
    staged: &'a [&'a Staged],
    learned: Option<Learned>,
    places: &'a [DeviceSlot],
}

impl<'a> Batches<'a> {
    pub(super) fn new(turns: &'a Turns<'a>, held: &Held<'_>, fitting: &'a Fitting, staged: &'a [&'a Staged]) -> Self {
        let settings = turns.job.settings;
        let uses_gpus = fitting.places.iter().any(|place| computes_on_gpu(settings, place));
        let learned = uses_gpus.then(|| {
            let (learned, note) = Learned::read(&turns.job.resolved.places.cache.join("embed-collections"));
            note.into_iter().for_each(|note| turns.job.observer.observe(&Event::RunNote { note }));
            learned
        });
        let mut batches = Self { models: Vec::new(), turns, staged, learned, places: &fitting.places };
        let of_model = |(staged, sequences): (&&Staged, &usize)| {
            let of_place = |place: &DeviceSlot| {
                let before = held.before(place).filter(|_| computes_on_gpu(settings, place));
                (place.label.clone(), batches.controller(staged, place, before, *sequences))
            };
            Mutex::new(Controllers::new(fitting.places.iter().map(of_place).collect()))
        };
        batches.models = staged.iter().zip(&fitting.batch_sizes).map(of_model).collect();
        batches
    }

    /// Those of one model.
    pub(super) fn of(&self, model: usize) -> &Mutex<Controllers> {
        &self.models[model]
    }

    fn controller(
        &self,
        staged: &Staged,
        place: &DeviceSlot,
        before: Option<&Snapshot>,
        sequences: usize,
    ) -> Controller {
        let settings = self.turns.job.settings;
        let tokens = staged.info.batch_tokens;
        let Some((total, used, before)) = before.and_then(|before| Some((before.total?, before.taken()?, before)))
        else {
            let start = BatchLimits { tokens, sequences };
            return Controller::new(Span { start, most_tokens: tokens }, settings.adaptive_batch);
        };
        // What was asked for is a bound; the default is one only for batches that are to keep their size.
        let asked = self.turns.job.resolved.provenance.get("batch_tokens").is_some_and(|layer| layer != "default");
        let (tokens, most_tokens) =
            if asked || !settings.adaptive_batch { (tokens, tokens) } else { (GPU_START_TOKENS, GPU_MOST_TOKENS) };
        let start = BatchLimits { tokens, sequences: staged.batch_size.unwrap_or(most_tokens) };
        let weights = self.staged.iter().map(|staged| staged.gpu_footprint(settings).weights.0);
        let rules = rules(settings);
        let planned = weights.fold(MemoryKind::Gpu.overhead().0, u64::saturating_add);
        let limit = soft_limit(total, MemoryKind::Gpu, rules).map_or(u64::MAX, |limit| limit.0);
        let free = rules.buffer.0;
        let room = Occupancy::new(MEMORY_PART, limit, total.0, used.0, planned).keeping_free(free);
        let costs = costs(staged, settings);
        let known = self.learned.as_ref().and_then(|learned| learned.of(&self.subject(staged, place, before), costs));
        let model = known.unwrap_or_else(|| MemoryModel::new(costs));
        Controller::new(Span { start, most_tokens }, settings.adaptive_batch).with_memory(
            model,
            room,
            self.staged.len() == 1,
        )
    }

    fn subject(&self, staged: &Staged, place: &DeviceSlot, snapshot: &Snapshot) -> Subject {
        let devices = self.turns.devices.detection.devices();
        let device = devices.iter().find(|device| device.uuid == snapshot.uuid);
        Subject {
            weights: staged.info.weights_sha256.iter().map(ToString::to_string).collect(),
            dtype: staged.info.dtype.clone(),
            device: device.map_or_else(|| place.label.clone(), |device| device.name.clone()),
        }
    }

    /// All models are on the devices, and nothing runs: what this process holds there now stays.
    pub(super) fn loaded(&self) {
        for place in self.places.iter().filter(|place| place.is_gpu()) {
            let snapshot = self.turns.devices.detection.snapshot(&place.uuid).ok();
            snapshot.iter().for_each(|snapshot| self.turns.devices.gpus.note(place, snapshot));
            let Some(own) = snapshot.as_ref().and_then(Snapshot::own) else { continue };
            for controllers in &self.models {
                let mut controllers = controllers.lock().unwrap_or_else(PoisonError::into_inner);
                controllers.of(&place.label).into_iter().for_each(|controller| controller.loaded(own.0));
            }
        }
    }

    /// Keeps what was learned for the next run.
    pub(super) fn keep(&self, held: &Held<'_>) {
        let Some(file) = &self.learned else { return };
        let mut learned = Vec::new();
        for (staged, controllers) in self.staged.iter().zip(&self.models) {
            let controllers = controllers.lock().unwrap_or_else(PoisonError::into_inner);
            for (label, controller) in controllers.all() {
                let place = self.places.iter().find(|place| place.label == label);
                let snapshot = place.and_then(|place| Some((place, held.before(place)?)));
                if let (Some((place, before)), Some(model)) = (snapshot, controller.learned()) {
                    learned.push((self.subject(staged, place, before), model.clone()));
                }
            }
        }
        if let Err(error) = file.store(learned) {
            self.turns.job.observer.observe(&Event::RunNote { note: error.to_string() });
        }
    }
}

/// Whether layers are computed on the device itself. In a rehearsal it is only watched.
pub(super) fn computes_on_gpu(settings: &Settings, place: &DeviceSlot) -> bool {
    place.is_gpu() && !settings.rehearse
}

fn costs(staged: &Staged, settings: &Settings) -> Costs {
    let footprint = staged.gpu_footprint(settings);
    Costs { token_bytes: footprint.token_bytes, pair_bytes: footprint.pair_bytes }
}
