//! Vectors back to their rows, shards back in order, and to disk.

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, Sender};

use super::assemble::Draft;
use super::encode::Encoded;
use super::stages::{Stage, StageClock};
use super::{Commit, PassError};
use crate::domain::{CollectionName, Row, RowStatus, Shard};
use crate::encoder::vector_fault;
use crate::telemetry::event::{Event, Observer};

/// What the collector is told. One channel carries all of it, so that a draft always comes before its vectors.
pub(super) enum Message {
    /// A shard to be filled.
    Draft(Draft),
    /// Some of its vectors.
    Encoded(Encoded),
    /// A thread gave up.
    Failed(PassError),
}

/// Fills drafts with vectors and commits those that are complete.
pub(super) struct Collector<'a> {
    pub dimension: usize,
    pub collection: &'a CollectionName,
    pub observer: &'a dyn Observer,
    pub clock: &'a StageClock,
}

/// A shard that still waits for the vectors of `awaited` rows.
struct Open {
    shard: Shard,
    awaited: usize,
}

impl Collector<'_> {
    /// Runs until nothing more can come; returns how many rows were committed. Takes the channels by value, for
    /// closing them is how the other threads learn of a failure.
    #[expect(clippy::needless_pass_by_value, reason = "dropping the channels ends the other threads")]
    pub(super) fn run(
        &self,
        messages: Receiver<Message>,
        permits: Sender<()>,
        commit: &mut dyn Commit,
    ) -> Result<u64, PassError> {
        let (mut open, mut committed_rows) = (BTreeMap::<u32, Open>::new(), 0);
        for message in &messages {
            match message {
                Message::Draft(draft) => {
                    open.insert(draft.number, self.open(draft));
                }
                Message::Encoded(encoded) => {
                    if let Some(target) = open.get_mut(&encoded.shard) {
                        self.place(&encoded, target);
                    }
                }
                Message::Failed(error) => return Err(error),
            }
            while let Some(first) = open.first_entry().filter(|first| first.get().awaited == 0) {
                let shard = first.remove().shard;
                self.clock.time(Stage::Write, || commit.commit(&shard))?;
                committed_rows += shard.records.len() as u64;
                // Nobody may want the permit any more, at the end.
                let _ = permits.send(());
            }
        }
        Ok(committed_rows)
    }

    fn open(&self, draft: Draft) -> Open {
        let vectors = vec![f32::NAN; draft.records.len() * self.dimension];
        let Draft { number, first_row, records, awaited } = draft;
        Open { shard: Shard { number, first_row, dimension: self.dimension, records, vectors }, awaited }
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
                    row: Row(shard.first_row.0 + index as u64),
                    id: record.id.clone(),
                    source: record.source.clone(),
                    reason: fault.reason().to_owned(),
                });
            } else {
                shard.vectors[index * self.dimension..(index + 1) * self.dimension].copy_from_slice(vector);
            }
        }
    }
}
