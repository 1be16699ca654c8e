//! What a share needs to know of rows that are not its own.
//!
//! Every share reads the whole input, so that what it commits says of the rows before it what a single run would say.
//! Whoever reads the rows leaves the states of the chain here, and the writer finds them when the shards come.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::manifest::{CommittedShard, Manifest};
use crate::domain::{Digest, Portion};

/// A share's way through the input of a collection. Clones share what is read.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) portion: Portion,
    /// Rows of every part but the last.
    part_rows: u64,
    committed: Arc<HashSet<u64>>,
    /// Where the input ended when the share was complete.
    known_end: Option<End>,
    states: Arc<Mutex<States>>,
}

/// The end of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) rows: u64,
    /// State of the input chain.
    pub(super) input_chain: Digest,
}

#[derive(Debug, Default)]
struct States {
    /// The chain before the first row of each part that is to be committed.
    before: BTreeMap<u64, Digest>,
    end: Option<End>,
}

impl Own {
    /// What a manifest says; `None` unless it is that of a share.
    pub(super) fn of(manifest: &Manifest) -> Option<Self> {
        let (record, portion) = (manifest.share?, manifest.portion()?);
        let end = |input_chain| Some(End { rows: manifest.input?.rows, input_chain });
        Some(Self {
            portion,
            part_rows: u64::from(manifest.shard_rows),
            committed: Arc::new(manifest.shards.iter().map(|shard| u64::from(shard.number)).collect()),
            known_end: record.input_chain.filter(|_| manifest.complete).and_then(end),
            states: Arc::default(),
        })
    }

    /// Whether a row is to be embedded: it is the share's, and not committed.
    pub(super) fn wants(&self, row: u64) -> bool {
        let part = row / self.part_rows;
        self.portion.owns(part) && !self.committed.contains(&part)
    }

    /// Rows of the share among so many.
    pub(super) fn rows_among(&self, rows: u64) -> u64 {
        self.portion.rows(rows, self.part_rows)
    }

    /// The row after the last one of the input, if that is known: the share was complete, or the last of these shards
    /// was not full and so was the end.
    pub(super) fn end_of_input(&self, shards: &[CommittedShard]) -> Option<u64> {
        if let Some(end) = self.known_end {
            return Some(end.rows);
        }
        shards.last().filter(|last| last.totals.rows < self.part_rows).map(CommittedShard::end_row)
    }

    /// Takes note of the chain before a row, if the writer will ask for it.
    pub(super) fn before_row(&self, row: u64, input_chain: Digest) {
        if row.is_multiple_of(self.part_rows) && self.wants(row) {
            self.states().before.insert(row / self.part_rows, input_chain);
        }
    }

    /// The chain before the first row of a part, once all rows before it have been read.
    pub(super) fn before_part(&self, part: u64) -> Option<Digest> {
        self.states().before.get(&part).copied()
    }

    /// A part is committed: nobody will ask again what came before it, nor before the earlier ones.
    pub(super) fn committed(&self, part: u64) {
        let mut states = self.states();
        states.before = states.before.split_off(&(part + 1));
    }

    /// The input has ended; false if that is not where it ended when the share was complete.
    pub(super) fn ends_at(&self, end: End) -> bool {
        self.states().end = Some(end);
        self.known_end.is_none_or(|known| known == end)
    }

    /// Where the input ended.
    pub(super) fn end(&self) -> Option<End> {
        self.states().end
    }

    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
