//! Fusion of the members when their turns are over, collection by collection.

use std::time::Instant;

use super::collection::{by_status, output_files};
use super::error::EmbedError;
use super::staged::{Staged, existing};
use crate::config::Resolved;
use crate::domain::{CollectionName, VectorKind};
use crate::fusion::{FUSED, Member, MemberShape, Method, Rebuilt, Request, Step, fuse, plan};
use crate::pipeline::StopSwitch;
use crate::telemetry::event::{Event, Observer};

/// Members that will be fused.
pub(super) struct Fusing {
    method: Method,
    members: Vec<Member>,
}

impl Fusing {
    /// Checks, before any work, that these models can be fused as the settings ask; `None` if nothing is to be fused.
    pub(super) fn new(
        resolved: &Resolved,
        models: &[&Staged],
        observer: &dyn Observer,
    ) -> Result<Option<Self>, EmbedError> {
        let ensemble = &resolved.ensemble;
        let Some(method) = Method::of(resolved.settings.fusion).filter(|_| ensemble.models.len() > 1) else {
            return Ok(None);
        };
        if resolved.settings.share().is_some() {
            let note =
                "a share is not fused; run the same command without --shard once all shares are merged".to_owned();
            observer.observe(&Event::RunNote { note });
            return Ok(None);
        }
        if models.len() < ensemble.models.len() {
            let note = "not every member of the ensemble can be had, so that nothing will be fused".to_owned();
            observer.observe(&Event::RunNote { note });
            return Ok(None);
        }
        if let Some(without) = models.iter().find(|staged| staged.widths().dense.is_none()) {
            let note = format!("{} gives no dense vectors, so that nothing will be fused", without.name());
            observer.observe(&Event::RunNote { note });
            return Ok(None);
        }
        if models.iter().any(|staged| staged.info.emit != [VectorKind::Dense]) {
            let note = "dense vectors alone are fused; the others are written as the members'".to_owned();
            observer.observe(&Event::RunNote { note });
        }
        let shape =
            |staged: &&Staged| MemberShape { model: staged.name().to_owned(), dimension: staged.info.dimension };
        let dimension = plan(method, &models.iter().map(shape).collect::<Vec<_>>()).map_err(EmbedError::Shape)?;
        let member = |(staged, weight): (&&Staged, &f64)| Member { model: staged.name().to_owned(), weight: *weight };
        let members: Vec<Member> = models.iter().zip(&ensemble.weights).map(member).collect();
        observer.observe(&Event::FusionPlanned {
            method: resolved.settings.fusion,
            dimension,
            members: members.iter().map(|member| (member.model.clone(), member.weight)).collect(),
        });
        Ok(Some(Self { method, members }))
    }

    /// Fuses a collection; all its members must be complete.
    pub(super) fn fuse(
        &self,
        resolved: &Resolved,
        collection: &CollectionName,
        stop: &StopSwitch,
        observer: &dyn Observer,
    ) -> Result<(), EmbedError> {
        let settings = &resolved.settings;
        let request = Request {
            output_dir: &settings.output_dir,
            collection,
            method: self.method,
            members: &self.members,
            formats: &settings.format,
            shard_rows: settings.part_rows,
            existing: existing(settings),
        };
        let start = Instant::now();
        let manifest = fuse(&request, &|| stop.cause().is_some(), &mut |step| tell(collection, &step, observer))?;
        observer.observe(&Event::CollectionFused {
            collection: collection.clone(),
            complete: manifest.complete,
            seconds: start.elapsed().as_secs_f64(),
            outputs: output_files(collection, FUSED, &manifest),
        });
        Ok(())
    }
}

fn tell(collection: &CollectionName, step: &Step<'_>, observer: &dyn Observer) {
    match step {
        Step::Opened { rebuilt: None, .. } => {}
        Step::Opened { rebuilt: Some(rebuilt), .. } => {
            let why = match rebuilt {
                Rebuilt::MembersChanged => "members were embedded again",
                Rebuilt::InputChanged => "the input has changed",
            };
            let note = format!("{collection}: {why} since they were fused, so the fused vectors are made anew");
            observer.observe(&Event::RunNote { note });
        }
        Step::RowFailed { row, record, reason } => observer.observe(&Event::RowFailed {
            collection: collection.clone(),
            model: FUSED.to_owned(),
            row: *row,
            id: record.id.clone(),
            source: record.source.clone(),
            reason: (*reason).to_owned(),
        }),
        Step::Committed(shard) => observer.observe(&Event::FusedShard {
            collection: collection.clone(),
            shard: shard.number,
            by_status: by_status(shard.totals.counts),
        }),
    }
}
