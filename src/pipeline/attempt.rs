//! One batch through an encoder, whatever it takes: as large as memory allows at this moment, in smaller parts where it
//! does not suffice, on the processor where it suffices for nothing.
//!
//! What is to be done says [`Recovery`], how large a part may be the controller of the device; here it is done, timed
//! and told. Every row of the batch ends exactly once: with a vector, as failed, or in what is given back when the device
//! is lost.

use std::borrow::Cow;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::LaneError;
use super::assemble::Batch;
use super::collect::Message;
use super::encode::{Encoded, Shop};
use super::lane::Lane;
use super::stages::Stage;
use crate::batch::{self, BatchLimits, Change, Controller, Finished, Recovery, Step};
use crate::domain::{Embeddings, FailureKind, PackedBatch};
use crate::encoder::{Begun, EncodeError, Encoder, SharedEncoder, fault};
use crate::telemetry::event::{Event, Mitigation};

/// How a batch ended.
pub(super) enum Ended {
    /// Every row has its vector or its failure, or its lane has failed.
    Done,
    /// The device is lost; this is what it has not done.
    Lost(Batch),
    /// The run is to stop, or nobody takes results any more.
    Over,
}

/// A worker with a batch in hand.
pub(super) struct Attempt<'a, 'device> {
    pub number: usize,
    pub device: &'a str,
    pub lost: &'a AtomicBool,
    pub lane: &'a Lane<'a>,
    pub encoder: &'a mut Box<dyn Encoder + 'device>,
    pub results: &'a Sender<Message>,
    pub shop: Shop<'a>,
}

/// What one try gave.
type Outcome = Result<Embeddings, LaneError>;

/// A whole batch that was begun.
pub(super) struct UnderWay {
    begun: Begun,
    /// Since when the device has had nothing else to do.
    pub start: Instant,
    peak_bytes: Option<u64>,
}

impl Attempt<'_, '_> {
    /// Begins with a whole batch; `None` if it is too large at this moment, so that it has to be done in parts.
    pub(super) fn begin(&mut self, batch: &Batch) -> Option<Result<UnderWay, LaneError>> {
        let longest = batch.packed.longest();
        let limits = self.controller(|controller| controller.limits(longest));
        let sequences = batch.packed.sequences();
        let fitting = limits.map_or(sequences, |limits| batch::fitting(batch.packed.lengths(0..sequences), limits));
        (fitting == sequences).then(|| self.begin_whole(&batch.packed))
    }

    fn begin_whole(&mut self, packed: &PackedBatch) -> Result<UnderWay, LaneError> {
        self.prepare(packed)?;
        let start = Instant::now();
        let work = || catch_unwind(AssertUnwindSafe(|| self.encoder.begin(packed, self.lane.profile)));
        let begun = self.lane.clock.time(Stage::Forward, work).map_err(|_| LaneError::Panicked)??;
        // Memory is given out and taken back in the order in which work is begun: this is all that it takes.
        Ok(UnderWay { begun, start, peak_bytes: self.encoder.take_peak() })
    }

    /// Waits for the vectors of a batch.
    pub(super) fn wait(&mut self, batch: &Batch, under_way: UnderWay) -> Outcome {
        let UnderWay { begun, start, peak_bytes } = under_way;
        let work = || catch_unwind(AssertUnwindSafe(|| self.encoder.finish(begun, &batch.packed, self.lane.profile)));
        let embeddings = self.lane.clock.time(Stage::Forward, work).map_err(|_| LaneError::Panicked)??;
        self.succeeded(&batch.packed, start.elapsed().as_secs_f64(), peak_bytes);
        Ok(embeddings)
    }

    /// Does what is to be done for a batch, of which `first` is what came of trying all of it at once, if that was tried.
    pub(super) fn run(mut self, batch: Batch, mut first: Option<Outcome>) -> Ended {
        let mut recovery = Recovery::new(batch.packed.sequences(), self.lane.fallback.is_some());
        while let Some(part) = recovery.next_part() {
            if self.shop.stop.cause().is_some() {
                return Ended::Over;
            }
            let tried = first.take();
            let longest = batch.packed.lengths(part.clone()).max().unwrap_or(0);
            let limits = self.controller(|controller| controller.limits(longest));
            let fitting =
                limits.map_or(part.len(), |limits| batch::fitting(batch.packed.lengths(part.clone()), limits));
            if fitting < part.len() && tried.is_none() {
                recovery.cut(fitting);
                continue;
            }
            let packed = packed(&batch.packed, &part);
            let encoded = tried.unwrap_or_else(|| self.encode(&packed));
            if self.lost.load(Ordering::SeqCst) {
                return Ended::Lost(rest(batch, &recovery));
            }
            let step = match encoded {
                Ok(embeddings) => {
                    if !self.finish(&batch, part, &packed, embeddings) {
                        return Ended::Over;
                    }
                    recovery.done();
                    continue;
                }
                Err(LaneError::Encode(error)) => match error.kind() {
                    FailureKind::OutOfMemory => self.mitigate(&batch, &packed, &mut recovery, &error),
                    FailureKind::DeviceLost => Err(error),
                    FailureKind::NoKernel | FailureKind::Other => {
                        return self.give_up(&batch, LaneError::Encode(error));
                    }
                },
                Err(error) => return self.give_up(&batch, error),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Ended::Over,
                Err(error) if error.kind() == FailureKind::DeviceLost => {
                    self.tell_lost(&error);
                    return Ended::Lost(rest(batch, &recovery));
                }
                Err(error) => return self.give_up(&batch, LaneError::Encode(error)),
            }
        }
        Ended::Done
    }

    /// Tries once.
    fn encode(&mut self, packed: &PackedBatch) -> Outcome {
        self.prepare(packed)?;
        let start = Instant::now();
        // A panic must reach the collector as a failure: it would wait for this batch for ever.
        let work = || catch_unwind(AssertUnwindSafe(|| self.encoder.encode(packed, self.lane.profile)));
        let encoded = self.lane.clock.time(Stage::Forward, work);
        let embeddings = encoded.map_err(|_| LaneError::Panicked)??;
        let (seconds, peak_bytes) = (start.elapsed().as_secs_f64(), self.encoder.take_peak());
        self.succeeded(packed, seconds, peak_bytes);
        Ok(embeddings)
    }

    /// Makes the device ready for a try.
    fn prepare(&mut self, packed: &PackedBatch) -> Result<(), EncodeError> {
        let (tokens, longest) = (packed.tokens(), packed.longest());
        if self.controller(|controller| controller.begin(tokens, longest)).unwrap_or(false) {
            self.encoder.settle()?;
        }
        // What came before, a failed try above all, was not for this batch.
        self.encoder.take_peak();
        Ok(())
    }

    /// Tells of a try that went well, and the controller as well.
    fn succeeded(&self, packed: &PackedBatch, seconds: f64, peak_bytes: Option<u64>) {
        let (tokens, longest) = (packed.tokens(), packed.longest());
        self.tell_encoded(self.device, packed, seconds);
        let finished = Finished { tokens, longest, seconds, peak_bytes };
        if let Some(Change { limits, gain }) = self.controller(|controller| controller.encoded(finished)).flatten() {
            let reason = match gain {
                Some(gain) => {
                    format!("twice as many tokens at once were encoded {:+.0} % as fast", (gain - 1.0) * 100.0)
                }
                None => "batches went well".to_owned(),
            };
            let action = if limits.tokens > tokens { "grow_batch" } else { "shrink_batch" };
            self.tell(action, reason, limits);
        }
    }

    /// Hands on what the encoder gave; useless vectors are tried once more in f32. `false` if nobody takes it.
    fn finish(&self, batch: &Batch, part: Range<usize>, packed: &PackedBatch, mut embeddings: Embeddings) -> bool {
        if let Some(exact) = self.lane.exact {
            self.retry_useless(exact, packed, &mut embeddings);
        }
        let rows = batch.rows[part].to_vec();
        let encoded = Encoded { lane: batch.lane, shard: batch.shard, rows, embeddings };
        self.results.send(Message::Encoded(encoded)).is_ok()
    }

    /// Lower arithmetic overflows where f32 does not. What is still useless then is the model's fault.
    fn retry_useless(&self, exact: &dyn SharedEncoder, packed: &PackedBatch, embeddings: &mut Embeddings) {
        let useless: Vec<usize> =
            (0..packed.sequences()).filter(|&sequence| is_useless(embeddings, sequence)).collect();
        for sequence in useless {
            let one = packed.part(sequence..sequence + 1);
            let limits = self.limits(one.longest());
            self.tell("retry_in_f32", "the vector of a text was zero or not finite".to_owned(), limits);
            if let Ok(mut again) = self.encode_elsewhere(exact, &one)
                && again.dimension == embeddings.dimension
                && !is_useless(&again, 0)
            {
                embeddings.replace(sequence, &mut again, 0);
            }
        }
    }

    /// The next step for a part for which memory did not suffice. `Ok(false)` if nobody takes results.
    fn mitigate(
        &mut self,
        batch: &Batch,
        packed: &PackedBatch,
        recovery: &mut Recovery,
        error: &EncodeError,
    ) -> Result<bool, EncodeError> {
        let (tokens, longest) = (packed.tokens(), packed.longest());
        let row = recovery.next_part().map_or(0, |part| batch.rows[part.start]);
        // What is left of a failed try would be in the way of the next one, whatever that is. If the device is lost by
        // this, the part is not at its end: another device is to try it.
        self.encoder.settle()?;
        let step = recovery.out_of_memory();
        let limits = match step {
            Step::FreeCaches => self.limits(longest),
            _ => {
                self.controller(|controller| controller.out_of_memory(tokens, longest)).unwrap_or(self.limits(longest))
            }
        };
        let what = format!("{tokens} tokens in texts of up to {longest}: {error}");
        let failed = |reason: String| {
            let (lane, shard) = (batch.lane, batch.shard);
            self.results.send(Message::RowFailed { lane, shard, row, reason }).is_ok()
        };
        match (step, self.lane.fallback) {
            (Step::FreeCaches, _) => self.tell("free_caches", what, limits),
            (Step::Halve, _) => self.tell("split_batch", what, limits),
            (Step::Processor, Some(fallback)) => {
                self.tell("use_cpu", what, limits);
                match self.encode_elsewhere(fallback, packed) {
                    Ok(embeddings) => {
                        let part = recovery.next_part().unwrap_or(0..0);
                        recovery.done();
                        return Ok(self.finish(batch, part, packed, embeddings));
                    }
                    Err(fault) => {
                        recovery.failed();
                        let reason = format!("{error}, even for this text alone; and on the processor: {fault}");
                        self.tell("fail_row", reason.clone(), limits);
                        return Ok(failed(reason));
                    }
                }
            }
            (Step::Processor | Step::Fail, _) => {
                if step == Step::Processor {
                    recovery.failed();
                }
                let reason = format!("{error}, even for this text of {tokens} tokens alone");
                self.tell("fail_row", reason.clone(), limits);
                return Ok(failed(reason));
            }
        }
        Ok(true)
    }

    /// On an encoder that all workers share.
    fn encode_elsewhere(&self, encoder: &dyn SharedEncoder, packed: &PackedBatch) -> Outcome {
        let start = Instant::now();
        let work = || catch_unwind(AssertUnwindSafe(|| encoder.encode(packed, self.lane.profile)));
        let embeddings = self.lane.clock.time(Stage::Forward, work).map_err(|_| LaneError::Panicked)??;
        self.tell_encoded("cpu", packed, start.elapsed().as_secs_f64());
        Ok(embeddings)
    }

    /// Ends the lane, which the collector does.
    fn give_up(&self, batch: &Batch, error: LaneError) -> Ended {
        match self.results.send(Message::Failed { lane: batch.lane, error }) {
            Ok(()) => Ended::Done,
            Err(_) => Ended::Over,
        }
    }

    fn controller<T>(&self, ask: impl FnOnce(&mut Controller) -> T) -> Option<T> {
        self.lane.controllers.lock().unwrap_or_else(PoisonError::into_inner).of(self.device).map(ask)
    }

    fn limits(&self, longest: usize) -> BatchLimits {
        self.controller(|controller| controller.limits(longest)).unwrap_or_else(|| self.lane.limits_soon(longest))
    }

    fn tell(&self, action: &'static str, reason: String, limits: BatchLimits) {
        self.shop.observer.observe(&Event::Mitigation(Mitigation {
            model: self.lane.model.to_owned(),
            action: action.to_owned(),
            reason,
            device: self.device.to_owned(),
            batch_tokens: limits.tokens,
            batch_size: limits.sequences,
        }));
    }

    fn tell_encoded(&self, device: &str, packed: &PackedBatch, seconds: f64) {
        self.shop.observer.observe(&Event::BatchEncoded {
            model: self.lane.model.to_owned(),
            device: device.to_owned(),
            worker: self.number,
            rows: packed.sequences() as u64,
            tokens: packed.tokens() as u64,
            padded_tokens: packed.tokens() as u64,
            longest: packed.longest() as u64,
            seconds,
        });
    }

    /// Nothing can be computed on the device any more: others do its work.
    fn tell_lost(&self, error: &EncodeError) {
        if !self.lost.swap(true, Ordering::SeqCst) {
            let (device, reason) = (self.device.to_owned(), error.to_string());
            self.shop.observer.observe(&Event::DeviceLost { device, reason });
        }
    }
}

fn packed<'a>(batch: &'a PackedBatch, part: &Range<usize>) -> Cow<'a, PackedBatch> {
    if part.len() == batch.sequences() { Cow::Borrowed(batch) } else { Cow::Owned(batch.part(part.clone())) }
}

/// What is not done of a batch.
fn rest(batch: Batch, recovery: &Recovery) -> Batch {
    let rest = recovery.rest();
    if rest.len() == batch.rows.len() {
        return batch;
    }
    Batch { rows: batch.rows[rest.clone()].to_vec(), packed: batch.packed.part(rest), ..batch }
}

fn is_useless(embeddings: &Embeddings, sequence: usize) -> bool {
    let sparse = embeddings.sparse.as_ref().and_then(|sparse| sparse.get(sequence));
    let multi = embeddings.multi.as_ref().and_then(|multi| multi.texts.get(sequence));
    fault(embeddings.dense_of(sequence), sparse, multi.map(Vec::as_slice)).is_some()
}
