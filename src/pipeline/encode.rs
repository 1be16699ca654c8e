//! The workers: one thread each, on one device.
//!
//! Where the device computes while the thread goes on, the next batch is begun before the vectors of the one before are
//! asked for, so that the device has work while batches are packed, launched and handed on.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::assemble::Batch;
use super::attempt::{Attempt, Ended, UnderWay};
use super::collect::Message;
use super::lane::Lanes;
use super::queue::Seat;
use super::stages::{Stage, StageClock};
use super::{StopSwitch, Worker};
use crate::domain::{CollectionName, Embeddings};
use crate::telemetry::event::{Event, Observer};

/// The vectors of a batch and where they belong.
pub(super) struct Encoded {
    pub lane: usize,
    pub shard: u32,
    pub rows: Vec<usize>,
    pub embeddings: Embeddings,
}

/// What all workers share.
#[derive(Clone, Copy)]
pub(super) struct Shop<'a> {
    pub collection: &'a CollectionName,
    pub lanes: Lanes<'a>,
    pub stop: &'a StopSwitch,
    pub clock: &'a StageClock,
    pub observer: &'a dyn Observer,
}

/// A worker at its seat.
pub(super) struct Bench<'a, 'device> {
    pub number: usize,
    pub worker: &'a mut Worker<'device>,
    pub seat: &'a Seat<'a>,
    pub results: &'a Sender<Message>,
    pub shop: Shop<'a>,
}

/// A batch that the device computes.
struct Ahead {
    batch: Batch,
    under_way: UnderWay,
}

/// Whether the worker goes on; if it does not, whether it gave up because the device is lost.
type Flow = ControlFlow<bool>;

impl<'device> Bench<'_, 'device> {
    /// Encodes batches until there are no more or the run is to stop; `true` if it gave up because the device is lost.
    pub(super) fn encode(mut self) -> bool {
        let mut ahead = None;
        loop {
            if let ControlFlow::Break(gave_up) = self.step(&mut ahead) {
                // Whatever is still computed there is for somebody else, or for nobody.
                if let Some(Ahead { batch, .. }) = ahead.filter(|_| gave_up) {
                    self.seat.give_back(batch);
                }
                return gave_up;
            }
        }
    }

    /// Takes a batch and begins with it or does it; what is ahead is finished when there is something else for the device
    /// to do, or nothing at the moment.
    fn step(&mut self, ahead: &mut Option<Ahead>) -> Flow {
        let taken = match ahead {
            None => self.shop.clock.time(Stage::Wait, || self.seat.take()),
            Some(_) => self.seat.take_at_once(),
        };
        let Some((batch, idle)) = taken else {
            return if ahead.is_some() { self.conclude(ahead, None) } else { Flow::Break(false) };
        };
        if self.shop.stop.cause().is_some() {
            self.seat.end_all();
            return Flow::Break(false);
        }
        if self.shop.lanes.has_failed(batch.lane) {
            self.seat.done();
            return Flow::Continue(());
        }
        if self.worker.lost.load(Ordering::SeqCst) {
            self.seat.give_back(batch);
            return Flow::Break(true);
        }
        self.tell_begun(&batch);
        let encoder = &mut self.worker.encoders[batch.lane];
        // Cores of workers without a batch may help with this one.
        encoder.use_cores(1 + idle);
        let begun = encoder.computes_apart().then(|| self.attempt(batch.lane).begin(&batch)).flatten();
        match begun {
            Some(Ok(under_way)) => {
                let next = Ahead { batch, under_way };
                self.conclude(ahead, Some(next))
            }
            first => {
                if let Flow::Break(gave_up) = self.conclude(ahead, None) {
                    if gave_up {
                        self.seat.give_back(batch);
                    }
                    return Flow::Break(gave_up);
                }
                let ended = self.attempt(batch.lane).run(batch, first.and_then(Result::err).map(Err));
                self.end(ended)
            }
        }
    }

    /// Asks for the vectors of what is ahead, if anything is; `next` takes its place.
    fn conclude(&mut self, ahead: &mut Option<Ahead>, next: Option<Ahead>) -> Flow {
        let Some(Ahead { batch, under_way }) = std::mem::replace(ahead, next) else { return Flow::Continue(()) };
        let mut attempt = self.attempt(batch.lane);
        let outcome = attempt.wait(&batch, under_way);
        let ended = attempt.run(batch, Some(outcome));
        if let Some(ahead) = ahead {
            // Until now the device was busy with the batch before.
            ahead.under_way.start = Instant::now();
        }
        self.end(ended)
    }

    fn end(&mut self, ended: Ended) -> Flow {
        match ended {
            Ended::Done => {
                self.seat.done();
                Flow::Continue(())
            }
            Ended::Over => {
                self.seat.end_all();
                Flow::Break(false)
            }
            Ended::Lost(rest) => {
                self.seat.give_back(rest);
                Flow::Break(true)
            }
        }
    }

    fn tell_begun(&self, batch: &Batch) {
        self.shop.observer.observe(&Event::BatchBegun {
            model: self.shop.lanes.of(batch.lane).model.to_owned(),
            collection: self.shop.collection.clone(),
            shard: batch.shard,
            device: self.worker.device.clone(),
            rows: batch.packed.sequences() as u64,
            tokens: batch.packed.tokens() as u64,
        });
    }

    fn attempt(&mut self, lane: usize) -> Attempt<'_, 'device> {
        Attempt {
            number: self.number,
            device: &self.worker.device,
            lost: &self.worker.lost,
            lane: self.shop.lanes.of(lane),
            encoder: &mut self.worker.encoders[lane],
            results: self.results,
            shop: self.shop,
        }
    }
}
