//! How the program speaks of its work: events on one side, observers on the other.

pub mod event;
mod log;
mod progress;
mod recorder;
mod summary;

pub use log::{Log, Plain};
pub use progress::{Progress, Shown};
pub use recorder::Recorder;
pub use summary::{
    Bottleneck, CollectionSummary, FusionSummary, Machine, PassSummary, RunStatus, SCHEMA_VERSION, Summary,
    SummaryBuilder, Tool,
};

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, for people and other programs; never for measuring.
pub fn epoch_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
