//! The workers: one thread each, on one device.

use std::sync::atomic::Ordering;

use crossbeam_channel::Sender;

use super::attempt::{Attempt, Ended};
use super::collect::Message;
use super::lane::Lanes;
use super::queue::Seat;
use super::stages::{Stage, StageClock};
use super::{StopSwitch, Worker};
use crate::domain::Embeddings;
use crate::telemetry::event::Observer;

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
    pub lanes: Lanes<'a>,
    pub stop: &'a StopSwitch,
    pub clock: &'a StageClock,
    pub observer: &'a dyn Observer,
}

/// Encodes batches until there are no more or the run is to stop; `true` if it gave up because the device is lost.
pub(super) fn encode(
    number: usize,
    worker: &mut Worker<'_>,
    seat: &Seat<'_>,
    results: &Sender<Message>,
    shop: Shop<'_>,
) -> bool {
    while let Some((batch, idle)) = shop.clock.time(Stage::Wait, || seat.take()) {
        if shop.stop.cause().is_some() {
            seat.end_all();
            return false;
        }
        if shop.lanes.has_failed(batch.lane) {
            seat.done();
            continue;
        }
        if worker.lost.load(Ordering::SeqCst) {
            seat.give_back(batch);
            return true;
        }
        let encoder = &mut worker.encoders[batch.lane];
        // Cores of workers without a batch may help with this one.
        encoder.use_cores(1 + idle);
        let attempt = Attempt {
            number,
            device: &worker.device,
            lost: &worker.lost,
            lane: shop.lanes.of(batch.lane),
            encoder,
            results,
            shop,
        };
        match attempt.run(batch) {
            Ended::Done => seat.done(),
            Ended::Over => {
                seat.end_all();
                return false;
            }
            Ended::Lost(rest) => {
                seat.give_back(rest);
                return true;
            }
        }
    }
    false
}
