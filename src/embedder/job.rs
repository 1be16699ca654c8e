//! What the parts of a run share.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use super::devices::Devices;
use super::slot::DeviceSlot;
use super::staged::Staged;
use crate::batch::Controllers;
use crate::collection::Collection;
use crate::config::{Resolved, Settings};
use crate::encoder::SharedEncoder;
use crate::pipeline::{StageClock, StopSwitch};
use crate::telemetry::event::{Event, Observer};

/// What every turn of a run needs.
#[derive(Clone, Copy)]
pub(super) struct Turns<'a> {
    pub job: Job<'a>,
    pub devices: &'a Devices,
    pub places: &'a [DeviceSlot],
    pub collections: &'a [Collection],
    /// Models that are kept on their devices after their turn.
    pub keep: bool,
}

/// A model that takes part in a turn.
pub(super) struct Member<'a> {
    pub staged: &'a Staged,
    pub controllers: &'a Mutex<Controllers>,
    /// See [`crate::pipeline::Lane::fallback`].
    pub fallback: Option<&'a dyn SharedEncoder>,
    /// See [`crate::pipeline::Lane::exact`].
    pub exact: Option<&'a dyn SharedEncoder>,
    pub clock: &'a StageClock,
}

/// What all collections of a run share.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub resolved: &'a Resolved,
    pub settings: &'a Settings,
    pub tokenizer_threads: usize,
    pub run_id: &'a str,
    pub stop: &'a StopSwitch,
    pub faults: &'a Faults,
    pub observer: &'a dyn Observer,
}

/// Faults of the input that have been told of. Every turn reads the input again, and would tell of them again.
#[derive(Default)]
pub(super) struct Faults {
    hasher: RandomState,
    told: Mutex<HashSet<u64>>,
}

impl Faults {
    /// Whether an event has not been reported before.
    pub(super) fn is_new(&self, event: &Event) -> bool {
        let (Event::LoadingError { error, .. } | Event::InputWarning { warning: error, .. }) = event else {
            return true;
        };
        let place = (error.path.as_str(), error.line, error.column, error.index, error.reason.as_str());
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(self.hasher.hash_one(place))
    }
}
