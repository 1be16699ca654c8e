//! Random pauses between two tries, so that none of several waiting processes is always the last.

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

/// Milliseconds between two looks at a device that is only perhaps leased.
pub(super) const SHORT_PAUSE: RangeInclusive<u64> = 2..=5;

/// Milliseconds between two tries while waiting for a lease: short against the time for which a device is held.
pub(super) const LONG_PAUSE: RangeInclusive<u64> = 20..=100;

/// Milliseconds between two looks at a foreign process. No computation ends sooner for being looked at.
pub(super) const FOREIGN_PAUSE: RangeInclusive<u64> = 500..=1000;

/// A random time within this range of milliseconds.
pub(super) fn pause(milliseconds: &RangeInclusive<u64>) -> Duration {
    let (least, most) = (milliseconds.start(), milliseconds.end());
    let random = RandomState::new().hash_one(thread::current().id());
    Duration::from_millis(least + random % (most - least + 1))
}
