//! Groups back in order, cut into shards, cut into batches.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::StopSwitch;
use super::collect::Message;
use super::lane::Lanes;
use super::queue::Inlet;
use super::source::{TokenizedGroup, TokenizedRow};
use crate::batch;
use crate::domain::{CollectionName, Digest, PackedBatch, Row, RowRecord, TokenSeq};
use crate::known::KnownRow;
use crate::output::{InputChanged, InputCheck, InputRow};
use crate::telemetry::event::{Event, Observer};

/// A shard whose vectors are on their way.
pub(super) struct Draft {
    pub lane: usize,
    pub number: u32,
    pub first_row: Row,
    pub records: Vec<RowRecord>,
    /// Rows that will come with a vector or a failure.
    pub awaited: usize,
    /// Rows whose vectors are here.
    pub known: Vec<(usize, KnownRow)>,
    /// Rows with the text of an earlier one, and that one: what becomes of it becomes of them.
    pub repeated: Vec<(usize, Origin)>,
}

/// Where a text came first: in this shard or in one of the last before it that are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub shard: u32,
    pub index: usize,
}

/// A batch and where its vectors belong.
pub(super) struct Batch {
    pub lane: usize,
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
    pub workers: usize,
    /// Most shards between here and the disk.
    pub shards_in_flight: usize,
    pub lanes: Lanes<'a>,
    pub collection: &'a CollectionName,
    pub stop: &'a StopSwitch,
    pub observer: &'a dyn Observer,
    pub permits: Receiver<()>,
    pub batches: Inlet<'a>,
    pub messages: Sender<Message>,
}

/// How often a thread that waits looks at the stop switch: soon enough for a person.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Whoever would take the shards is gone.
struct Disconnected;

/// Whether the input is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    No,
    Yes,
}

/// Where a lane is in the input. Lanes with shards of one size cut at the same rows, but begin where each of them was
/// before.
struct Front {
    lane: usize,
    check: InputCheck,
    committed_rows: u64,
    shard_rows: u64,
    rows: Vec<TokenizedRow>,
    recent: Recent,
}

/// Where the texts of the last shards came first.
struct Recent {
    shards: VecDeque<HashMap<Digest, Origin>>,
    most: usize,
}

impl Assembler<'_> {
    pub(super) fn run(self, groups: &Receiver<TokenizedGroup>) -> Result<Assembled, InputChanged> {
        let mut fronts: Vec<Front> = (0..)
            .zip(self.lanes.all())
            .map(|(lane, spec)| Front {
                lane,
                check: spec.committed.check(),
                committed_rows: spec.committed.rows(),
                shard_rows: spec.shard_rows as u64,
                rows: Vec::new(),
                recent: Recent { shards: VecDeque::new(), most: spec.remembered_shards(self.shards_in_flight) },
            })
            .collect();
        let (mut next_group, mut waiting, mut total) = (0, BTreeMap::new(), 0);
        for group in groups {
            waiting.insert(group.number, group);
            while let Some(group) = waiting.remove(&next_group) {
                next_group += 1;
                self.tell(&group);
                for rows in group.rows {
                    total += 1;
                    for (front, row) in fronts.iter_mut().zip(rows) {
                        front.push(total, row)?;
                    }
                    if self.dispatch(&mut fronts, total, AtEnd::No).is_err() {
                        return Ok(Assembled::Part);
                    }
                }
            }
        }
        // After a stop the input may have ended early, and what is left would be a shard with the wrong bounds.
        if self.stop.cause().is_some() {
            return Ok(Assembled::Part);
        }
        fronts.iter().try_for_each(|front| front.check.finish())?;
        if self.dispatch(&mut fronts, total, AtEnd::Yes).is_err() {
            return Ok(Assembled::Part);
        }
        Ok(Assembled::All { rows: total })
    }

    fn tell(&self, group: &TokenizedGroup) {
        let tokens = group.rows.iter().flatten().map(|row| row.tokens.ids.len() as u64).sum();
        let rows = group.rows.len() as u64;
        self.observer.observe(&Event::Tokenized { rows, tokens, bytes_read: group.bytes_read });
    }

    /// Sends the shards that are full at row `end` on their way, and at the end of the input all others; a batch of each
    /// lane in turn.
    fn dispatch(&self, fronts: &mut [Front], end: u64, at_end: AtEnd) -> Result<(), Disconnected> {
        let mut trains = Vec::new();
        let is_full = |front: &Front| at_end == AtEnd::Yes || end.is_multiple_of(front.shard_rows);
        for front in fronts.iter_mut().filter(|front| is_full(front) && !front.rows.is_empty()) {
            let rows = std::mem::take(&mut front.rows);
            if !self.lanes.has_failed(front.lane) {
                let first_row = end - rows.len() as u64;
                trains.push(self.draft(front.lane, first_row, rows, &mut front.recent)?.into_iter());
            }
        }
        while !trains.is_empty() {
            for train in &mut trains {
                if let Some(batch) = train.next() {
                    self.batches.push(batch).map_err(|_| Disconnected)?;
                }
            }
            trains.retain(|train| train.len() > 0);
        }
        Ok(())
    }

    /// Announces a shard, and cuts it into batches.
    fn draft(
        &self,
        lane: usize,
        first_row: u64,
        rows: Vec<TokenizedRow>,
        recent: &mut Recent,
    ) -> Result<Vec<Batch>, Disconnected> {
        let number = u32::try_from(first_row / self.lanes.of(lane).shard_rows as u64).unwrap_or(u32::MAX);
        self.tell_failures(lane, first_row, &rows);
        let (mut records, mut sequences, mut known) = (Vec::new(), Vec::new(), Vec::new());
        for (index, row) in rows.into_iter().enumerate() {
            records.push(row.record);
            sequences.push(row.tokens);
            known.extend(row.known.map(|row| (index, row)));
        }
        self.wait_for_permit()?;
        if let Some(store) = self.lanes.of(lane).known {
            // Shards that were committed meanwhile may have told of some of these.
            for (index, (record, tokens)) in records.iter().zip(&mut sequences).enumerate() {
                let row = record.text_sha256.filter(|_| !tokens.ids.is_empty()).and_then(|text| store.get(&text));
                if let Some(row) = row.filter(|row| row.goes_with(record.status, tokens.ids.len())) {
                    known.push((index, row));
                    *tokens = TokenSeq::default();
                }
            }
        }
        let (with_tokens, repeated) = recent.once_each(number, &records, &sequences);
        let lengths: Vec<usize> = with_tokens.iter().map(|&index| sequences[index].ids.len()).collect();
        self.tell_of_reuse(lane, known.len(), repeated.len());
        let awaited = with_tokens.len();
        let draft = Draft { lane, number, first_row: Row(first_row), records, awaited, known, repeated };
        self.messages.send(Message::Draft(draft)).map_err(|_| Disconnected)?;
        let planned = batch::plan(&lengths, |longest| self.lanes.of(lane).limits_soon(longest), self.workers);
        let pack = |places: Vec<usize>| {
            let rows: Vec<usize> = places.into_iter().map(|place| with_tokens[place]).collect();
            let packed = PackedBatch::of(rows.iter().map(|&index| &sequences[index]));
            Batch { lane, shard: number, rows, packed }
        };
        Ok(planned.into_iter().map(pack).collect())
    }

    fn tell_of_reuse(&self, lane: usize, known: usize, repeated: usize) {
        if known + repeated > 0 {
            self.observer.observe(&Event::VectorsReused {
                collection: self.collection.clone(),
                model: self.lanes.of(lane).model.to_owned(),
                known: known as u64,
                repeated: repeated as u64,
            });
        }
    }

    fn tell_failures(&self, lane: usize, first_row: u64, rows: &[TokenizedRow]) {
        for (index, TokenizedRow { record, error_is_new, .. }) in (0..).zip(rows) {
            if let Some(reason) = record.error.as_ref().filter(|_| *error_is_new) {
                self.observer.observe(&Event::RowFailed {
                    collection: self.collection.clone(),
                    model: self.lanes.of(lane).model.to_owned(),
                    row: Row(first_row + index),
                    id: record.id.clone(),
                    source: record.source.clone(),
                    reason: reason.clone(),
                });
            }
        }
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
}

impl Front {
    /// Takes a row, which is the `total`-th: checks it if it is committed, keeps it if it is not.
    fn push(&mut self, total: u64, row: TokenizedRow) -> Result<(), InputChanged> {
        if total <= self.committed_rows {
            return self.check.push(&InputRow::from(&row.record)).map(|_| ());
        }
        // A last shard that is not full was the end of the input when it was committed.
        if !self.committed_rows.is_multiple_of(self.shard_rows) {
            return Err(InputChanged::Longer { committed: self.committed_rows });
        }
        self.rows.push(row);
        Ok(())
    }
}

impl Recent {
    /// The rows of a shard to encode, each text once, and those that have the text of an earlier one, with it.
    fn once_each(
        &mut self,
        shard: u32,
        records: &[RowRecord],
        sequences: &[TokenSeq],
    ) -> (Vec<usize>, Vec<(usize, Origin)>) {
        let (mut own, mut once, mut repeated) = (HashMap::new(), Vec::new(), Vec::new());
        for index in (0..sequences.len()).filter(|&index| !sequences[index].ids.is_empty()) {
            let Some(text) = records[index].text_sha256 else {
                once.push(index);
                continue;
            };
            let earlier = || self.shards.iter().find_map(|shard| shard.get(&text));
            if let Some(origin) = own.get(&text).or_else(earlier) {
                repeated.push((index, *origin));
            } else {
                own.insert(text, Origin { shard, index });
                once.push(index);
            }
        }
        self.shards.push_back(own);
        while self.shards.len() > self.most {
            self.shards.pop_front();
        }
        (once, repeated)
    }
}
