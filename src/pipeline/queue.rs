//! Batches on their way to the workers: one bounded queue for all of them, so that whoever is free takes the next.
//!
//! A worker whose device is lost gives its batch back, which a channel cannot do: the queue is at its end only when
//! nothing waits and nothing is under way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::assemble::Batch;

/// The queue.
pub(super) struct BatchQueue {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

struct State {
    waiting: VecDeque<Batch>,
    under_way: usize,
    workers: usize,
    /// Workers that wait for a batch.
    idle: usize,
    closed: bool,
}

/// No worker is left.
pub(super) struct Abandoned;

/// A worker's place at the queue; given up when it is dropped, also by a panic with a batch in hand.
pub(super) struct Seat<'queue> {
    queue: &'queue BatchQueue,
    has_batch: AtomicBool,
}

/// Closes the queue when it is dropped: nothing will be put in any more.
pub(super) struct Inlet<'queue>(pub(super) &'queue BatchQueue);

impl BatchQueue {
    /// For a number of workers, each of which has to take its seat.
    pub(super) fn new(workers: usize, capacity: usize) -> Self {
        let state = State { waiting: VecDeque::new(), under_way: 0, workers, idle: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), capacity }
    }

    /// The place of one of the workers.
    pub(super) fn seat(&self) -> Seat<'_> {
        Seat { queue: self, has_batch: AtomicBool::new(false) }
    }

    /// Whether batches wait that no worker is left to take.
    pub(super) fn is_abandoned(&self) -> bool {
        let state = self.lock();
        state.workers == 0 && !state.waiting.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one step, so that a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inlet<'_> {
    /// Puts a batch in, waiting for room.
    pub(super) fn push(&self, batch: Batch) -> Result<(), Abandoned> {
        let mut state = self.0.lock();
        while state.waiting.len() >= self.0.capacity && state.workers > 0 {
            state = self.0.wait(state);
        }
        if state.workers == 0 {
            return Err(Abandoned);
        }
        state.waiting.push_back(batch);
        self.0.changed.notify_all();
        Ok(())
    }
}

impl Drop for Inlet<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Seat<'_> {
    /// The next batch, which is under way from now on, and how many workers have nothing to do meanwhile; `None` when
    /// there will be no more.
    pub(super) fn take(&self) -> Option<(Batch, usize)> {
        let mut state = self.queue.lock();
        loop {
            if let Some(batch) = state.waiting.pop_front() {
                state.under_way += 1;
                self.has_batch.store(true, Ordering::Relaxed);
                self.queue.changed.notify_all();
                let idle = if state.waiting.is_empty() { state.idle } else { 0 };
                return Some((batch, idle));
            }
            if state.closed && state.under_way == 0 {
                return None;
            }
            state.idle += 1;
            state = self.queue.wait(state);
            state.idle -= 1;
        }
    }

    /// A batch that was taken needs nobody any more.
    pub(super) fn done(&self) {
        if self.has_batch.swap(false, Ordering::Relaxed) {
            self.queue.lock().under_way -= 1;
            self.queue.changed.notify_all();
        }
    }

    /// A batch that was taken is for somebody else.
    pub(super) fn give_back(&self, batch: Batch) {
        self.queue.lock().waiting.push_front(batch);
        self.done();
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.done();
        self.queue.lock().workers -= 1;
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::domain::PackedBatch;

    fn batch(shard: u32) -> Batch {
        Batch { lane: 0, shard, rows: Vec::new(), packed: PackedBatch::new([]) }
    }

    #[test]
    fn a_batch_that_is_given_back_is_taken_by_another_even_at_the_end() {
        let queue = BatchQueue::new(2, 4);
        let (first, second) = (queue.seat(), queue.seat());
        let inlet = Inlet(&queue);
        assert!(inlet.push(batch(7)).is_ok());
        drop(inlet);
        let (taken, _) = first.take().unwrap();
        std::thread::scope(|scope| {
            // Nothing waits, but something is under way: the other worker must not leave yet.
            let other = scope.spawn(|| second.take().map(|(batch, _)| batch.shard));
            first.give_back(taken);
            assert_eq!(other.join().unwrap(), Some(7));
        });
        second.done();
        assert!(second.take().is_none() && first.take().is_none());
    }

    #[test]
    fn a_worker_that_panics_with_a_batch_keeps_nobody_waiting() {
        let queue = BatchQueue::new(2, 4);
        let inlet = Inlet(&queue);
        assert!(inlet.push(batch(0)).is_ok());
        drop(inlet);
        std::thread::scope(|scope| {
            let (first, second) = (queue.seat(), queue.seat());
            let panicked = scope.spawn(move || {
                let _batch = first.take();
                panic!("on purpose");
            });
            assert!(panicked.join().is_err());
            assert!(scope.spawn(move || second.take().is_none()).join().unwrap());
        });
        assert!(!queue.is_abandoned(), "the batch is gone, and nothing waits");
    }

    #[test]
    fn nothing_is_abandoned_that_another_did_before_it_left() {
        let queue = BatchQueue::new(2, 4);
        let (first, second) = (queue.seat(), queue.seat());
        let inlet = Inlet(&queue);
        assert!(inlet.push(batch(0)).is_ok());
        drop(inlet);
        let (taken, _) = first.take().unwrap();
        first.give_back(taken);
        assert!(second.take().is_some());
        second.done();
        assert!(second.take().is_none());
        drop(second);
        // Only now does the one who gave up leave.
        drop(first);
        assert!(!queue.is_abandoned());
    }

    #[test]
    fn whoever_puts_in_learns_that_nobody_is_left() {
        let queue = BatchQueue::new(1, 1);
        let seat = queue.seat();
        let inlet = Inlet(&queue);
        assert!(inlet.push(batch(0)).is_ok());
        std::thread::scope(|scope| {
            let blocked = scope.spawn(|| inlet.push(batch(1)).is_err());
            drop(seat);
            assert!(blocked.join().unwrap());
        });
        assert!(queue.is_abandoned(), "a batch waits for ever");
    }

    #[test]
    fn every_batch_is_taken_once_by_however_many() {
        let queue = BatchQueue::new(4, 3);
        let taken: Vec<AtomicUsize> = (0..500).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (queue, taken) = (&queue, &taken);
                scope.spawn(move || {
                    let seat = queue.seat();
                    while let Some((batch, _)) = seat.take() {
                        taken[batch.shard as usize].fetch_add(1, Ordering::Relaxed);
                        // The last worker is lost at its first batch.
                        if worker == 3 {
                            taken[batch.shard as usize].fetch_sub(1, Ordering::Relaxed);
                            seat.give_back(batch);
                            break;
                        }
                        seat.done();
                    }
                });
            }
            let inlet = Inlet(&queue);
            (0..500).for_each(|shard| assert!(inlet.push(batch(shard)).is_ok()));
        });
        assert!(taken.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}
