//! Where the time of a pass goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::telemetry::event::StageSeconds;

/// Seconds spent in each stage, summed over its threads, so that a sum may exceed the time on the clock.
#[derive(Debug, Default)]
pub struct StageClock {
    read: AtomicU64,
    tokenize: AtomicU64,
    forward: AtomicU64,
    write: AtomicU64,
    wait: AtomicU64,
}

/// A stage of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading, decompressing and parsing.
    Read,
    /// Hashing and tokenising.
    Tokenize,
    /// The model, pooling included.
    Forward,
    /// Formatting, writing and syncing.
    Write,
    /// Encoders without a batch.
    Wait,
}

impl StageClock {
    /// Does some work and charges its time to a stage.
    pub fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counter(stage).fetch_add(nanoseconds, Ordering::Relaxed);
        result
    }

    /// The sums up to now.
    pub fn seconds(&self) -> StageSeconds {
        let seconds = |stage| self.counter(stage).load(Ordering::Relaxed) as f64 / 1e9;
        StageSeconds {
            read: seconds(Stage::Read),
            tokenize: seconds(Stage::Tokenize),
            forward: seconds(Stage::Forward),
            write: seconds(Stage::Write),
            wait: seconds(Stage::Wait),
        }
    }

    fn counter(&self, stage: Stage) -> &AtomicU64 {
        match stage {
            Stage::Read => &self.read,
            Stage::Tokenize => &self.tokenize,
            Stage::Forward => &self.forward,
            Stage::Write => &self.write,
            Stage::Wait => &self.wait,
        }
    }
}
