//! Vectors back to their rows, shards back in order, and to disk.

use std::collections::{BTreeMap, VecDeque};

use crossbeam_channel::{Receiver, Sender};

use super::assemble::{Draft, Origin};
use super::encode::Encoded;
use super::lane::Lanes;
use super::queue::Outlet;
use super::stages::Stage;
use super::{Commit, LaneError, PassError};
use crate::domain::{CollectionName, MultiVectors, Row, RowStatus, Shard, SparseVector};
use crate::encoder::fault;
use crate::known::KnownRow;
use crate::telemetry::event::{Event, Observer};

/// What the collector is told. One channel carries all of it, so that a draft always comes before its vectors.
pub(super) enum Message {
    /// A shard to be filled.
    Draft(Draft),
    /// Some of its vectors.
    Encoded(Encoded),
    /// A row for which there was no memory anywhere.
    RowFailed { lane: usize, shard: u32, row: usize, reason: String },
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
    pub shards_in_flight: usize,
    pub collection: &'a CollectionName,
    pub observer: &'a dyn Observer,
    /// Told of what is committed.
    pub outlet: Outlet<'a>,
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
    /// Rows with the text of an earlier one, and that one.
    repeated: Vec<(usize, Origin)>,
}

impl Collector<'_> {
    /// The shard, with equal vectors for equal texts; `recent` are those before it.
    fn complete(&self, lane: usize, open: Open, recent: &VecDeque<Shard>) -> Shard {
        let Open { mut shard, repeated, .. } = open;
        let dimension = shard.dimension;
        for (index, Origin { shard: number, index: first }) in repeated {
            let earlier = recent.iter().find(|earlier| earlier.number == number);
            let origin = earlier.unwrap_or(&shard);
            let error = origin.records[first].error.clone();
            let vector = origin.vectors[first * dimension..(first + 1) * dimension].to_vec();
            let sparse = origin.sparse.as_ref().map(|rows| rows[first].clone());
            let multi = origin.multi.as_ref().map(|multi| multi.texts[first].clone());
            if let Some(reason) = error {
                self.fail(lane, &mut shard, index, &reason);
                continue;
            }
            shard.vectors[index * dimension..(index + 1) * dimension].copy_from_slice(&vector);
            if let (Some(rows), Some(sparse)) = (&mut shard.sparse, sparse) {
                rows[index] = sparse;
            }
            if let (Some(rows), Some(multi)) = (&mut shard.multi, multi) {
                rows.texts[index] = multi;
            }
        }
        shard
    }

    /// Runs until nothing more can come. Takes the channels by value, for closing them is how the other threads learn
    /// of a failure.
    #[expect(clippy::needless_pass_by_value, reason = "dropping the channels ends the other threads")]
    pub(super) fn run(
        self,
        messages: Receiver<Message>,
        permits: Sender<()>,
        commits: &mut [&mut dyn Commit],
    ) -> Result<Vec<Collected>, PassError> {
        let mut collected: Vec<Collected> = commits.iter().map(|_| Collected::default()).collect();
        let mut open: Vec<BTreeMap<u32, Open>> = commits.iter().map(|_| BTreeMap::new()).collect();
        let mut recent: Vec<VecDeque<Shard>> = commits.iter().map(|_| VecDeque::new()).collect();
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
                    let lane = encoded.lane;
                    if let Some(target) = open[lane].get_mut(&encoded.shard) {
                        self.place(encoded, target);
                    }
                    lane
                }
                Message::RowFailed { lane, shard, row, reason } => {
                    if let Some(target) = open[lane].get_mut(&shard) {
                        target.awaited -= 1;
                        self.fail(lane, &mut target.shard, row, &reason);
                    }
                    lane
                }
                Message::Failed { lane, error } => {
                    self.lanes.fail(lane);
                    self.outlet.failed(lane);
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
                let shard = self.complete(lane, first.remove(), &recent[lane]);
                self.lanes.of(lane).clock.time(Stage::Write, || commits[lane].commit(&shard))?;
                self.outlet.committed(lane, shard.number);
                collected[lane].committed_rows += shard.records.len() as u64;
                recent[lane].push_back(shard);
                while recent[lane].len() > self.lanes.of(lane).remembered_shards(self.shards_in_flight) {
                    recent[lane].pop_front();
                }
                give_permits(1);
            }
        }
        Ok(collected)
    }

    fn open(&self, draft: Draft) -> Open {
        let Draft { lane, number, first_row, records, awaited, known, repeated } = draft;
        let (rows, widths) = (records.len(), self.lanes.of(lane).widths);
        let dimension = widths.dense.unwrap_or_default();
        let multi = |dimension| MultiVectors { dimension, texts: vec![Vec::new(); rows] };
        let mut shard = Shard {
            number,
            first_row,
            dimension,
            vectors: vec![f32::NAN; rows * dimension],
            sparse: widths.sparse.map(|_| vec![SparseVector::default(); rows]),
            multi: widths.multi.map(multi),
            records,
        };
        for (index, KnownRow { dense, sparse, multi, .. }) in known {
            shard.vectors[index * dimension..(index + 1) * dimension].copy_from_slice(&dense);
            if let (Some(rows), Some(sparse)) = (&mut shard.sparse, sparse) {
                rows[index] = sparse;
            }
            if let (Some(rows), Some(multi)) = (&mut shard.multi, multi) {
                rows.texts[index] = multi;
            }
        }
        Open { shard, awaited, repeated }
    }

    /// Puts vectors where they belong. A useless one leaves its row failed and null.
    fn place(&self, encoded: Encoded, open: &mut Open) {
        let Encoded { lane, rows, embeddings, .. } = encoded;
        let dimension = embeddings.dimension;
        let mut sparse = embeddings.sparse.unwrap_or_default();
        let mut multi = embeddings.multi.unwrap_or_default().texts;
        for (place, index) in rows.into_iter().enumerate() {
            open.awaited -= 1;
            let shard = &mut open.shard;
            let vector = embeddings.values.get(place * dimension..(place + 1) * dimension).filter(|_| dimension > 0);
            if let Some(fault) = fault(vector, sparse.get(place), multi.get(place).map(Vec::as_slice)) {
                self.fail(lane, shard, index, fault.reason());
                continue;
            }
            if let Some(vector) = vector {
                shard.vectors[index * dimension..(index + 1) * dimension].copy_from_slice(vector);
            }
            if let (Some(rows), Some(sparse)) = (&mut shard.sparse, sparse.get_mut(place)) {
                rows[index] = std::mem::take(sparse);
            }
            if let (Some(rows), Some(vectors)) = (&mut shard.multi, multi.get_mut(place)) {
                rows.texts[index] = std::mem::take(vectors);
            }
        }
    }

    /// Leaves a row without a vector, and tells why.
    fn fail(&self, lane: usize, shard: &mut Shard, index: usize, reason: &str) {
        let record = &mut shard.records[index];
        record.status = RowStatus::Failed;
        record.error = Some(reason.to_owned());
        self.observer.observe(&Event::RowFailed {
            collection: self.collection.clone(),
            model: self.lanes.of(lane).model.to_owned(),
            row: Row(shard.first_row.0 + index as u64),
            id: record.id.clone(),
            source: record.source.clone(),
            reason: reason.to_owned(),
        });
    }
}
