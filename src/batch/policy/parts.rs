//! Collections: batches that are cut already, of parts that are committed as a whole.
//!
//! Work on a part begins only while few parts of its model are begun and not committed: at most so many are lost
//! with the process. The batches of later parts are ready meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Consumer, Full, Next, Policy, Ticket};

/// A batch of a part.
pub trait PartWork: Send {
    /// Index of its model.
    fn model(&self) -> usize;
    /// Whose part it is, and which.
    fn ticket(&self) -> Ticket;
}

/// In the order of submission, but for parts that may not begin yet.
#[derive(Debug)]
pub struct Parts<W> {
    waiting: VecDeque<W>,
    max_waiting: usize,
    /// For each model the parts of which something was taken and that are not committed.
    begun: Vec<Vec<Ticket>>,
    max_begun: usize,
}

impl<W: PartWork> Parts<W> {
    /// For this number of models: at most `max_waiting` batches wait, and of each model at most `max_begun` parts are
    /// begun and not committed.
    pub fn new(models: usize, max_waiting: usize, max_begun: usize) -> Self {
        Self { waiting: VecDeque::new(), max_waiting, begun: vec![Vec::new(); models], max_begun }
    }

    fn may_begin(&self, work: &W, consumer: Consumer<'_>) -> bool {
        let begun = &self.begun[work.model()];
        consumer.models[work.model()] && (begun.len() < self.max_begun || begun.contains(&work.ticket()))
    }

    fn remove(&mut self, is_meant: impl Fn(&W) -> bool) -> Vec<W> {
        let (removed, kept) = std::mem::take(&mut self.waiting).into_iter().partition(is_meant);
        self.waiting = Vec::into(kept);
        removed
    }
}

impl<W: PartWork> Policy for Parts<W> {
    type Item = W;
    type Batch = W;

    fn admit(&mut self, _: Duration, items: Vec<W>) -> Result<(), Full<W>> {
        if self.waiting.len() + items.len() > self.max_waiting {
            return Err(Full { items, retry_after: None });
        }
        self.waiting.extend(items);
        Ok(())
    }

    fn next(&mut self, _: Duration, consumer: Consumer<'_>) -> Next<W, W> {
        let index = self.waiting.iter().position(|work| self.may_begin(work, consumer));
        let Some(work) = index.and_then(|index| self.waiting.remove(index)) else { return Next::Idle };
        let begun = &mut self.begun[work.model()];
        if !begun.contains(&work.ticket()) {
            begun.push(work.ticket());
        }
        Next::Batch(work)
    }

    fn has_work(&self, consumer: Consumer<'_>) -> bool {
        self.waiting.iter().any(|work| self.may_begin(work, consumer))
    }

    fn give_back(&mut self, work: W) {
        self.waiting.push_front(work);
    }

    fn committed(&mut self, model: usize, ticket: Ticket) {
        self.begun[model].retain(|begun| *begun != ticket);
    }

    fn cancel(&mut self, submitter: u32) -> Vec<W> {
        self.begun.iter_mut().for_each(|begun| begun.retain(|ticket| ticket.submitter != submitter));
        self.remove(|work| work.ticket().submitter == submitter)
    }

    fn fail(&mut self, model: usize) -> Vec<W> {
        self.begun[model].clear();
        self.remove(|work| work.model() == model)
    }

    fn waits_for(&self, model: usize) -> bool {
        self.waiting.iter().any(|work| work.model() == model)
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::BatchLimits;

    impl PartWork for (usize, u32) {
        fn model(&self) -> usize {
            self.0
        }

        fn ticket(&self) -> Ticket {
            ticket(self.1)
        }
    }

    fn ticket(part: u32) -> Ticket {
        Ticket { submitter: part / 100, part }
    }

    fn consumer(models: &[bool]) -> Consumer<'_> {
        Consumer { models, idle: true, limits: &|_, _| BatchLimits { tokens: 1, sequences: 1 } }
    }

    fn next(parts: &mut Parts<(usize, u32)>, models: &[bool]) -> Option<(usize, u32)> {
        match parts.next(Duration::ZERO, consumer(models)) {
            Next::Batch(work) => Some(work),
            _ => None,
        }
    }

    #[test]
    fn a_part_begins_when_the_one_before_it_is_committed() {
        let mut parts = Parts::new(2, 16, 1);
        let both = [true, true];
        for work in [(0, 0), (0, 1), (0, 0), (1, 0), (1, 1)] {
            parts.admit(Duration::ZERO, vec![work]).unwrap();
        }
        // What is begun goes on, and so does another model.
        let taken: Vec<_> = std::iter::from_fn(|| next(&mut parts, &both)).collect();
        assert_eq!(taken, [(0, 0), (0, 0), (1, 0)]);
        assert!(!parts.has_work(consumer(&both)) && parts.waits_for(0));
        parts.committed(1, ticket(0));
        assert_eq!(next(&mut parts, &both), Some((1, 1)));
        parts.give_back((0, 0));
        assert_eq!(next(&mut parts, &both), Some((0, 0)), "it is still begun");
        assert_eq!(parts.fail(0), [(0, 1)]);
        assert!(parts.is_empty());
    }

    #[test]
    fn a_worker_takes_only_what_it_has_a_model_for() {
        let mut parts = Parts::new(2, 2, 1);
        parts.admit(Duration::ZERO, vec![(0, 0), (1, 0)]).unwrap();
        let full = parts.admit(Duration::ZERO, vec![(0, 5)]).unwrap_err();
        assert_eq!(full, Full { items: vec![(0, 5)], retry_after: None });
        assert_eq!(next(&mut parts, &[false, true]), Some((1, 0)));
        assert_eq!(next(&mut parts, &[false, true]), None);
        assert!(parts.waits_for(0) && !parts.waits_for(1));
    }

    #[test]
    fn a_submitter_that_is_gone_holds_nothing_up() {
        let mut parts = Parts::new(1, 9, 1);
        parts.admit(Duration::ZERO, vec![(0, 0), (0, 1), (0, 100)]).unwrap();
        assert_eq!(next(&mut parts, &[true]), Some((0, 0)));
        assert_eq!(parts.cancel(0), [(0, 1)]);
        assert_eq!(next(&mut parts, &[true]), Some((0, 100)));
    }

    proptest! {
        #[test]
        fn few_parts_are_begun_and_all_work_is_done_in_order(
            works in proptest::collection::vec((0_usize..3, 0_u32..6), 0..60),
            max_begun in 1_usize..4,
            choices in proptest::collection::vec(0_usize..4, 400),
        ) {
            let mut parts = Parts::new(3, usize::MAX, max_begun);
            let mut works: Vec<_> = works.into_iter().collect();
            works.sort_by_key(|work| work.1);
            parts.admit(Duration::ZERO, works.clone()).unwrap();
            let mut done: Vec<(usize, u32)> = Vec::new();
            let mut open = Vec::new();
            for choice in choices {
                if choice == 0 && !open.is_empty() {
                    // The oldest open part is committed once all of it is done.
                    let (model, part) = open[0];
                    if !parts.waiting.contains(&(model, part)) {
                        open.remove(0);
                        parts.committed(model, ticket(part));
                    }
                } else if let Some(work) = next(&mut parts, &[true; 3]) {
                    if choice == 1 {
                        parts.give_back(work);
                    } else {
                        done.push(work);
                    }
                    if !open.contains(&work) {
                        open.push(work);
                    }
                }
                for model in 0..3 {
                    prop_assert!(open.iter().filter(|work| work.0 == model).count() <= max_begun);
                }
            }
            for model in 0..3 {
                let of = |works: &[(usize, u32)]| -> Vec<u32> {
                    works.iter().filter(|work| work.0 == model).map(|work| work.1).collect()
                };
                let (all, done) = (of(&works), of(&done));
                prop_assert!(all.starts_with(&done), "{:?} of {:?}", done, all);
            }
        }
    }
}
