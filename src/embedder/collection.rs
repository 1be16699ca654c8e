//! One collection through the models of a turn: outputs opened, the pipeline run, shards committed and told of.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::error::{EmbedError, ModelError};
use super::staged::Staged;
use crate::batch::Controller;
use crate::collection::Collection;
use crate::config::{Resolved, Settings};
use crate::domain::{CollectionName, RowStatus, Shard};
use crate::output::{CollectionTotals, CollectionWriter, CommitError, Counts, Manifest, Opened, directory_name};
use crate::pipeline::{self, Commit, Lane, Pass, PassEnd, PassError, StageClock, StopSwitch, Worker};
use crate::telemetry::event::{Event, Observer, OutputFile};

/// A model that takes part in a turn.
pub(super) struct Member<'a> {
    pub staged: &'a Staged,
    pub controller: &'a Mutex<Controller>,
    pub clock: &'a StageClock,
}

/// What all collections of a run share.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub resolved: &'a Resolved,
    pub settings: &'a Settings,
    pub tokenizer_threads: usize,
    pub stop: &'a StopSwitch,
    pub faults: &'a Faults,
    pub observer: &'a dyn Observer,
}

/// What became of a model in a collection: whether all rows are committed.
pub(super) type MemberEnd = Result<bool, ModelError>;

/// Embeds a collection with all members at once; one result for each of them.
pub(super) fn embed(
    job: Job<'_>,
    collection: &Collection,
    members: &[Member<'_>],
    workers: &mut [Worker<'_>],
    clock: &StageClock,
) -> Result<Vec<MemberEnd>, EmbedError> {
    let Job { settings, observer, .. } = job;
    let name = collection.name();
    let mut opened = Vec::new();
    for member in members {
        let output = CollectionWriter::open(&settings.output_dir, name, &member.staged.plan(settings))?;
        if output.committed.rows() > 0 || output.damage.is_some() {
            observer.observe(&resumed(collection, member.staged, &output));
        }
        let model = member.staged.name().to_owned();
        observer.observe(&Event::CollectionStarted { collection: name.clone(), model });
        opened.push(output);
    }
    let (outputs, mut committers): (Vec<_>, Vec<_>) = opened
        .into_iter()
        .zip(members)
        .map(|(Opened { writer, committed, .. }, member)| {
            (committed, Committer { writer, collection, model: member.staged.name(), observer })
        })
        .unzip();
    let lanes: Vec<Lane<'_>> = members
        .iter()
        .zip(&outputs)
        .map(|(member, committed)| Lane {
            model: member.staged.name(),
            tokenizer: &member.staged.tokenizer,
            widths: member.staged.widths(),
            shard_rows: member.staged.shard_rows(settings) as usize,
            committed,
            controller: member.controller,
            clock: member.clock,
        })
        .collect();
    let faults = FaultCount { observer, faults: job.faults, count: AtomicU64::new(0) };
    let pass = Pass {
        collection,
        lanes: &lanes,
        tokenizer_threads: job.tokenizer_threads,
        workers,
        stop: job.stop,
        clock,
        observer: &faults,
    };
    let mut commits: Vec<&mut dyn Commit> =
        committers.iter_mut().map(|committer| committer as &mut dyn Commit).collect();
    let ends = pipeline::run(pass, &mut commits)?;
    let loading_errors = faults.count.into_inner();
    let finish = |(end, committer): (Result<PassEnd, _>, Committer<'_>)| -> Result<MemberEnd, EmbedError> {
        let fault = |error: pipeline::LaneError| ModelError::new(committer.model, error);
        Ok(match end {
            Err(error) => Err(fault(error)),
            Ok(end) => Ok(committer.finish(end, loading_errors)?),
        })
    };
    ends.into_iter().zip(committers).map(finish).collect()
}

/// Commits shards and tells of them.
struct Committer<'a> {
    writer: CollectionWriter,
    collection: &'a Collection,
    model: &'a str,
    observer: &'a dyn Observer,
}

impl Committer<'_> {
    /// Closes the output, as far as it got; `true` when all rows are committed.
    fn finish(self, end: PassEnd, loading_errors: u64) -> Result<bool, PassError> {
        let manifest = match end {
            PassEnd::Complete { rows } => {
                self.writer.finish(CollectionTotals { files: self.collection.files(), rows, loading_errors })?
            }
            PassEnd::Stopped => self.writer.manifest().clone(),
        };
        self.observer.observe(&Event::CollectionFinished {
            collection: self.collection.name().clone(),
            model: self.model.to_owned(),
            complete: manifest.complete,
            outputs: output_files(self.collection.name(), self.model, &manifest),
        });
        Ok(manifest.complete)
    }
}

impl Commit for Committer<'_> {
    fn commit(&mut self, shard: &Shard) -> Result<(), CommitError> {
        let committed = self.writer.commit(shard)?;
        self.observer.observe(&Event::ShardCommitted {
            collection: self.collection.name().clone(),
            model: self.model.to_owned(),
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

/// Faults of the input that have been told of. Every turn reads the input again, and would tell of them again.
#[derive(Default)]
pub(super) struct Faults {
    hasher: RandomState,
    told: Mutex<HashSet<u64>>,
}

impl Faults {
    fn is_new(&self, event: &Event) -> bool {
        let (Event::LoadingError { error, .. } | Event::InputWarning { warning: error, .. }) = event else {
            return true;
        };
        let place = (error.path.as_str(), error.line, error.column, error.index, error.reason.as_str());
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(self.hasher.hash_one(place))
    }
}

/// Passes events on, faults only once, and counts the faults in files, for the manifest.
struct FaultCount<'a> {
    observer: &'a dyn Observer,
    faults: &'a Faults,
    count: AtomicU64,
}

impl Observer for FaultCount<'_> {
    fn observe(&self, event: &Event) {
        if let Event::LoadingError { .. } = event {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        if self.faults.is_new(event) {
            self.observer.observe(event);
        }
    }
}

fn resumed(collection: &Collection, staged: &Staged, opened: &Opened) -> Event {
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
        model: staged.name().to_owned(),
        shards: opened.committed.shards.len() as u64,
        rows: opened.committed.rows(),
        by_status: by_status(kept),
        tokens_truncated: opened.committed.shards.iter().map(|shard| shard.totals.tokens_truncated).sum(),
        damage: opened.damage.as_ref().map(ToString::to_string),
    }
}

pub(super) fn by_status(counts: Counts) -> BTreeMap<RowStatus, u64> {
    BTreeMap::from([
        (RowStatus::Ok, counts.ok),
        (RowStatus::Truncated, counts.truncated),
        (RowStatus::Empty, counts.empty),
        (RowStatus::Failed, counts.failed),
    ])
}

/// The files that a manifest lists.
pub(super) fn output_files(collection: &CollectionName, model: &str, manifest: &Manifest) -> Vec<OutputFile> {
    let directory = format!("{collection}/{}", directory_name(model));
    let files = manifest.shards.iter().flat_map(|shard| &shard.files);
    files
        .map(|file| OutputFile { path: format!("{directory}/{}", file.name), bytes: file.bytes, sha256: file.sha256 })
        .collect()
}
