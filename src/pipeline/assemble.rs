//! Groups back in order, cut into shards, cut into batches.

use std::collections::BTreeMap;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::StopSwitch;
use super::collect::Message;
use super::source::{TokenizedGroup, TokenizedRow};
use crate::batch::{self, BatchLimits};
use crate::domain::{CollectionName, PackedBatch, Row, RowRecord};
use crate::output::{Committed, InputChanged, InputRow};
use crate::telemetry::event::{Event, Observer};

/// A shard whose vectors are on their way.
pub(super) struct Draft {
    pub number: u32,
    pub first_row: Row,
    pub records: Vec<RowRecord>,
    /// Rows that will come with a vector or a failure.
    pub awaited: usize,
}

/// A batch and where its vectors belong.
pub(super) struct Batch {
    pub shard: u32,
    /// Index in the shard of each sequence.
    pub rows: Vec<usize>,
    pub packed: PackedBatch,
}

/// How assembling ended.
pub(super) enum Assembled {
    /// The whole input became shards.
    All { rows: u64 },
    /// Stopped, or whoever takes the shards is gone.
    Part,
}

/// Cuts the stream of tokenised rows into shards and batches.
pub(super) struct Assembler<'a> {
    pub shard_rows: usize,
    pub limits: BatchLimits,
    pub committed: &'a Committed,
    pub collection: &'a CollectionName,
    pub stop: &'a StopSwitch,
    pub observer: &'a dyn Observer,
    pub permits: Receiver<()>,
    pub batches: Sender<Batch>,
    pub messages: Sender<Message>,
}

/// How often a thread that waits looks at the stop switch: soon enough for a person.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Whoever would take the shards is gone.
struct Disconnected;

impl Assembler<'_> {
    pub(super) fn run(self, groups: &Receiver<TokenizedGroup>) -> Result<Assembled, InputChanged> {
        let mut check = self.committed.check();
        let (mut next_group, mut waiting) = (0, BTreeMap::new());
        let (mut total, committed_rows) = (0, self.committed.rows());
        let (mut number, mut rows) = (self.committed.shards.len(), Vec::with_capacity(self.shard_rows));
        for group in groups {
            waiting.insert(group.number, group);
            while let Some(group) = waiting.remove(&next_group) {
                next_group += 1;
                self.observer.observe(&Event::Tokenized {
                    rows: group.rows.len() as u64,
                    tokens: group.rows.iter().map(|row| row.tokens.len() as u64).sum(),
                    bytes_read: group.bytes_read,
                });
                for row in group.rows {
                    total += 1;
                    if total <= committed_rows {
                        check.push(&InputRow::from(&row.record))?;
                        continue;
                    }
                    self.check_room(committed_rows)?;
                    rows.push(row);
                    if rows.len() == self.shard_rows {
                        let full = std::mem::replace(&mut rows, Vec::with_capacity(self.shard_rows));
                        if self.dispatch(number, total - full.len() as u64, full).is_err() {
                            return Ok(Assembled::Part);
                        }
                        number += 1;
                    }
                }
            }
        }
        // After a stop the input may have ended early, and what is left would be a shard with the wrong bounds.
        if self.stop.cause().is_some() {
            return Ok(Assembled::Part);
        }
        check.finish()?;
        if !rows.is_empty() && self.dispatch(number, total - rows.len() as u64, rows).is_err() {
            return Ok(Assembled::Part);
        }
        Ok(Assembled::All { rows: total })
    }

    /// Waits until a shard in flight is committed. After a stop the encoders are gone and none may ever be.
    fn wait_for_permit(&self) -> Result<(), Disconnected> {
        loop {
            match self.permits.recv_timeout(STOP_INTERVAL) {
                Ok(()) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if self.stop.cause().is_none() => {}
                Err(_) => return Err(Disconnected),
            }
        }
    }

    /// A last shard that is not full was the end of the input when it was committed.
    fn check_room(&self, committed_rows: u64) -> Result<(), InputChanged> {
        if committed_rows.is_multiple_of(self.shard_rows as u64) {
            Ok(())
        } else {
            Err(InputChanged::Longer { committed: committed_rows })
        }
    }

    /// Sends a shard on its way.
    fn dispatch(&self, number: usize, first_row: u64, rows: Vec<TokenizedRow>) -> Result<(), Disconnected> {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        for (index, TokenizedRow { record, error_is_new, .. }) in rows.iter().enumerate() {
            if let Some(reason) = record.error.as_ref().filter(|_| *error_is_new) {
                self.observer.observe(&Event::RowFailed {
                    collection: self.collection.clone(),
                    row: Row(first_row + index as u64),
                    id: record.id.clone(),
                    source: record.source.clone(),
                    reason: reason.clone(),
                });
            }
        }
        let (records, sequences): (Vec<RowRecord>, Vec<Vec<u32>>) =
            rows.into_iter().map(|row| (row.record, row.tokens)).unzip();
        self.wait_for_permit()?;
        let with_tokens: Vec<usize> = (0..sequences.len()).filter(|&index| !sequences[index].is_empty()).collect();
        let lengths: Vec<usize> = with_tokens.iter().map(|&index| sequences[index].len()).collect();
        let draft = Draft { number, first_row: Row(first_row), records, awaited: with_tokens.len() };
        self.messages.send(Message::Draft(draft)).map_err(|_| Disconnected)?;
        for planned in batch::plan(&lengths, self.limits) {
            let rows: Vec<usize> = planned.into_iter().map(|index| with_tokens[index]).collect();
            let packed = PackedBatch::new(rows.iter().map(|&index| sequences[index].as_slice()));
            self.batches.send(Batch { shard: number, rows, packed }).map_err(|_| Disconnected)?;
        }
        Ok(())
    }
}
