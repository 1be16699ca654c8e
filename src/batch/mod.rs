//! Which sequences go through the model together, and how many.

mod controller;
mod controllers;
mod growth;
mod memory;
mod occupancy;
pub mod policy;
mod recovery;
mod refusal;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod simulation_tests;

pub use controller::{Change, Controller, Finished, Pressure, Span};
pub use controllers::Controllers;
pub use memory::{Costs, Evidence, MemoryModel};
pub use occupancy::Occupancy;
pub use recovery::{Recovery, Step};

/// Limits of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most tokens; a longer sequence travels alone.
    pub tokens: usize,
    /// Most sequences.
    pub sequences: usize,
}

/// Cuts sequences of the given lengths into batches: longest first, so that each batch holds sequences of about one
/// length and the work left at the end of a pass comes in small pieces. Sequences of one length keep their order.
///
/// `limits` says what holds for a batch whose longest sequence has a length. Where there is less work than `workers`
/// batches of the largest size, batches are smaller, so that none is idle.
///
/// Returns the indices of each batch's sequences; every index occurs exactly once.
pub fn plan(lengths: &[usize], limits: impl Fn(usize) -> BatchLimits, workers: usize) -> Vec<Vec<usize>> {
    let share = lengths.iter().sum::<usize>().div_ceil(workers.max(1)).max(1);
    let mut longest_first: Vec<usize> = (0..lengths.len()).collect();
    longest_first.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let (mut tokens, mut most) = (0, BatchLimits { tokens: 0, sequences: 0 });
    for index in longest_first {
        match batches.last_mut() {
            Some(batch) if batch.len() < most.sequences && tokens + lengths[index] <= most.tokens.min(share) => {
                batch.push(index);
                tokens += lengths[index];
            }
            _ => {
                batches.push(vec![index]);
                (tokens, most) = (lengths[index], limits(lengths[index]));
            }
        }
    }
    batches
}

/// How many of these sequences, from the first, a batch may hold; never none, for a sequence alone may always be tried.
pub fn fitting(lengths: impl Iterator<Item = usize>, limits: BatchLimits) -> usize {
    let mut tokens = 0;
    let mut fits = |length: &usize| {
        tokens += length;
        tokens <= limits.tokens
    };
    lengths.take(limits.sequences).take_while(|length| fits(length)).count().max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(lengths: &[usize], tokens: usize, sequences: usize, expected: &[&[usize]]) {
        assert_eq!(plan(lengths, |_| BatchLimits { tokens, sequences }, 1), expected);
    }

    #[test]
    fn little_work_is_shared_out() {
        let limits = |_| BatchLimits { tokens: 1000, sequences: 100 };
        assert_eq!(plan(&[5, 5, 5, 5], limits, 2), [[0, 1], [2, 3]]);
        assert_eq!(plan(&[5, 5], limits, 4), [[0], [1]]);
        assert_eq!(plan(&[9, 1, 1], limits, 2), [vec![0], vec![1, 2]]);
        assert_eq!(plan(&[600, 600, 600], limits, 2).len(), 3, "more work than that is cut by its limits");
    }

    #[test]
    fn the_longest_come_first_and_ties_keep_their_order() {
        check(&[], 10, 10, &[]);
        check(&[3, 9, 3, 4], 10, 10, &[&[1], &[3, 0, 2]]);
        check(&[3, 3, 3], 100, 2, &[&[0, 1], &[2]]);
    }

    #[test]
    fn longer_sequences_may_have_other_limits() {
        let limits = |longest| BatchLimits { tokens: if longest > 5 { 10 } else { 30 }, sequences: 100 };
        assert_eq!(plan(&[8, 5, 5, 5, 5, 5, 5, 2], limits, 1), [vec![0], vec![1, 2, 3, 4, 5, 6], vec![7]]);
    }

    #[test]
    fn what_fits_of_a_batch_is_counted_from_its_first() {
        let fitting = |tokens, sequences| fitting([5, 4, 3].into_iter(), BatchLimits { tokens, sequences });
        assert_eq!([fitting(12, 9), fitting(11, 9), fitting(12, 2), fitting(1, 9), fitting(9, 0)], [3, 2, 2, 1, 1]);
    }

    #[test]
    fn a_sequence_over_the_budget_travels_alone() {
        check(&[50, 1, 60], 10, 10, &[&[2], &[0], &[1]]);
    }

    proptest! {
        #[test]
        fn every_sequence_travels_once_and_within_the_limits(
            lengths in proptest::collection::vec(0_usize..600, 0..200),
            tokens in 1_usize..1000,
            sequences in 1_usize..40,
            workers in 1_usize..9,
        ) {
            let batches = plan(&lengths, |_| BatchLimits { tokens, sequences }, workers);
            let mut indices: Vec<usize> = batches.concat();
            indices.sort_unstable();
            prop_assert_eq!(indices, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let total: usize = batch.iter().map(|&index| lengths[index]).sum();
                prop_assert!(!batch.is_empty() && batch.len() <= sequences);
                prop_assert!(total <= tokens || batch.len() == 1);
            }
            let first_lengths: Vec<usize> = batches.iter().map(|batch| lengths[batch[0]]).collect();
            prop_assert!(first_lengths.is_sorted_by(|longer, shorter| longer >= shorter));
        }
    }
}
