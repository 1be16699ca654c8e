//! Which of the held devices a turn will use, and how large its batches may be there: the plan, held against what the
//! devices say.

use super::held::Held;
use super::job::Turns;
use super::slot::DeviceSlot;
use super::staged::Staged;
use crate::config::{Dtype, Settings};
use crate::device::{DeviceUuid, Probe, Snapshot};
use crate::domain::{Bytes, VectorKind};
use crate::ensemble::{Fit, MEMORY_PART, Room, Rules, Wish, fit};
use crate::lease::DeviceKey;
use crate::model::Footprint;
use crate::model::spec::SparseHead;
use crate::nn::{LARGEST_FUSED_HEAD, VOCABULARY_BYTES};
use crate::telemetry::event::{Event, Prediction};

/// A context of CUDA with the workspaces of its libraries: 300 to 500 MiB on the cards in use.
const GPU_OVERHEAD: Bytes = Bytes::mib(512);

/// Code, tokenizers, shards in flight: about 250 MiB were measured with a small model, its weights included.
const CPU_OVERHEAD: Bytes = Bytes::mib(256);

/// What a turn uses.
pub(super) struct Fitting {
    /// The devices, best first.
    pub places: Vec<DeviceSlot>,
    /// Most sequences in a batch, for each model.
    pub batch_sizes: Vec<usize>,
}

/// Tells what the models of a turn will need on each device, before anything is leased or loaded.
pub(super) fn predict(turns: &Turns<'_>, models: &[&Staged]) {
    let several = turns.job.settings.data_parallel.unwrap_or(true);
    let places = &turns.places[..if several { turns.places.len() } else { 1 }];
    let (settings, detection) = (turns.job.settings, &turns.devices.detection);
    for place in places.iter().filter(|place| place.is_gpu()) {
        let snapshot = detection.snapshot(&place.uuid).ok();
        tell(turns, models, &place.label, snapshot.as_ref(), &fits(models, settings, room(snapshot.as_ref()), true, 1));
    }
    if !places.iter().any(DeviceSlot::is_gpu) {
        let snapshot = detection.snapshot(&DeviceUuid("cpu".to_owned())).ok();
        let threads = places.iter().map(|place| place.threads).sum();
        let fits = fits(models, settings, room(snapshot.as_ref()), false, threads);
        tell(turns, models, "cpu", snapshot.as_ref(), &fits);
    }
}

/// Chooses among the held devices those on which all models of a turn fit together, by what the devices say now that
/// they are held; else the processor. If nothing fits, the arithmetic is the error.
pub(super) fn fitting(turns: &Turns<'_>, held: &Held<'_>, models: &[&Staged]) -> Result<Fitting, String> {
    let (settings, observer) = (turns.job.settings, turns.job.observer);
    let several = settings.data_parallel.unwrap_or(true);
    let places = &held.places()[..if several { held.places().len() } else { 1 }];
    let gpus = places.iter().any(DeviceSlot::is_gpu);
    let (mut used, mut refused): (Vec<(DeviceSlot, Vec<Fit>)>, Vec<String>) = (Vec::new(), Vec::new());
    if gpus {
        for place in places {
            let fits = fits(models, settings, room(held.before(place)), true, 1);
            if fits.iter().all(|fit| fit.fits) {
                used.push((place.clone(), fits));
            } else {
                refused.push(arithmetic(models, &place.label, held.before(place), &fits));
            }
        }
    }
    if used.is_empty() {
        let snapshot = turns.devices.detection.snapshot(&DeviceUuid("cpu".to_owned())).ok();
        let threads: usize = places.iter().map(|place| place.threads).sum();
        let fits = fits(models, settings, room(snapshot.as_ref()), false, threads);
        if !fits.iter().all(|fit| fit.fits) {
            refused.push(arithmetic(models, "cpu", snapshot.as_ref(), &fits));
            return Err(refused.join("; "));
        }
        if gpus {
            let note = format!("{}; the processor takes over", refused.join("; "));
            observer.observe(&Event::RunNote { note });
            used.push((processor(threads), fits));
        } else {
            used.extend(places.iter().map(|place| (place.clone(), fits.clone())));
        }
    } else if !refused.is_empty() {
        observer.observe(&Event::RunNote { note: format!("{}; the other devices do the work", refused.join("; ")) });
    }
    let batch_size = |place: usize| {
        let planned = used.iter().map(|(_, fits)| fits[place].batch_size).min().unwrap_or(1);
        models[place].batch_size.unwrap_or(planned)
    };
    let batch_sizes = (0..models.len()).map(batch_size).collect();
    Ok(Fitting { places: used.into_iter().map(|(place, _)| place).collect(), batch_sizes })
}

/// Whether all models of a run fit on each device at the same time, so that they may stay there.
pub(super) fn all_fit(turns: &Turns<'_>, models: &[&Staged]) -> bool {
    let settings = turns.job.settings;
    let detection = &turns.devices.detection;
    turns.places.iter().all(|place| {
        let snapshot = detection.snapshot(&place.uuid).ok();
        let workers = if place.is_gpu() { 1 } else { turns.places.iter().map(|place| place.threads).sum() };
        fits(models, settings, room(snapshot.as_ref()), place.is_gpu(), workers).iter().all(|fit| fit.fits)
    })
}

/// What is kept free on a device.
pub(super) fn rules(settings: &Settings, gpu: bool) -> Rules {
    Rules {
        soft_limit_gb: settings.soft_limit_gb,
        buffer: gib(settings.memory_buffer_gb),
        overhead: if gpu { GPU_OVERHEAD } else { CPU_OVERHEAD },
        gpu,
    }
}

/// What a model takes, in the numbers that it will have on the device: on a GPU two bytes each, unless f32 is asked for;
/// and what the head of a masked language model has there at a time, whatever the batch.
pub(super) fn footprint(staged: &Staged, settings: &Settings, gpu: bool) -> Footprint {
    if !gpu || settings.rehearse {
        return staged.footprint;
    }
    let mut footprint = if settings.dtype == Dtype::F32 { staged.footprint } else { staged.footprint.in_numbers_of(2) };
    let weighs = matches!(staged.spec.sparse, Some(SparseHead::MaskedLm { .. }))
        && staged.finish.kinds(staged.spec.default_kind).contains(&VectorKind::Sparse);
    if weighs {
        footprint.weights = Bytes(footprint.weights.0.saturating_add(VOCABULARY_BYTES));
    }
    // A build has kernels for one kind of GPUs, and finds no other.
    if cfg!(feature = "cuda") { footprint.with_fused_attention(&staged.spec, LARGEST_FUSED_HEAD) } else { footprint }
}

fn fits(models: &[&Staged], settings: &Settings, room: Room, gpu: bool, workers: usize) -> Vec<Fit> {
    let rules = rules(settings, gpu);
    let footprints: Vec<Footprint> = models.iter().map(|staged| footprint(staged, settings, gpu)).collect();
    let one = |place: usize| {
        let staged = models[place];
        let others: Vec<&Footprint> =
            footprints.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, other)| other).collect();
        let wish = Wish {
            max_length: staged.info.max_length,
            batch_tokens: staged.info.batch_tokens,
            workers,
            residents: models.len(),
        };
        fit(&footprints[place], &others, wish, room, rules)
    };
    (0..models.len()).map(one).collect()
}

fn room(snapshot: Option<&Snapshot>) -> Room {
    Room { total: snapshot.and_then(|snapshot| snapshot.total), used: snapshot.and_then(Snapshot::taken) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a sensible amount")]
fn gib(amount: f64) -> Bytes {
    Bytes((amount * (1_u64 << 30) as f64) as u64)
}

fn tell(turns: &Turns<'_>, models: &[&Staged], label: &str, snapshot: Option<&Snapshot>, fits: &[Fit]) {
    let used = room(snapshot).used;
    for (staged, fit) in models.iter().zip(fits) {
        turns.job.observer.observe(&Event::Predicted(Prediction {
            model: staged.name().to_owned(),
            device: label.to_owned(),
            weights_bytes: fit.weights.0,
            activation_bytes: fit.activations.0,
            overhead_bytes: fit.overhead.0,
            used_bytes: used.map(|used| used.0),
            budget_bytes: fit.budget.map(|budget| budget.0),
            batch_size: fit.batch_size,
            fits: fit.fits,
        }));
    }
}

/// Why models do not fit, with the figures.
fn arithmetic(models: &[&Staged], label: &str, snapshot: Option<&Snapshot>, fits: &[Fit]) -> String {
    let shown = |amount: Option<Bytes>| amount.map_or("unknown".to_owned(), |amount| amount.to_string());
    let Room { total, used } = room(snapshot);
    let names: Vec<&str> = models.iter().map(|staged| staged.name()).collect();
    let Some((fit, staged)) = fits.iter().zip(models).find(|(fit, _)| !fit.fits) else { return String::new() };
    let text = staged.footprint.activations(staged.info.max_length, staged.info.max_length);
    let way_out = match (models.len(), label) {
        (2.., _) => "let them take turns (--exclusive-ensemble)",
        (_, "cpu") => "free memory, or give a shorter --max-length",
        _ => "free memory on it, give a shorter --max-length, or another device (--devices)",
    };
    format!(
        "{} does not fit on {label}: {} of weights, {text} for a text of {} tokens and {} besides would come to {} \
         that are used of {}, of which {} may be planned with ({:.0} % or a lower limit); {way_out}",
        names.join(" with "),
        fit.weights,
        staged.info.max_length,
        fit.overhead,
        shown(used),
        shown(total),
        shown(fit.budget),
        MEMORY_PART * 100.0,
    )
}

/// All cores, for models that no device has room for.
fn processor(threads: usize) -> DeviceSlot {
    let label = "cpu".to_owned();
    DeviceSlot { id: None, uuid: DeviceUuid(label.clone()), key: DeviceKey::of_slot(0), label, threads }
}
