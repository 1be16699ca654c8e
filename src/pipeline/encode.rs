//! The encoder threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::assemble::Batch;
use super::collect::Message;
use super::stages::{Stage, StageClock};
use super::{PassError, StopSwitch};
use crate::domain::Embeddings;
use crate::encoder::Encoder;
use crate::telemetry::event::{Event, Observer};

/// The vectors of a batch and where they belong.
pub(super) struct Encoded {
    pub shard: u32,
    pub rows: Vec<usize>,
    pub embeddings: Embeddings,
}

/// Encodes batches until there are no more, one fails, or the run is to stop.
pub(super) fn encode(
    worker: usize,
    encoder: &mut dyn Encoder,
    batches: &Receiver<Batch>,
    results: &Sender<Message>,
    stop: &StopSwitch,
    clock: &StageClock,
    observer: &dyn Observer,
) {
    while let Ok(Batch { shard, rows, packed }) = clock.time(Stage::Wait, || batches.recv()) {
        if stop.cause().is_some() {
            return;
        }
        let start = Instant::now();
        // A panic must reach the collector as a failure: it would wait for this batch for ever.
        let encoded = clock.time(Stage::Forward, || catch_unwind(AssertUnwindSafe(|| encoder.encode(&packed))));
        observer.observe(&Event::BatchEncoded {
            worker,
            rows: packed.sequences() as u64,
            tokens: packed.tokens() as u64,
            padded_tokens: packed.tokens() as u64,
            longest: packed.longest() as u64,
            seconds: start.elapsed().as_secs_f64(),
        });
        let result = match encoded {
            Ok(Ok(embeddings)) => Message::Encoded(Encoded { shard, rows, embeddings }),
            Ok(Err(error)) => Message::Failed(error.into()),
            Err(_) => Message::Failed(PassError::Panicked { stage: "encoding" }),
        };
        let failed = matches!(result, Message::Failed(_));
        if results.send(result).is_err() || failed {
            return;
        }
    }
}
