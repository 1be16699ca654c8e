//! One run: all models in their groups, then fusion, with a report.

use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread::Scope;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::arithmetic::Computation;
use super::error::{EmbedError, ModelError};
use super::fitting::{keeps, predict};
use super::fuse::Fusing;
use super::job::{Faults, Job, Turns};
use super::machine::this_machine;
use super::report::Report;
use super::staged::{Staged, Unstaged};
use super::turn::Warm;
use super::{Embedder, Finished};
use crate::collection::{self, Discovery};
use crate::config::{Mode, Resolved};
use crate::device::{Probe, cores};
use crate::lease::{
    Candidates, DeviceKey, Inherited, Lease, LeaseError, Manager, Obstacle, Policy, Request, Requester,
};
use crate::output::{OutputLock, directory_name};
use crate::pipeline::StopSwitch;
use crate::plan::{Order, plan};
use crate::telemetry::event::{Event, Observer, StopCause};

/// How often the time limit and the stop switch are looked at: soon enough for a person.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

pub(super) fn run(embedder: &Embedder, stop: &StopSwitch, observer: &dyn Observer) -> Result<Finished, EmbedError> {
    let resolved = &embedder.resolved;
    let settings = &resolved.settings;
    refuse_inside(&settings.output_dir, &settings.chunked_dir)?;
    let request = collection::Request { root: &settings.chunked_dir, only: &settings.collections };
    let discovery = collection::discover(&request)?;
    // Held until the summary is written.
    let _lock = match settings.share() {
        None => OutputLock::acquire(&settings.output_dir)?,
        Some(share) => OutputLock::acquire_share(&settings.output_dir, share)?,
    };
    let report = Report::begin(resolved, this_machine(&embedder.devices), observer)?;
    for note in embedder.devices.notes(settings) {
        report.observe(&Event::DeviceNote { note });
    }
    for note in &resolved.notes {
        report.observe(&Event::RunNote { note: note.clone() });
    }
    let work = || {
        std::thread::scope(|scope| {
            let limit = settings.max_duration.map(|limit| limit.0);
            let _timer = Timer::start(scope, stop, limit, &report);
            // In this order: models are gone before their lease is.
            let lease = OnceCell::new();
            let mut warm = Warm::new();
            let outcome = embed(embedder, &discovery, (&lease, &mut warm), stop, &report);
            for (model, encoders) in warm {
                drop(encoders);
                report.observe(&Event::ModelEvicted { model });
            }
            outcome
        })
    };
    // The summary reports a panic as any other failure.
    let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(EmbedError::Panicked));
    report.end(stop, outcome)
}

/// All models in their groups; returns those that failed while others did not. The lease is that of the whole run,
/// where models have none of their own.
fn embed<'lease>(
    embedder: &Embedder,
    discovery: &Discovery,
    (run_lease, warm): (&'lease OnceCell<Lease>, &mut Warm<'lease>),
    stop: &StopSwitch,
    report: &Report<'_>,
) -> Result<Vec<ModelError>, EmbedError> {
    let resolved = &embedder.resolved;
    let (settings, ensemble) = (&resolved.settings, &resolved.ensemble);
    announce(discovery, report);
    let (staged, mut failed) = stage(embedder, report)?;
    refuse_same_names(&staged)?;
    let all: Vec<&Staged> = staged.iter().collect();
    let fusing = Fusing::new(resolved, &all, report)?;
    let order = if ensemble.mode == Mode::Rotate { Order::Together } else { Order::OneByOne };
    let groups = plan(order, all.len()).groups;
    report.observe(&Event::Planned {
        mode: ensemble.mode,
        models: staged.iter().map(|staged| staged.name().to_owned()).collect(),
        turns: groups.len() as u64,
    });
    let faults = Faults::default();
    let job = Job {
        resolved,
        settings,
        tokenizer_threads: settings.threads.unwrap_or_else(cores),
        run_id: report.run_id(),
        stop,
        faults: &faults,
        observer: report,
    };
    let mut context = Turns {
        job,
        devices: &embedder.devices,
        places: &embedder.places,
        collections: &discovery.collections,
        keep: false,
    };
    context.keep = settings.warm_cache_after_release && keeps(&context, &all);
    let leasing = Leasing { embedder, stop, report };
    for group in groups {
        if stop.cause().is_some() {
            break;
        }
        let models: Vec<&Staged> = group.models.iter().map(|model| all[*model]).collect();
        predict(&context, &models);
        let ended = if ensemble.mode == Mode::Exclusive && !context.keep {
            let model = models.first().map(|staged| staged.name());
            let Some(lease) = leasing.acquire(model)? else { break };
            context.take(&models, &lease, &mut Warm::new())?
        } else {
            if run_lease.get().is_none() {
                let names: Vec<&str> = all.iter().map(|staged| staged.name()).collect();
                let Some(lease) = leasing.acquire(Some(&names.join(", ")))? else { break };
                let _ = run_lease.set(lease);
            }
            let Some(lease) = run_lease.get() else { break };
            context.take(&models, lease, warm)?
        };
        failed.extend(ended);
    }
    if let Some(fusing) = fusing.filter(|_| failed.is_empty()) {
        for collection in &discovery.collections {
            // Without a stop, every member is complete.
            if stop.cause().is_some() {
                break;
            }
            fusing.fuse(resolved, collection.name(), stop, report)?;
        }
    }
    if failed.len() == ensemble.models.len() {
        return Err(match failed.pop() {
            Some(only) if failed.is_empty() => only.into(),
            last => EmbedError::Models(failed.into_iter().chain(last).collect()),
        });
    }
    Ok(failed)
}

/// Finds the models; returns those that are ready, and those that are unavailable.
fn stage(embedder: &Embedder, report: &Report<'_>) -> Result<(Vec<Staged>, Vec<ModelError>), EmbedError> {
    let resolved = &embedder.resolved;
    let computation = Computation::new(&resolved.settings, &embedder.devices.choice)?;
    let (mut ready, mut failed) = (Vec::new(), Vec::new());
    for asked in &resolved.ensemble.models {
        match Staged::new(asked, resolved, &embedder.registry, computation, report) {
            Ok(staged) => ready.push(staged),
            Err(Unstaged::Usage(error)) => return Err(error),
            Err(Unstaged::Fault(error)) => {
                error.tell(resolved, report);
                failed.push(error);
            }
        }
    }
    Ok((ready, failed))
}

fn announce(discovery: &Discovery, observer: &dyn Observer) {
    for collection in &discovery.collections {
        observer.observe(&Event::CollectionFound {
            collection: collection.name().clone(),
            files: collection.files(),
            bytes: collection.bytes(),
        });
    }
    for path in &discovery.empty {
        observer.observe(&Event::EmptyDirectory { path: path.clone() });
    }
    for error in &discovery.faults {
        observer.observe(&Event::LoadingError { collection: None, error: error.clone() });
    }
}

/// An output that is read as input would feed itself, and grow for as long as there is room.
fn refuse_inside(output: &Path, input: &Path) -> Result<(), EmbedError> {
    let Ok(root) = input.canonicalize() else { return Ok(()) };
    // The output need not be there yet; what of its path is there tells where it will be.
    let absolute = std::path::absolute(output).unwrap_or_else(|_| output.to_owned());
    let there = absolute.ancestors().find_map(|part| part.canonicalize().ok());
    if root.is_dir() && there.is_some_and(|there| there.starts_with(&root)) {
        return Err(EmbedError::OutputInside { output: output.to_owned(), input: input.to_owned() });
    }
    Ok(())
}

/// Two models that write into one directory would take each other's work for their own.
fn refuse_same_names(staged: &[Staged]) -> Result<(), EmbedError> {
    for (place, one) in staged.iter().enumerate() {
        let directory = directory_name(one.name());
        let same = staged[place + 1..].iter().find(|other| directory_name(other.name()) == directory);
        if let Some(other) = same {
            let path = |staged: &Staged| staged.spec.directory.display().to_string();
            return Err(EmbedError::SameName { one: path(one), other: path(other), directory });
        }
    }
    Ok(())
}

/// Who takes leases for a run.
struct Leasing<'a> {
    embedder: &'a Embedder,
    stop: &'a StopSwitch,
    report: &'a Report<'a>,
}

impl Leasing<'_> {
    /// Takes all devices; `None` if the run was stopped while it waited.
    fn acquire(&self, model: Option<&str>) -> Result<Option<Lease>, EmbedError> {
        let Self { embedder, stop, report } = self;
        let Resolved { settings, ensemble, .. } = &embedder.resolved;
        let keys: Vec<DeviceKey> = embedder.places.iter().map(|place| place.key.clone()).collect();
        if !embedder.devices.are_leased(settings, ensemble.mode) {
            return Ok(Some(Lease::shared(keys)));
        }
        let wait = settings.lease_wait.map(|wait| wait.0);
        let policy = Policy::resolve(settings.lease_policy, wait, settings.foreign)?;
        let requester = Requester { run: report.run_id().to_owned(), model: model.map(str::to_owned) };
        let manager = self.manager()?;
        let mut told: Option<Obstacle> = None;
        let mut watch = |obstacle: &Obstacle| {
            if told.as_ref() != Some(obstacle) {
                report.observe(&Event::LeaseWaiting { holder: obstacle.to_string() });
                told = Some(obstacle.clone());
            }
            if stop.cause().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let probe: Option<&dyn Probe> = Some(embedder.devices.detection.as_ref());
        let request = Request { policy, foreign: settings.foreign, probe, requester: &requester, watch: &mut watch };
        match manager.acquire(&keys, request) {
            Ok(lease) => {
                for note in lease.notes() {
                    report.observe(&Event::DeviceNote { note: note.to_string() });
                }
                Ok(Some(lease))
            }
            Err(LeaseError::GivenUp { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn manager(&self) -> Result<Manager, EmbedError> {
        let Resolved { settings, places, .. } = &self.embedder.resolved;
        let candidates = Candidates::new(settings.lease_dir.clone(), places.runtime.as_deref());
        let inherited = Inherited::parse(places.inherited_leases.as_deref().unwrap_or_default());
        Ok(Manager::open(&candidates)?.with_inherited(inherited))
    }
}

/// Throws the switch when the time is over, and tells when it is thrown, by whomever.
struct Timer {
    _end: Sender<()>,
}

impl Timer {
    fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        stop: &'scope StopSwitch,
        limit: Option<Duration>,
        observer: &'scope dyn Observer,
    ) -> Self {
        let (end, ended) = bounded::<()>(0);
        let start = Instant::now();
        scope.spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(STOP_INTERVAL) {
                if limit.is_some_and(|limit| start.elapsed() >= limit) {
                    stop.stop(StopCause::TimeLimit);
                }
                if let Some(cause) = stop.cause() {
                    observer.observe(&Event::Stopping { cause });
                    return;
                }
            }
        });
        Self { _end: end }
    }
}
