//! One collection through the models of a turn: outputs opened, the pipeline run, shards committed and told of.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{EmbedError, ModelError, with_causes};
use super::job::{Faults, Job, Member};
use super::staged::Staged;
use super::{reuse, update};
use crate::collection::Collection;
use crate::domain::{CollectionName, RowStatus, Shard};
use crate::known::Known;
use crate::output::{
    CollectionTotals, CollectionWriter, CommitError, Counts, Manifest, OpenError, Opened, Plan, directory_name,
    forget_previous,
};
use crate::pipeline::{self, Commit, Lane, Pass, PassEnd, PassError, StageClock, Worker};
use crate::telemetry::event::{Event, Observer, OutputFile};

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
    let mut known = Vec::new();
    let mut plans: Vec<Plan> = members.iter().map(|member| member.staged.plan(settings)).collect();
    if settings.incremental {
        update::prepare(job, collection, &mut plans)?;
    }
    for (member, plan) in members.iter().zip(&plans) {
        let output = CollectionWriter::open(&settings.output_dir, name, plan)?;
        if output.committed.rows() > 0 || output.damage.is_some() {
            observer.observe(&resumed(collection, member.staged, &output));
        }
        let model = member.staged.name().to_owned();
        observer.observe(&Event::CollectionStarted { collection: name.clone(), model });
        // Of a complete output, nothing is to be computed.
        known.push(if output.complete { None } else { reuse::known(job, name, member).map_err(OpenError::from)? });
        opened.push(output);
    }
    let (outputs, mut committers): (Vec<_>, Vec<_>) = opened
        .into_iter()
        .zip(members.iter().zip(&known))
        .map(|(Opened { writer, committed, .. }, (member, known))| {
            let (model, known) = (member.staged.name(), known.as_ref());
            (committed, Committer { writer, collection, model, known, output_dir: &settings.output_dir, observer })
        })
        .unzip();
    let lanes: Vec<Lane<'_>> = members
        .iter()
        .zip(outputs.iter().zip(&known))
        .map(|(member, (committed, known))| Lane {
            model: member.staged.name(),
            profile: &member.staged.profile,
            tokenizer: &member.staged.tokenizer,
            widths: member.staged.widths(),
            shard_rows: member.staged.shard_rows(settings) as usize,
            committed,
            known: known.as_ref(),
            controllers: member.controllers,
            fallback: member.fallback,
            exact: member.exact,
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
    known: Option<&'a Known>,
    output_dir: &'a Path,
    observer: &'a dyn Observer,
}

impl Committer<'_> {
    /// Closes the output, as far as it got; `true` when all rows are committed.
    fn finish(self, end: PassEnd, loading_errors: u64) -> Result<bool, PassError> {
        let manifest = match end {
            PassEnd::Complete { rows } => {
                let totals = CollectionTotals { files: self.collection.files(), rows, loading_errors };
                let manifest = self.writer.finish(totals)?;
                // A share is not all that has taken the place of what was set aside.
                if manifest.share.is_none() {
                    forget_previous(self.output_dir, self.collection.name(), self.model).map_err(CommitError::from)?;
                }
                manifest
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
        if let Some(error) = self.known.and_then(|known| known.learn(shard).err()) {
            // The output has what the cache lacks.
            let note = format!("the cache is not added to any more: {}", with_causes(&error));
            self.observer.observe(&Event::RunNote { note });
            self.known = None;
        }
        Ok(())
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
