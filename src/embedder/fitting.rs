//! Devices and models of a pass as planning sees them, and what the plan says reported.

use super::held::Held;
use super::job::Turns;
use super::slot::DeviceSlot;
use super::staged::Staged;
use crate::config::Settings;
use crate::device::{DeviceUuid, Probe, Snapshot};
use crate::domain::Bytes;
use crate::lease::DeviceKey;
use crate::plan::{Device, DeviceMemory, MemoryKind, Need, Refusals, Rules, Site, all_fit, estimate, fit_models};
use crate::telemetry::event::{Event, Prediction};

/// What a pass uses.
pub(super) struct Fitting {
    /// The devices, best first.
    pub places: Vec<DeviceSlot>,
    /// Most sequences in a batch, for each model.
    pub batch_sizes: Vec<usize>,
}

/// Reports what models will need on each device, before anything is leased or loaded.
pub(super) fn predict(turns: &Turns<'_>, models: &[&Staged]) {
    let Turns { job, devices, places, .. } = turns;
    let snapshot = |place: &DeviceSlot| devices.detection.snapshot(&place.uuid).ok();
    let used = of_pass(places, job.settings);
    let planned: Vec<Device> = used.iter().map(|place| device(place, snapshot(place).as_ref())).collect();
    for (device, fits) in estimate(&needs(models, job.settings), &planned, cpu(turns), rules(job.settings)) {
        for (staged, fit) in models.iter().zip(fits) {
            job.observer.observe(&Event::Predicted(Prediction {
                model: staged.name().to_owned(),
                device: device.label.clone(),
                weights_bytes: fit.weights.0,
                activation_bytes: fit.activations.0,
                overhead_bytes: fit.overhead.0,
                used_bytes: device.memory.used.map(|used| used.0),
                budget_bytes: fit.budget.map(|budget| budget.0),
                batch_size: fit.batch_size,
                fits: fit.fits,
            }));
        }
    }
}

/// Chooses among the held devices, by the memory that they report now.
pub(super) fn fitting(turns: &Turns<'_>, held: &Held<'_>, models: &[&Staged]) -> Result<Fitting, Refusals> {
    let settings = turns.job.settings;
    let places = of_pass(held.places(), settings);
    let devices: Vec<Device> = places.iter().map(|place| device(place, held.before(place))).collect();
    let fitting = fit_models(&needs(models, settings), &devices, cpu(turns), rules(settings))?;
    let sites = fitting.placements.first().map(|placement| placement.sites.as_slice()).unwrap_or_default();
    let site = |site: &Site| match site {
        Site::Device(index) => places[*index].clone(),
        Site::CpuInstead { threads } => processor(*threads),
    };
    if !fitting.refusals.0.is_empty() {
        let takes_over = sites.iter().any(|site| matches!(site, Site::CpuInstead { .. }));
        let then = if takes_over { "the processor takes over" } else { "the other devices do the work" };
        turns.job.observer.observe(&Event::RunNote { note: format!("{}; {then}", fitting.refusals) });
    }
    let batch_sizes = fitting.placements.iter().map(|placement| placement.sequences).collect();
    Ok(Fitting { places: sites.iter().map(site).collect(), batch_sizes })
}

/// Whether all models of a run fit on each device at the same time, so that they may stay there.
pub(super) fn keeps(turns: &Turns<'_>, models: &[&Staged]) -> bool {
    let Turns { job, devices, places, .. } = turns;
    let snapshot = |place: &DeviceSlot| devices.detection.snapshot(&place.uuid).ok();
    let devices: Vec<Device> = places.iter().map(|place| device(place, snapshot(place).as_ref())).collect();
    let fit = all_fit(&needs(models, job.settings), &devices, rules(job.settings));
    if !fit {
        let note = "the models do not fit on the devices together, so none is kept there after its turn".to_owned();
        job.observer.observe(&Event::RunNote { note });
    }
    fit
}

/// What is kept free on a device.
pub(super) fn rules(settings: &Settings) -> Rules {
    Rules { soft_limit_gb: settings.soft_limit_gb, buffer: gib(settings.memory_buffer_gb) }
}

fn of_pass<'a>(places: &'a [DeviceSlot], settings: &Settings) -> &'a [DeviceSlot] {
    &places[..if settings.data_parallel.unwrap_or(true) { places.len() } else { 1 }]
}

fn needs(models: &[&Staged], settings: &Settings) -> Vec<Need> {
    models.iter().map(|staged| staged.need(settings)).collect()
}

fn device(place: &DeviceSlot, snapshot: Option<&Snapshot>) -> Device {
    let kind = if place.is_gpu() { MemoryKind::Gpu } else { MemoryKind::Host };
    Device { label: place.label.clone(), threads: place.threads, memory: memory(kind, snapshot) }
}

fn cpu(turns: &Turns<'_>) -> DeviceMemory {
    let snapshot = turns.devices.detection.snapshot(&DeviceUuid("cpu".to_owned())).ok();
    memory(MemoryKind::Host, snapshot.as_ref())
}

fn memory(kind: MemoryKind, snapshot: Option<&Snapshot>) -> DeviceMemory {
    let total = snapshot.and_then(|snapshot| snapshot.total);
    DeviceMemory { kind, total, used: snapshot.and_then(Snapshot::taken) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a sensible amount")]
fn gib(amount: f64) -> Bytes {
    Bytes((amount * (1_u64 << 30) as f64) as u64)
}

/// All cores, for models that no GPU has memory for.
fn processor(threads: usize) -> DeviceSlot {
    let label = "cpu".to_owned();
    DeviceSlot { id: None, uuid: DeviceUuid(label.clone()), key: DeviceKey::of_slot(0), label, threads }
}
