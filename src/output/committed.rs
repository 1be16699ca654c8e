//! What of an output is there already, for whoever goes on with it.

use super::input_check::InputCheck;
use super::manifest::{CommittedShard, Manifest};
use super::own::Own;
use super::writer::CollectionWriter;

/// The rows that an output has.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// Its shards.
    pub shards: Vec<CommittedShard>,
    /// Whether they are all that there was.
    complete: bool,
    /// Which rows are its own, if it is a share.
    own: Option<Own>,
}

impl Committed {
    /// What a writer has committed.
    pub(super) fn of(writer: &CollectionWriter) -> Self {
        let Manifest { shards, complete, .. } = writer.manifest();
        Self { shards: shards.clone(), complete: *complete, own: writer.own().cloned() }
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.shards.iter().map(|shard| shard.totals.rows).sum()
    }

    /// Whether a row of the input is still to be embedded here.
    pub fn wants(&self, row: u64) -> bool {
        self.own.as_ref().map_or_else(|| row >= self.rows_from_the_first_on(), |own| own.wants(row))
    }

    /// Whether these rows and so many new ones are all that there are of so many rows of the input.
    pub fn is_all_with(&self, new: u64, rows: u64) -> bool {
        self.own.as_ref().map_or(rows, |own| own.rows_among(rows)) == self.rows() + new
    }

    /// The row after the last one, if the input ended there when it was embedded: all was there, or a shard has fewer
    /// rows than `shard_rows`, as only the last one may.
    pub fn end_of_input(&self, shard_rows: u64) -> Option<u64> {
        let is_short = self.shards.last().is_some_and(|last| last.totals.rows < shard_rows);
        (self.complete || is_short).then(|| self.rows_from_the_first_on())
    }

    /// A check for the rows that a run skips because they are here, or another share's.
    pub fn check(&self) -> InputCheck {
        match &self.own {
            None => InputCheck::new(&self.shards),
            Some(own) => InputCheck::of_share(&self.shards, own.clone()),
        }
    }

    fn rows_from_the_first_on(&self) -> u64 {
        self.shards.last().map_or(0, CommittedShard::end_row)
    }
}
