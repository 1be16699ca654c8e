//! What to do about a batch for which memory did not suffice: free what is kept, halve, go to the processor, give up.
//!
//! A pure state machine over one batch. It says which of its sequences are to be tried next, is told how that went, and
//! comes to an end: caches are freed once for a batch and once for a sequence alone, sizes that failed are not tried
//! again, and every sequence ends exactly once, with a vector or as failed.

use std::collections::VecDeque;
use std::ops::Range;

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Free what is kept without need, and try the same again.
    FreeCaches,
    /// Smaller parts are tried next.
    Halve,
    /// The processor is to encode this one sequence; then [`Recovery::done`] or [`Recovery::failed`].
    Processor,
    /// The sequence has no vector: it is over.
    Fail,
}

/// The sequences of a batch that are not at their end yet.
#[derive(Debug)]
pub struct Recovery {
    /// In order. All that is after the first is as large as it or smaller, for batches begin with their longest.
    parts: VecDeque<Range<usize>>,
    /// The first sequence of the part for which caches were freed last.
    freed_for: Option<usize>,
    /// Whether the processor may help.
    processor: bool,
}

impl Recovery {
    /// For a batch of so many sequences. `processor`: whether the processor may take what no device has room for.
    pub fn new(sequences: usize, processor: bool) -> Self {
        let parts = std::iter::once(0..sequences).filter(|all| !all.is_empty()).collect();
        Self { parts, freed_for: None, processor }
    }

    /// The sequences to be tried next; `None` at the end.
    pub fn next_part(&self) -> Option<Range<usize>> {
        self.parts.front().cloned()
    }

    /// Everything that is not at its end.
    pub fn rest(&self) -> Range<usize> {
        match (self.parts.front(), self.parts.back()) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => 0..0,
        }
    }

    /// Cuts what is tried next to parts of no more than so many sequences, before it is tried: about equal ones, for a
    /// small rest would take nearly as long.
    pub fn cut(&mut self, most: usize) {
        let sequences = self.parts.front().map_or(0, ExactSizeIterator::len);
        let parts = sequences.div_ceil(most.max(1)).max(1);
        self.cut_all(sequences.div_ceil(parts), 1);
    }

    /// The part that was tried has its vectors.
    pub fn done(&mut self) {
        self.parts.pop_front();
    }

    /// The one sequence that the processor was given has none.
    pub fn failed(&mut self) {
        self.parts.pop_front();
    }

    /// Memory did not suffice for the part that was tried. At most three kinds of steps are taken for a batch before
    /// a sequence fails.
    pub fn out_of_memory(&mut self) -> Step {
        let Some(part) = self.parts.front() else { return Step::Fail };
        // Once for a batch, and before the last step for a sequence: it may have met what passes.
        if self.freed_for.is_none_or(|first| part.len() == 1 && first != part.start) {
            self.freed_for = Some(part.start);
            return Step::FreeCaches;
        }
        if part.len() > 1 {
            // What waits is cut as well, for it would fail at the size that has just failed.
            self.cut_all(part.len() / 2, usize::MAX);
            return Step::Halve;
        }
        if self.processor {
            return Step::Processor;
        }
        self.parts.pop_front();
        Step::Fail
    }

    /// Cuts the first `count` parts to `most` sequences.
    fn cut_all(&mut self, most: usize, count: usize) {
        let most = most.max(1);
        let parts = std::mem::take(&mut self.parts);
        for (index, part) in parts.into_iter().enumerate() {
            if index < count {
                let end = part.end;
                self.parts.extend(part.step_by(most).map(|start| start..end.min(start + most)));
            } else {
                self.parts.push_back(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn caches_are_freed_once_and_then_parts_are_halved() {
        let mut recovery = Recovery::new(8, true);
        assert_eq!(recovery.out_of_memory(), Step::FreeCaches);
        assert_eq!(recovery.next_part(), Some(0..8), "the same again");
        assert_eq!(recovery.out_of_memory(), Step::Halve);
        assert_eq!(recovery.next_part(), Some(0..4));
        assert_eq!(recovery.out_of_memory(), Step::Halve);
        recovery.done();
        assert_eq!(recovery.next_part(), Some(2..4));
        recovery.done();
        assert_eq!(
            (recovery.next_part(), recovery.rest()),
            (Some(4..6), 4..8),
            "the other half is not tried as a whole"
        );
        assert_eq!(recovery.out_of_memory(), Step::Halve);
        assert_eq!(recovery.out_of_memory(), Step::FreeCaches, "a sequence alone is tried twice");
        assert_eq!(recovery.out_of_memory(), Step::Processor);
        recovery.failed();
        assert_eq!(recovery.next_part(), Some(5..6));
    }

    #[test]
    fn without_the_processor_a_sequence_alone_fails() {
        let mut recovery = Recovery::new(1, false);
        assert_eq!((recovery.out_of_memory(), recovery.out_of_memory()), (Step::FreeCaches, Step::Fail));
        assert_eq!((recovery.next_part(), recovery.rest()), (None, 0..0));
        assert_eq!(Recovery::new(0, false).next_part(), None);
    }

    #[test]
    fn a_part_may_be_cut_before_it_is_tried() {
        let mut recovery = Recovery::new(7, false);
        recovery.cut(5);
        assert_eq!(recovery.parts, [0..4, 4..7], "about equal parts");
        recovery.cut(2);
        assert_eq!(recovery.parts, [0..2, 2..4, 4..7]);
        recovery.cut(0);
        assert_eq!(recovery.parts, [0..1, 1..2, 2..4, 4..7]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_sequence_ends_once_after_few_attempts(
            sequences in 0_usize..200,
            processor in any::<bool>(),
            // What a try will give: room for so many sequences, or a cut before it.
            outcomes in prop::collection::vec((0_usize..220, any::<bool>(), 1_usize..50), 1..60),
        ) {
            let mut recovery = Recovery::new(sequences, processor);
            let (mut ended, mut outcomes) = (vec![0_usize; sequences], outcomes.into_iter().cycle());
            let (mut failures, mut attempts, mut cuts) = (0_u32, 0, 0);
            let mut kinds = Vec::new();
            while let Some(part) = recovery.next_part() {
                let (room, cut, most) = outcomes.next().unwrap();
                prop_assert!(!part.is_empty() && part.end <= sequences && recovery.rest() == (part.start..sequences));
                if cut && cuts < 5 {
                    cuts += 1;
                    recovery.cut(most);
                    continue;
                }
                attempts += 1;
                if part.len() <= room {
                    part.for_each(|sequence| ended[sequence] += 1);
                    recovery.done();
                    continue;
                }
                failures += 1;
                let step = recovery.out_of_memory();
                match step {
                    Step::Processor => {
                        prop_assert!(processor && part.len() == 1);
                        ended[part.start] += 1;
                        if most % 2 == 0 { recovery.done() } else { recovery.failed() }
                    }
                    Step::Fail => {
                        prop_assert!(!processor && part.len() == 1);
                        ended[part.start] += 1;
                    }
                    Step::FreeCaches | Step::Halve => {}
                }
                if !kinds.contains(&step) && step != Step::Fail {
                    kinds.push(step);
                }
            }
            prop_assert!(ended.iter().all(|count| *count == 1), "{ended:?}");
            prop_assert!(kinds.len() <= 3);
            let halvings = sequences.max(1).ilog2() + 1;
            prop_assert!(failures as usize <= 1 + halvings as usize * 6 + 2 * sequences, "{failures} of {sequences}");
            prop_assert!(attempts <= 2 + 3 * sequences + halvings as usize * 6);
        }
    }
}
