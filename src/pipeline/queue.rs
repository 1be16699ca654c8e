//! Batches on their way to the workers: one bounded queue for all of them, so that whoever is free takes the next.
//!
//! A worker whose device is lost gives its batch back, which a channel cannot do: the queue is at its end only when
//! nothing waits and nothing is under way.
//!
//! Work on a shard begins only while few of its lane are begun and not committed, one a device: so much and no more would
//! have to be done again if the process were killed. The batches of later shards are ready meanwhile.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    /// Nothing is taken any more, whatever waits.
    over: bool,
    /// For each lane the shards of which something was taken and that are not committed. `None` for a lane that is at its
    /// end: what is left of it is thrown away, and waits for nothing.
    begun: Vec<Option<Vec<u32>>>,
    /// Most shards of a lane that are begun and not committed.
    most_begun: usize,
}

/// No worker is left.
pub(super) struct Abandoned;

/// A worker's place at the queue; given up when it is dropped, also by a panic with batches in hand.
pub(super) struct Seat<'queue> {
    queue: &'queue BatchQueue,
    /// Batches that are under way here.
    in_hand: AtomicUsize,
}

/// Closes the queue when it is dropped: nothing will be put in any more.
pub(super) struct Inlet<'queue>(pub(super) &'queue BatchQueue);

/// Where the results of what was taken arrive. When it is dropped nobody wants any more of them, and the queue is over.
pub(super) struct Outlet<'queue>(pub(super) &'queue BatchQueue);

/// How large a queue is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Workers that take from it, each of which has to take its seat.
    pub(super) workers: usize,
    /// Batches that wait.
    pub(super) batches: usize,
    /// Models of which there are batches.
    pub(super) lanes: usize,
    /// Shards of each that are begun and not committed.
    pub(super) begun_shards: usize,
}

impl BatchQueue {
    pub(super) fn new(room: Room) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            under_way: 0,
            workers: room.workers,
            idle: 0,
            closed: false,
            over: false,
            begun: vec![Some(Vec::new()); room.lanes],
            most_begun: room.begun_shards,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), capacity: room.batches }
    }

    /// The place of one of the workers.
    pub(super) fn seat(&self) -> Seat<'_> {
        Seat { queue: self, in_hand: AtomicUsize::new(0) }
    }

    /// Whether batches wait that no worker is left to take.
    pub(super) fn is_abandoned(&self) -> bool {
        let state = self.lock();
        state.workers == 0 && !state.waiting.is_empty()
    }

    fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one step, so that a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a batch may be taken now.
    fn may_begin(&self, batch: &Batch) -> bool {
        match &self.begun[batch.lane] {
            Some(begun) => begun.len() < self.most_begun || begun.contains(&batch.shard),
            None => true,
        }
    }

    /// The first batch that may be taken.
    fn take(&mut self) -> Option<Batch> {
        let place = self.waiting.iter().position(|batch| self.may_begin(batch))?;
        let batch = self.waiting.remove(place)?;
        if let Some(begun) = &mut self.begun[batch.lane]
            && !begun.contains(&batch.shard)
        {
            begun.push(batch.shard);
        }
        self.under_way += 1;
        Some(batch)
    }

    fn is_at_end(&self) -> bool {
        self.over || (self.closed && self.under_way == 0 && self.waiting.is_empty())
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

impl Outlet<'_> {
    /// A shard is durable.
    pub(super) fn committed(&self, lane: usize, shard: u32) {
        if let Some(begun) = &mut self.0.lock().begun[lane] {
            begun.retain(|begun| *begun != shard);
        }
        self.0.changed.notify_all();
    }

    /// Of a lane nothing will be committed any more.
    pub(super) fn failed(&self, lane: usize) {
        self.0.lock().begun[lane] = None;
        self.0.changed.notify_all();
    }
}

impl Drop for Outlet<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Seat<'_> {
    /// The next batch, which is under way from now on, and how many workers have nothing to do meanwhile; `None` when
    /// there will be no more.
    pub(super) fn take(&self) -> Option<(Batch, usize)> {
        let mut state = self.queue.lock();
        loop {
            if state.is_at_end() {
                return None;
            }
            if let Some(taken) = self.take_from(&mut state) {
                return Some(taken);
            }
            state.idle += 1;
            state = self.queue.wait(state);
            state.idle -= 1;
        }
    }

    /// The same, if there is a batch that may be taken at once.
    pub(super) fn take_at_once(&self) -> Option<(Batch, usize)> {
        let mut state = self.queue.lock();
        if state.over { None } else { self.take_from(&mut state) }
    }

    fn take_from(&self, state: &mut State) -> Option<(Batch, usize)> {
        let batch = state.take()?;
        self.in_hand.fetch_add(1, Ordering::Relaxed);
        self.queue.changed.notify_all();
        let others_have_work = state.waiting.iter().any(|batch| state.may_begin(batch));
        Some((batch, if others_have_work { 0 } else { state.idle }))
    }

    /// A batch that was taken needs nobody any more.
    pub(super) fn done(&self) {
        self.in_hand.fetch_sub(1, Ordering::Relaxed);
        self.queue.lock().under_way -= 1;
        self.queue.changed.notify_all();
    }

    /// Nobody is to take anything any more.
    pub(super) fn end_all(&self) {
        self.queue.end();
    }

    /// A batch that was taken is for somebody else.
    pub(super) fn give_back(&self, batch: Batch) {
        self.queue.lock().waiting.push_front(batch);
        self.done();
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.under_way -= *self.in_hand.get_mut();
        state.workers -= 1;
        drop(state);
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::domain::PackedBatch;

    fn batch(shard: u32) -> Batch {
        of_lane(0, shard)
    }

    fn of_lane(lane: usize, shard: u32) -> Batch {
        Batch { lane, shard, rows: Vec::new(), packed: PackedBatch::new([]) }
    }

    /// A queue whose batches are of as many shards as one likes.
    fn queue(workers: usize, batches: usize) -> BatchQueue {
        BatchQueue::new(Room { workers, batches, lanes: 1, begun_shards: usize::MAX })
    }

    fn taken(seat: &Seat<'_>) -> Option<(usize, u32)> {
        seat.take().map(|(batch, _)| (batch.lane, batch.shard))
    }

    #[test]
    fn a_shard_is_begun_when_the_one_before_it_is_committed() {
        let queue = BatchQueue::new(Room { workers: 3, batches: 16, lanes: 2, begun_shards: 1 });
        let (first, second, third) = (queue.seat(), queue.seat(), queue.seat());
        let (inlet, outlet) = (Inlet(&queue), Outlet(&queue));
        for (lane, shard) in [(0, 0), (0, 1), (0, 0), (1, 0), (1, 1)] {
            assert!(inlet.push(of_lane(lane, shard)).is_ok());
        }
        assert_eq!(taken(&first), Some((0, 0)));
        // What is begun goes on, and so does another lane.
        assert_eq!(taken(&second), Some((0, 0)));
        assert_eq!(taken(&third), Some((1, 0)));
        [&first, &second, &third].into_iter().for_each(Seat::done);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| taken(&first));
            assert_eq!(queue.lock().waiting.len(), 2, "a shard of each lane is ready");
            outlet.committed(1, 0);
            assert_eq!(waiting.join().unwrap(), Some((1, 1)));
        });
        // Of a lane that has failed everything is taken, to be thrown away.
        outlet.failed(0);
        assert_eq!(taken(&second), Some((0, 1)));
        drop(inlet);
        [&first, &second].into_iter().for_each(Seat::done);
        assert_eq!(taken(&third), None);
    }

    #[test]
    fn nobody_waits_for_commits_that_never_come() {
        for by_a_worker in [false, true] {
            let queue = BatchQueue::new(Room { workers: 2, batches: 4, lanes: 1, begun_shards: 1 });
            let (first, second) = (queue.seat(), queue.seat());
            let (inlet, outlet) = (Inlet(&queue), Outlet(&queue));
            assert!(inlet.push(batch(0)).is_ok() && inlet.push(batch(1)).is_ok());
            assert_eq!(taken(&first), Some((0, 0)));
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| taken(&second));
                if by_a_worker {
                    first.end_all();
                } else {
                    drop(outlet);
                }
                assert_eq!(waiting.join().unwrap(), None);
            });
        }
    }

    #[test]
    fn a_batch_that_is_given_back_is_taken_by_another_even_at_the_end() {
        let queue = queue(2, 4);
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
        let queue = queue(2, 4);
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
        let queue = queue(2, 4);
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
        let queue = queue(1, 1);
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
        let queue = queue(4, 3);
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
