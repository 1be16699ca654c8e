//! A model's way through a pass. Several models may share one pass, so that the input is read once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::StageClock;
use crate::batch::{BatchLimits, Controllers};
use crate::domain::Widths;
use crate::encoder::SharedEncoder;
use crate::known::Known;
use crate::model::Profile;
use crate::output::Committed;
use crate::prepare::Tokenizer;

/// What a pass needs to know of one of its models.
pub struct Lane<'a> {
    /// Its name.
    pub model: &'a str,
    /// How it is asked.
    pub profile: &'a Profile,
    /// Its tokenizer, for this profile.
    pub tokenizer: &'a Tokenizer,
    /// The kinds of its vectors, and their widths.
    pub widths: Widths,
    /// Rows in a shard of its.
    pub shard_rows: usize,
    /// What an earlier run committed, to be checked against the input and skipped.
    pub committed: &'a Committed,
    /// Vectors that need not be computed again, if there are any.
    pub known: Option<&'a Known>,
    /// Say how large batches are; asked before each shard and each batch.
    pub controllers: &'a Mutex<Controllers>,
    /// Encodes the texts for which no device has memory, if anything may; the workers share it.
    pub fallback: Option<&'a dyn SharedEncoder>,
    /// Computes in f32, where the workers' encoders do not: for vectors that came out useless.
    pub exact: Option<&'a dyn SharedEncoder>,
    /// Where the time of tokenising, encoding and writing goes.
    pub clock: &'a StageClock,
}

impl Lane<'_> {
    /// How many of its last shards are at hand, so that texts which come again in them need not be encoded: as many as
    /// may be under way, but none where vectors of tokens make them large.
    pub(super) fn remembered_shards(&self, in_flight: usize) -> usize {
        if self.widths.multi.is_some() { 0 } else { in_flight }
    }

    /// What batches are cut to at this time, if their longest sequence has this length.
    pub(super) fn limits_soon(&self, longest: usize) -> BatchLimits {
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner).limits_soon(longest)
    }
}

/// All lanes of a pass, and which of them have failed.
#[derive(Clone, Copy)]
pub(super) struct Lanes<'a> {
    lanes: &'a [Lane<'a>],
    failed: &'a [AtomicBool],
}

impl<'a> Lanes<'a> {
    /// `failed` has a place for each lane.
    pub(super) fn new(lanes: &'a [Lane<'a>], failed: &'a [AtomicBool]) -> Self {
        Self { lanes, failed }
    }

    pub(super) fn of(self, lane: usize) -> &'a Lane<'a> {
        &self.lanes[lane]
    }

    pub(super) fn all(self) -> &'a [Lane<'a>] {
        self.lanes
    }

    pub(super) fn has_failed(self, lane: usize) -> bool {
        self.failed[lane].load(Ordering::SeqCst)
    }

    pub(super) fn fail(self, lane: usize) {
        self.failed[lane].store(true, Ordering::SeqCst);
    }
}
