//! Vectors back to their rows, shards back in order, and to disk.

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, Sender};

use super::assemble::Draft;
use super::encode::Encoded;
use super::lane::Lanes;
use super::stages::Stage;
use super::{Commit, LaneError, PassError};
use crate::domain::{CollectionName, Row, RowStatus, Shard};
use crate::encoder::vector_fault;
use crate::telemetry::event::{Event, Observer};

/// What the collector is told. One channel carries all of it, so that a draft always comes before its vectors.
pub(super) enum Message {
    /// A shard to be filled.
    Draft(Draft),
    /// Some of its vectors.
    Encoded(Encoded),
    /// A model gave up; its lane is at its end.
    Failed { lane: usize, error: LaneError },
    /// No worker is left.
    WorkersLost,
    /// A worker is gone, and its batch with it.
    WorkerPanicked,
}

/// Fills drafts with vectors and commits those that are complete.
pub(super) struct Collector<'a> {
    pub lanes: Lanes<'a>,
    pub collection: &'a CollectionName,
    pub observer: &'a dyn Observer,
}

/// What became of a lane.
#[derive(Default)]
pub(super) struct Collected {
    pub committed_rows: u64,
    pub failure: Option<LaneError>,
}

/// A shard that still waits for the vectors of `awaited` rows.
struct Open {
    shard: Shard,
    awaited: usize,
}

impl Collector<'_> {
    /// Runs until nothing more can come. Takes the channels by value, for closing them is how the other threads learn
    /// of a failure.
    #[expect(clippy::needless_pass_by_value, reason = "dropping the channels ends the other threads")]
    pub(super) fn run(
        &self,
        messages: Receiver<Message>,
        permits: Sender<()>,
        commits: &mut [&mut dyn Commit],
    ) -> Result<Vec<Collected>, PassError> {
        let mut collected: Vec<Collected> = commits.iter().map(|_| Collected::default()).collect();
        let mut open: Vec<BTreeMap<u32, Open>> = commits.iter().map(|_| BTreeMap::new()).collect();
        let give_permits = |count: usize| {
            for _ in 0..count {
                // Nobody may want the permit any more, at the end.
                let _ = permits.send(());
            }
        };
        for message in &messages {
            let lane = match message {
                Message::Draft(draft) if self.lanes.has_failed(draft.lane) => {
                    give_permits(1);
                    continue;
                }
                Message::Draft(draft) => {
                    let lane = draft.lane;
                    open[lane].insert(draft.number, self.open(draft));
                    lane
                }
                Message::Encoded(encoded) => {
                    if let Some(target) = open[encoded.lane].get_mut(&encoded.shard) {
                        self.place(&encoded, target);
                    }
                    encoded.lane
                }
                Message::Failed { lane, error } => {
                    self.lanes.fail(lane);
                    give_permits(std::mem::take(&mut open[lane]).len());
                    collected[lane].failure.get_or_insert(error);
                    if collected.iter().all(|lane| lane.failure.is_some()) {
                        return Ok(collected);
                    }
                    lane
                }
                Message::WorkersLost => return Err(PassError::DevicesLost),
                Message::WorkerPanicked => return Err(PassError::Panicked { stage: "encoding" }),
            };
            while let Some(first) = open[lane].first_entry().filter(|first| first.get().awaited == 0) {
                let shard = first.remove().shard;
                self.lanes.of(lane).clock.time(Stage::Write, || commits[lane].commit(&shard))?;
                collected[lane].committed_rows += shard.records.len() as u64;
                give_permits(1);
            }
        }
        Ok(collected)
    }

    fn open(&self, draft: Draft) -> Open {
        let Draft { lane, number, first_row, records, awaited } = draft;
        let dimension = self.lanes.of(lane).dimension;
        let vectors = vec![f32::NAN; records.len() * dimension];
        Open { shard: Shard { number, first_row, dimension, records, vectors }, awaited }
    }

    /// Puts vectors where they belong. A useless one leaves its row failed and null.
    fn place(&self, encoded: &Encoded, open: &mut Open) {
        for (&index, vector) in encoded.rows.iter().zip(encoded.embeddings.rows()) {
            open.awaited -= 1;
            let shard = &mut open.shard;
            let record = &mut shard.records[index];
            if let Some(fault) = vector_fault(vector) {
                record.status = RowStatus::Failed;
                record.error = Some(fault.reason().to_owned());
                self.observer.observe(&Event::RowFailed {
                    collection: self.collection.clone(),
                    model: self.lanes.of(encoded.lane).model.to_owned(),
                    row: Row(shard.first_row.0 + index as u64),
                    id: record.id.clone(),
                    source: record.source.clone(),
                    reason: fault.reason().to_owned(),
                });
            } else {
                shard.vectors[index * shard.dimension..(index + 1) * shard.dimension].copy_from_slice(vector);
            }
        }
    }
}
