//! The workers: one thread each, on one device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::assemble::Batch;
use super::collect::Message;
use super::lane::Lanes;
use super::queue::Seat;
use super::stages::{Stage, StageClock};
use super::{LaneError, StopSwitch, Worker};
use crate::domain::Embeddings;
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
    let lost = || worker.lost.load(Ordering::SeqCst);
    while let Some((batch, idle)) = shop.clock.time(Stage::Wait, || seat.take()) {
        if shop.stop.cause().is_some() {
            seat.done();
            return false;
        }
        if shop.lanes.has_failed(batch.lane) {
            seat.done();
            continue;
        }
        if lost() {
            seat.give_back(batch);
            return true;
        }
        let start = Instant::now();
        let lane = shop.lanes.of(batch.lane);
        let encoder = &mut worker.encoders[batch.lane];
        // Cores of workers without a batch may help with this one.
        encoder.use_cores(1 + idle);
        // A panic must reach the collector as a failure: it would wait for this batch for ever.
        let encoded =
            lane.clock.time(Stage::Forward, || catch_unwind(AssertUnwindSafe(|| encoder.encode(&batch.packed))));
        if lost() {
            seat.give_back(batch);
            return true;
        }
        let Batch { lane: place, shard, rows, packed } = batch;
        shop.observer.observe(&Event::BatchEncoded {
            model: lane.model.to_owned(),
            device: worker.device.clone(),
            worker: number,
            rows: packed.sequences() as u64,
            tokens: packed.tokens() as u64,
            padded_tokens: packed.tokens() as u64,
            longest: packed.longest() as u64,
            seconds: start.elapsed().as_secs_f64(),
        });
        let result = match encoded {
            Ok(Ok(embeddings)) => Message::Encoded(Encoded { lane: place, shard, rows, embeddings }),
            Ok(Err(error)) => Message::Failed { lane: place, error: error.into() },
            Err(_) => Message::Failed { lane: place, error: LaneError::Panicked },
        };
        let sent = results.send(result);
        seat.done();
        if sent.is_err() {
            return false;
        }
    }
    false
}
