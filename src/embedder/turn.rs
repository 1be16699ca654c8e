//! One turn: a model, or in rotation all of them, on the devices. Look, load, warm up, embed every collection, free.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::arithmetic::exact_kernel;
use super::batches::{Batches, computes_on_gpu};
use super::collection;
use super::devices::{Devices, thresholds};
use super::error::{EmbedError, ModelError, ModelFault};
use super::fitting::{Fitting, fitting};
use super::gpus::Gpus;
use super::held::Held;
use super::job::{Job, Member, Turns};
use super::lost::LostFlags;
use super::spare::Spare;
use super::staged::Staged;
use super::watch::{Watched, watch};
use crate::batch::Controllers;
use crate::device::{DeviceInfo, Probe, cores};
use crate::domain::PackedBatch;
use crate::encoder::{self, Encoder, SharedEncoder};
use crate::lease::{Lease, LeasedDevice};
use crate::nn::Gpu;
use crate::nn::cpu::gemm::Arithmetic;
use crate::pipeline::{PassError, StageClock, Worker};
use crate::telemetry::event::{Event, PassInfo, StageSeconds};

/// Models that stayed on their devices, by their names: one encoder for each worker.
pub(super) type Warm<'lease> = BTreeMap<String, Vec<Box<dyn Encoder + 'lease>>>;

/// A thread that will encode.
struct Seat<'lease> {
    label: String,
    lost: Arc<AtomicBool>,
    device: LeasedDevice<'lease>,
    /// Where its models are computed, if not on the processor.
    gpu: Option<Gpu>,
}

impl Turns<'_> {
    /// Takes these models through all collections; returns those that failed. `warm` has those that are loaded
    /// already, and keeps those that stay.
    pub(super) fn take<'lease>(
        &self,
        models: &[&Staged],
        lease: &'lease Lease,
        warm: &mut Warm<'lease>,
    ) -> Result<Vec<ModelError>, EmbedError> {
        let names = models.iter().map(|staged| staged.name().to_owned()).collect();
        // Contexts of CUDA stay as long as the run does: they are part of what is there before.
        self.open_gpus()?;
        let Devices { detection, gpus, .. } = self.devices;
        let held = Held::begin(names, self.places, detection.as_ref(), gpus, self.job.observer);
        if held.places().is_empty() {
            return Err(PassError::DevicesLost.into());
        }
        let fitting = match fitting(self, &held, models) {
            Ok(fitting) => fitting,
            Err(refused) => {
                let failures =
                    models.iter().map(|staged| ModelError::new(staged.name(), ModelFault::DoesNotFit(refused.clone())));
                return Ok(failures.inspect(|error| self.tell_failure(error)).collect());
            }
        };
        let seats = seats(&fitting, lease, held.lost(), &self.devices.gpus);
        let batches = Batches::new(self, &held, &fitting, models);
        let watched: Vec<Watched<'_>> = (0..)
            .zip(models)
            .map(|(place, staged)| Watched { model: staged.name(), controllers: batches.of(place) })
            .collect();
        let thresholds = thresholds(self.job.settings);
        std::thread::scope(|scope| {
            let detection = &self.devices.detection;
            let _watching =
                watch(scope, detection, thresholds, &held, &watched, self.job.observer).map_err(EmbedError::Thread)?;
            let stage = Stage { turns: self, held: &held, fitting: &fitting, seats: &seats, batches: &batches };
            stage.run(models, warm)
        })
    }

    /// Opens the GPUs that models are computed on.
    fn open_gpus(&self) -> Result<(), EmbedError> {
        if !self.job.settings.rehearse {
            let Devices { detection, gpus, .. } = self.devices;
            let is_place =
                |info: &&DeviceInfo| self.places.iter().any(|place| place.is_gpu() && place.uuid == info.uuid);
            detection.devices().iter().filter(is_place).try_for_each(|info| gpus.open(info))?;
        }
        Ok(())
    }

    fn tell_failure(&self, error: &ModelError) {
        error.tell(self.job.resolved, self.job.observer);
    }
}

/// The threads that will encode, in the order of the devices.
fn seats<'lease>(fitting: &Fitting, lease: &'lease Lease, lost: &LostFlags, gpus: &Gpus) -> Vec<Seat<'lease>> {
    let mut seats = Vec::new();
    for place in &fitting.places {
        // The processor as a way out is on no lease of its own; it works for as long as that of the turn lasts.
        let device = lease.devices().find(|device| *device.key() == place.key).or_else(|| lease.devices().next());
        if let Some(device) = device {
            let gpu = gpus.of(place);
            // A GPU is kept busy by one thread; another's batches would take their memory beside the first's.
            let threads = if gpu.is_some() { 1 } else { place.threads };
            let seat = || Seat { label: place.label.clone(), lost: lost.of(place), device, gpu: gpu.clone() };
            seats.extend(std::iter::repeat_with(seat).take(threads));
        }
    }
    seats
}

/// A turn whose devices are held.
struct Stage<'a, 'lease> {
    turns: &'a Turns<'a>,
    held: &'a Held<'a>,
    fitting: &'a Fitting,
    seats: &'a [Seat<'lease>],
    batches: &'a Batches<'a>,
}

/// A model that is loaded: its place in the turn, and its clock.
struct Active<'a> {
    staged: &'a Staged,
    controllers: &'a Mutex<Controllers>,
    /// For what the workers' encoders cannot do.
    spare: Option<Mutex<Spare<'a>>>,
    clock: StageClock,
    complete: bool,
}

impl<'lease> Stage<'_, 'lease> {
    fn run(&self, models: &[&Staged], warm: &mut Warm<'lease>) -> Result<Vec<ModelError>, EmbedError> {
        let observer = self.turns.job.observer;
        let (mut active, mut failed) = (Vec::new(), Vec::new());
        let mut workers: Vec<Worker<'lease>> = self
            .seats
            .iter()
            .map(|seat| Worker { device: seat.label.clone(), lost: Arc::clone(&seat.lost), encoders: Vec::new() })
            .collect();
        for (place, staged) in models.iter().copied().enumerate() {
            observer.observe(&Event::PassStarted(Box::new(self.info(staged, self.fitting.batch_sizes[place]))));
            match self.load(staged, warm) {
                Ok(encoders) => {
                    workers.iter_mut().zip(encoders).for_each(|(worker, encoder)| worker.encoders.push(encoder));
                    let (controllers, clock) = (self.batches.of(place), StageClock::default());
                    active.push(Active { staged, controllers, spare: self.spare(staged), clock, complete: true });
                }
                Err(fault) => {
                    let error = ModelError::new(staged.name(), fault);
                    self.turns.tell_failure(&error);
                    failed.push(error);
                }
            }
        }
        self.batches.loaded();
        let outcome = self.embed(&mut active, &mut workers, &mut failed);
        self.batches.keep(self.held);
        self.leave(&active, workers, warm);
        outcome.map(|()| failed)
    }

    /// Whether a device is short of memory in another way than the processor is.
    fn has_fallback(&self) -> bool {
        self.fitting.places.iter().any(|place| computes_on_gpu(self.turns.job.settings, place))
    }

    /// The processor in f32, where the workers are something else.
    fn spare<'s>(&'s self, staged: &'s Staged) -> Option<Mutex<Spare<'s>>> {
        let settings = self.turns.job.settings;
        let is_exact = !self.has_fallback() && staged.kernel.arithmetic() == Arithmetic::F32;
        let device = self.seats.first().filter(|_| !is_exact)?.device;
        let cores = settings.threads.unwrap_or_else(cores);
        Some(Mutex::new(Spare::new(staged, device, exact_kernel(settings), cores)))
    }

    fn info(&self, staged: &Staged, batch_size: usize) -> PassInfo {
        let devices = self.fitting.places.iter().map(|place| place.label.clone()).collect();
        PassInfo { threads: self.seats.len(), batch_size, devices, ..staged.info.clone() }
    }

    fn load(&self, staged: &Staged, warm: &mut Warm<'lease>) -> Result<Vec<Box<dyn Encoder + 'lease>>, ModelFault> {
        let observer = self.turns.job.observer;
        let model = staged.name().to_owned();
        // A device may have been lost since; then the encoders are not those of these workers any more.
        if let Some(encoders) = warm.remove(&model).filter(|encoders| encoders.len() == self.seats.len()) {
            observer.observe(&Event::ModelLoaded { model, load_seconds: 0.0, warm: true });
            return Ok(encoders);
        }
        let start = Instant::now();
        let mut encoders = self.encoders(staged)?;
        let load_seconds = start.elapsed().as_secs_f64();
        observer.observe(&Event::ModelLoaded { model: model.clone(), load_seconds, warm: false });
        if self.turns.job.settings.warm_up {
            let (tokens, seconds) = warm_up(staged, &mut encoders)?;
            observer.observe(&Event::WarmUp { model, tokens, seconds });
        }
        #[cfg(test)]
        let encoders = super::tests::troubled(encoders, self.turns.job.settings);
        Ok(encoders)
    }

    /// One encoder a seat: on each GPU with weights of its own, on the processor with weights that all share.
    fn encoders(&self, staged: &Staged) -> Result<Vec<Box<dyn Encoder + 'lease>>, ModelFault> {
        let Staged { spec, weights, kernel, .. } = staged;
        let gpus: Option<Vec<(&Gpu, LeasedDevice<'lease>)>> =
            self.seats.iter().map(|seat| Some((seat.gpu.as_ref()?, seat.device))).collect();
        let (Some(gpus), Some(numbers)) = (gpus, staged.numbers) else {
            let devices: Vec<_> = self.seats.iter().map(|seat| (seat.device, 1)).collect();
            return Ok(encoder::load(spec, weights, staged.heads(), &devices, *kernel)?);
        };
        let mut encoders = Vec::new();
        for (gpu, device) in gpus {
            encoders.extend(encoder::load_on_gpu(spec, weights, staged.heads(), (gpu, numbers), &[device])?);
        }
        Ok(encoders)
    }

    /// Takes the models through all collections. One that fails leaves; the others go on.
    fn embed(
        &self,
        active: &mut Vec<Active<'_>>,
        workers: &mut [Worker<'lease>],
        failed: &mut Vec<ModelError>,
    ) -> Result<(), EmbedError> {
        let Job { stop, observer, .. } = self.turns.job;
        let (start, shared) = (Instant::now(), StageClock::default());
        for collection in self.turns.collections {
            if active.is_empty() {
                break;
            }
            if stop.cause().is_some() {
                active.iter_mut().for_each(|model| model.complete = false);
                break;
            }
            let members: Vec<Member<'_>> = active
                .iter()
                .map(|Active { staged, controllers, spare, clock, .. }| {
                    let exact = spare.as_ref().map(|spare| spare as &dyn SharedEncoder);
                    let fallback = exact.filter(|_| self.has_fallback());
                    Member { staged, controllers, fallback, exact, clock }
                })
                .collect();
            let ends = collection::embed(self.turns.job, collection, &members, workers, &shared)?;
            for (place, end) in ends.into_iter().enumerate().rev() {
                match end {
                    Ok(complete) => active[place].complete &= complete,
                    Err(error) => {
                        self.turns.tell_failure(&error);
                        failed.push(error);
                        active.remove(place);
                        workers.iter_mut().for_each(|worker| drop(worker.encoders.remove(place)));
                    }
                }
            }
        }
        let shared = shared.seconds();
        for model in active.iter() {
            observer.observe(&Event::PassFinished {
                model: model.staged.name().to_owned(),
                complete: model.complete,
                seconds: start.elapsed().as_secs_f64(),
                stage_seconds: share(model.clock.seconds(), shared, active.len()),
            });
        }
        Ok(())
    }

    /// Takes the models off the devices, or keeps them for a later turn.
    fn leave(&self, active: &[Active<'_>], workers: Vec<Worker<'lease>>, warm: &mut Warm<'lease>) {
        let observer = self.turns.job.observer;
        let mut by_model: Vec<Vec<Box<dyn Encoder + 'lease>>> = active.iter().map(|_| Vec::new()).collect();
        for worker in workers {
            by_model.iter_mut().zip(worker.encoders).for_each(|(encoders, encoder)| encoders.push(encoder));
        }
        for (model, encoders) in active.iter().zip(by_model) {
            let name = model.staged.name().to_owned();
            if self.turns.keep {
                self.held.keep(model.staged.footprint.weights);
                warm.insert(name.clone(), encoders);
                observer.observe(&Event::ModelKept { model: name });
            } else {
                drop(encoders);
                observer.observe(&Event::ModelEvicted { model: name });
            }
        }
    }
}

/// A soft beginning: few tokens, before anything that takes much memory or time.
const WARM_UP_TOKENS: usize = 10;

/// Sends ten tokens through every worker, so that no batch pays for first touches. Returns their number and the time.
fn warm_up(staged: &Staged, encoders: &mut [Box<dyn Encoder + '_>]) -> Result<(u64, f64), ModelFault> {
    // A model that has no vector of such a word is not warmed up, and fails where a text has one.
    let Ok(tokens) = staged.tokenizer.encode("A few words are enough to warm a model up before its first batch.")
    else {
        return Ok((0, 0.0));
    };
    let batch = PackedBatch::new([&tokens.ids[..tokens.ids.len().min(WARM_UP_TOKENS)]]);
    let start = Instant::now();
    for encoder in encoders.iter_mut() {
        encoder.encode(&batch, &staged.profile).map_err(|error| ModelFault::Lane(error.into()))?;
    }
    Ok(((batch.tokens() * encoders.len()) as u64, start.elapsed().as_secs_f64()))
}

/// Seconds of one model, with its part of what all models of the turn share.
fn share(own: StageSeconds, shared: StageSeconds, models: usize) -> StageSeconds {
    let part = |shared: f64| shared / models.max(1) as f64;
    StageSeconds { read: part(shared.read), wait: part(shared.wait), ..own }
}
