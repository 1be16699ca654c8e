//! Sizes that failed for want of memory, and when they may be tried again.
//!
//! After a failure batches are half as large. They come back towards the size that failed in small steps, each after
//! some batches went well, and to the size itself much later: memory that is in pieces stays so. Should it fail again,
//! both take longer; should it go well, the failure was none of its size and is forgotten. While another program that was
//! on the device is still there, the size is not tried again at all; when that is gone, sooner. And so it is with a
//! failure that its size does not explain, since batches twice as large went well.

use super::Costs;

/// Batches that must go well before the bound rises half the way to nine tenths of the size that failed; doubled with
/// every failure.
const PATIENCE: u64 = 12;

/// Batches that must go well before the size that failed is tried again; four times as many with every failure.
const LONG: u64 = 64;

/// Batches of a size that failed that must go well before the failure counts as none of its size.
const SURE: u32 = 12;

/// Failures after which nothing becomes longer.
const MOST_TIMES: u32 = 8;

/// What others may hold without being neighbours: contexts of drivers, displays.
const NOBODY_BYTES: u64 = 64 << 20;

/// What failed, and what is allowed since.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Refusal {
    failed: Option<Failed>,
    /// Failures that their sizes explain, one after the other.
    times: u32,
    /// Planned activations of the last of them, and how many batches as large went well since.
    last_bytes: u64,
    went_well: u32,
    /// Planned activations of the largest batch that went well.
    went_well_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    /// Planned activations of the smallest batch that failed.
    planned_bytes: u64,
    /// What is allowed of them.
    bound_bytes: u64,
    /// Held by others at that time.
    others_bytes: u64,
    /// Whether its size explains the failure.
    explained: bool,
    /// Batches since the failure, and since the bound last rose.
    passed: u64,
    rested: u64,
}

impl Failed {
    /// What the bound rises to.
    fn nearly_bytes(&self) -> u64 {
        self.planned_bytes / 10 * 9
    }
}

fn tokens(bytes: u64, costs: Costs, length: usize) -> usize {
    usize::try_from(bytes / costs.planned(1, length).max(1)).unwrap_or(usize::MAX)
}

impl Refusal {
    /// Most tokens in sequences of this length.
    pub(super) fn most_tokens(&self, costs: Costs, length: usize) -> usize {
        self.failed.map_or(usize::MAX, |failed| tokens(failed.bound_bytes, costs, length))
    }

    /// The same as it will be before the size that failed is tried again.
    pub(super) fn most_tokens_soon(&self, costs: Costs, length: usize) -> usize {
        let lasting = self.failed.filter(|failed| failed.explained);
        lasting.map_or(usize::MAX, |failed| tokens(failed.nearly_bytes(), costs, length))
    }

    /// A batch with these planned activations failed.
    pub(super) fn failed(&mut self, planned_bytes: u64, others_bytes: u64) {
        let explained = planned_bytes > self.went_well_bytes / 2;
        if explained {
            self.times = (self.times + 1).min(MOST_TIMES);
            (self.last_bytes, self.went_well) = (planned_bytes, 0);
            // What went well before may not do so any more.
            self.went_well_bytes = 0;
        }
        let (known, bound) =
            self.failed.map_or((u64::MAX, u64::MAX), |failed| (failed.planned_bytes, failed.bound_bytes));
        self.failed = Some(Failed {
            planned_bytes: planned_bytes.min(known),
            bound_bytes: (planned_bytes / 2).min(bound),
            others_bytes,
            explained,
            passed: 0,
            rested: 0,
        });
    }

    /// A batch went well, while others held this much.
    pub(super) fn passed(&mut self, planned_bytes: u64, others_bytes: u64) {
        self.went_well_bytes = self.went_well_bytes.max(planned_bytes);
        if self.times > 0 && planned_bytes >= self.last_bytes / 10 * 9 {
            self.went_well += 1;
            if self.went_well >= SURE {
                self.times = 0;
            }
        }
        let Some(failed) = &mut self.failed else { return };
        failed.passed += 1;
        failed.rested += 1;
        let again = self.times.saturating_sub(1);
        let (was_there, is_there) = (failed.others_bytes > NOBODY_BYTES, others_bytes > failed.others_bytes / 10 * 9);
        let long = if was_there || !failed.explained { PATIENCE << again } else { LONG << (2 * again) };
        if failed.passed >= long && !(was_there && is_there) {
            self.failed = None;
        } else if failed.rested >= PATIENCE << again {
            failed.rested = 0;
            failed.bound_bytes += failed.nearly_bytes().saturating_sub(failed.bound_bytes).div_ceil(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs = Costs { token_bytes: 100, pair_bytes: 1 };
    const GIB: u64 = 1 << 30;

    fn pass(refusal: &mut Refusal, batches: u64, others_bytes: u64) {
        (0..batches).for_each(|_| refusal.passed(1000, others_bytes));
    }

    #[test]
    fn a_size_that_failed_is_halved_and_tried_again_much_later() {
        let mut refusal = Refusal::default();
        assert_eq!(refusal.most_tokens(COSTS, 100), usize::MAX);
        refusal.failed(COSTS.planned(1000, 100), 0);
        assert_eq!((refusal.most_tokens(COSTS, 100), refusal.most_tokens(COSTS, 300)), (500, 250), "longer cost more");
        assert_eq!(refusal.most_tokens_soon(COSTS, 100), 900);
        pass(&mut refusal, PATIENCE, 0);
        assert_eq!(refusal.most_tokens(COSTS, 100), 700);
        pass(&mut refusal, LONG - PATIENCE - 1, 0);
        assert!((880..=900).contains(&refusal.most_tokens(COSTS, 100)), "{refusal:?}");
        pass(&mut refusal, 1, 0);
        assert_eq!(refusal.most_tokens(COSTS, 100), usize::MAX);
        refusal.failed(COSTS.planned(1000, 100), 0);
        pass(&mut refusal, 4 * LONG - 1, 0);
        assert!(refusal.most_tokens(COSTS, 100) <= 900, "the second time it takes four times as long");
        pass(&mut refusal, 1, 0);
        assert_eq!(refusal.most_tokens(COSTS, 100), usize::MAX);
    }

    #[test]
    fn a_size_that_goes_well_after_all_did_not_fail_for_its_size() {
        let mut refusal = Refusal::default();
        for _ in 0..10 {
            refusal.failed(COSTS.planned(1000, 100), 0);
            assert_eq!(refusal.most_tokens(COSTS, 100), 500);
            pass(&mut refusal, LONG, 0);
            assert_eq!(refusal.most_tokens(COSTS, 100), usize::MAX, "as soon as the first time");
            (0..SURE).for_each(|_| refusal.passed(COSTS.planned(1000, 100), 0));
        }
    }

    #[test]
    fn a_failure_that_its_size_does_not_explain_is_soon_forgotten() {
        let mut refusal = Refusal::default();
        refusal.passed(COSTS.planned(1000, 100), 0);
        refusal.failed(COSTS.planned(10, 100), 0);
        assert_eq!((refusal.most_tokens(COSTS, 100), refusal.most_tokens_soon(COSTS, 100)), (5, usize::MAX));
        pass(&mut refusal, PATIENCE, 0);
        assert_eq!(refusal.most_tokens(COSTS, 100), usize::MAX);
    }

    #[test]
    fn while_the_neighbour_is_there_the_size_is_not_tried_again() {
        let mut refusal = Refusal::default();
        refusal.failed(COSTS.planned(1000, 100), GIB);
        pass(&mut refusal, 100 * LONG, GIB);
        assert!(refusal.most_tokens(COSTS, 100) <= 900);
        pass(&mut refusal, 1, GIB / 2);
        assert_eq!(refusal.most_tokens(COSTS, 100), usize::MAX, "it is gone");
    }
}
