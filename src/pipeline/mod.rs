//! One or several models over one collection: read, tokenise, encode, write, all at the same time.
//!
//! ```text
//!  read ─[groups]─> tokenize × T ─[groups]─> assemble ─[batches]─> encode × N ─[vectors]─> collect ─> commit
//!                                               └────────────[drafts of shards]────────────────┘
//! ```
//!
//! Every arrow is bounded, and a permit bounds the shards between `assemble` and `commit`, so that host memory is that
//! of a few shards, whatever the size of the collection. A shard is the window in which sequences are sorted by length;
//! its vectors find their way back by index, and shards are committed in order. Of each model as many are begun and not
//! committed as there are devices, so that no more than these are lost with the process.
//!
//! Each model has a lane: tokens, shards and commits of its own, over one reading of the input. A batch of each lane in
//! turn goes into the one queue from which the workers on all devices take. What a worker has when its device is lost
//! is done by another, what a device has no memory for is done in parts or on the processor; what a model cannot do ends
//! its lane alone.
//!
//! A thread that fails says so and closes its channels; the others notice and end. Nothing waits for ever.

mod assemble;
mod attempt;
mod collect;
mod encode;
mod lane;
mod queue;
mod source;
mod stages;

#[cfg(test)]
mod tests;

pub use lane::Lane;
pub use stages::{Stage, StageClock};

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crossbeam_channel::bounded;

use self::collect::{Collected, Message};
use self::lane::Lanes;
use self::queue::{BatchQueue, Inlet, Outlet, Room};
use crate::collection::Collection;
use crate::domain::Shard;
use crate::encoder::{EncodeError, Encoder};
use crate::output::{CommitError, InputChanged};
use crate::telemetry::event::{Observer, StopCause};

/// Chunks handed on at once: enough that channels cost nothing, few enough that all threads have work early.
const GROUP_CHUNKS: usize = 32;
/// Bytes of text after which a group is handed on early.
const GROUP_BYTES: usize = 256 * 1024;
/// Shards of a lane between tokeniser and disk: on one device one that is encoded or written, one that is ready to be
/// begun, one that is filled.
const SHARDS_IN_FLIGHT: usize = 3;
/// The same where vectors of tokens make shards large: one that is encoded or written, one that is filled.
const LARGE_SHARDS_IN_FLIGHT: usize = 2;

/// Everything that one pass over one collection needs.
pub struct Pass<'a, 'device> {
    /// What to read.
    pub collection: &'a Collection,
    /// The models, at least one.
    pub lanes: &'a [Lane<'a>],
    /// Threads that tokenise.
    pub tokenizer_threads: usize,
    /// One thread each.
    pub workers: &'a mut [Worker<'device>],
    /// Asked before each group and each batch whether to go on.
    pub stop: &'a StopSwitch,
    /// Where the time of reading and of waiting goes.
    pub clock: &'a StageClock,
    /// Who wants to know.
    pub observer: &'a dyn Observer,
}

/// A thread's hold on a device.
pub struct Worker<'device> {
    /// What the device is called, as in `--devices`.
    pub device: String,
    /// Set, by whoever watches the device, when it is lost: the worker gives up and what it has is done by another.
    pub lost: Arc<AtomicBool>,
    /// One a lane, in the order of the lanes.
    pub encoders: Vec<Box<dyn Encoder + 'device>>,
}

/// Takes finished shards, in order.
pub trait Commit {
    /// Makes a shard durable.
    ///
    /// # Errors
    /// [`CommitError`]; the pass ends then.
    fn commit(&mut self, shard: &Shard) -> Result<(), CommitError>;
}

/// How a lane ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassEnd {
    /// All rows that were to be embedded are committed.
    Complete {
        /// Number of rows of the input.
        rows: u64,
    },
    /// The stop switch was thrown; complete shards are committed.
    Stopped,
}

/// A pass that failed. What was committed before stays.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A shard could not be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What an earlier run embedded is no longer what is there.
    #[error(transparent)]
    InputChanged(#[from] InputChanged),
    /// Every device was lost; what is committed stays.
    #[error(
        "every device of the pass was lost; see `dmesg`, then run the same command again, which goes on from what is committed"
    )]
    DevicesLost,
    /// A thread panicked; its message is on standard error.
    #[error("internal error: a thread of the {stage} stage panicked")]
    Panicked {
        /// The stage.
        stage: &'static str,
    },
}

/// Why a model could not go on, while others may.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// A batch could not be encoded.
    #[error("encoding failed: {0}")]
    Encode(#[from] EncodeError),
    /// The encoder panicked; its message is on standard error.
    #[error("internal error: the encoder panicked")]
    Panicked,
}

/// Asks all threads of a run to end early; thrown once, from any thread or signal handler.
#[derive(Debug, Default)]
pub struct StopSwitch(AtomicU8);

impl StopSwitch {
    /// Throws the switch; the first cause stays.
    pub fn stop(&self, cause: StopCause) {
        let code = match cause {
            StopCause::Interrupt => 1,
            StopCause::Terminate => 2,
            StopCause::TimeLimit => 3,
        };
        let _ = self.0.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether and why to stop.
    pub fn cause(&self) -> Option<StopCause> {
        match self.0.load(Ordering::SeqCst) {
            1 => Some(StopCause::Interrupt),
            2 => Some(StopCause::Terminate),
            3 => Some(StopCause::TimeLimit),
            _ => None,
        }
    }
}

/// Runs a pass to its end. `commits` has one for each lane, and so has the result.
///
/// # Errors
/// [`PassError`], after all threads have ended. What ends one lane alone is in its place of the result.
pub fn run(pass: Pass<'_, '_>, commits: &mut [&mut dyn Commit]) -> Result<Vec<Result<PassEnd, LaneError>>, PassError> {
    let Pass { collection, workers, stop, clock, observer, .. } = pass;
    let failed: Vec<AtomicBool> = pass.lanes.iter().map(|_| AtomicBool::new(false)).collect();
    let lanes = Lanes::new(pass.lanes, &failed);
    let (group_sender, groups) = bounded(pass.tokenizer_threads * 2);
    let (tokenized_sender, tokenized) = bounded(pass.tokenizer_threads * 2);
    let in_flight =
        |lane: &Lane<'_>| if lane.widths.multi.is_some() { LARGE_SHARDS_IN_FLIGHT } else { SHARDS_IN_FLIGHT };
    let shards_in_flight = pass.lanes.iter().map(in_flight).sum();
    let (message_sender, messages) = bounded(shards_in_flight + workers.len() * 4);
    let (permit_sender, permits) = bounded(shards_in_flight);
    for _ in 0..shards_in_flight {
        let _ = permit_sender.send(());
    }
    let queue = BatchQueue::new(Room {
        workers: workers.len(),
        batches: workers.len() * 2,
        lanes: pass.lanes.len(),
        // What is begun and not committed has to be done again after a kill.
        begun_shards: workers.iter().map(|worker| worker.device.as_str()).collect::<BTreeSet<_>>().len(),
    });
    let assembler = assemble::Assembler {
        workers: workers.len(),
        shards_in_flight,
        lanes,
        collection: collection.name(),
        stop,
        observer,
        permits,
        batches: Inlet(&queue),
        messages: message_sender.clone(),
    };
    let shop = encode::Shop { collection: collection.name(), lanes, stop, clock, observer };
    // All of them before any thread: should one not start, its seat and those of the others are given up, and nobody waits
    // for a worker that never comes, nor for commits.
    let outlet = Outlet(&queue);
    let seats: Vec<_> = workers.iter().map(|_| queue.seat()).collect();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || source::read(collection, &group_sender, stop, clock, observer));
        let tokenizers: Vec<_> = (0..pass.tokenizer_threads)
            .map(|_| {
                let (groups, tokenized) = (groups.clone(), tokenized_sender.clone());
                scope.spawn(move || source::tokenize(lanes, &groups, &tokenized))
            })
            .collect();
        drop((groups, tokenized_sender));
        let assembler = scope.spawn(move || assembler.run(&tokenized));
        let encoders: Vec<_> = (0..)
            .zip(workers)
            .zip(seats)
            .map(|((number, worker), seat)| {
                let (queue, results) = (&queue, message_sender.clone());
                scope.spawn(move || {
                    let bench = encode::Bench { number, worker, seat: &seat, results: &results, shop };
                    let ended = catch_unwind(AssertUnwindSafe(|| bench.encode()));
                    drop(seat);
                    match ended {
                        // What the last worker gives back will never be done; what others took before they left is.
                        Ok(gave_up) if gave_up && queue.is_abandoned() => drop(results.send(Message::WorkersLost)),
                        Ok(_) => {}
                        // Its batch is gone, and the collector would wait for it for ever.
                        Err(_) => drop(results.send(Message::WorkerPanicked)),
                    }
                })
            })
            .collect();
        drop(message_sender);
        // This thread collects; the channels that it owns close when it returns, and the others follow.
        let collector = collect::Collector { lanes, shards_in_flight, collection: collection.name(), observer, outlet };
        let collected = collector.run(messages, permit_sender, commits);
        let panicked = |stage| move |_| PassError::Panicked { stage };
        let read = reader.join().map_err(panicked("reading"));
        let tokenized = tokenizers.into_iter().try_for_each(|thread| thread.join().map_err(panicked("tokenizing")));
        let assembled = assembler.join().map_err(panicked("assembling"));
        let encoded = encoders.into_iter().try_for_each(|thread| thread.join().map_err(panicked("encoding")));
        read.and(tokenized).and(encoded)?;
        let (assembled, collected) = (assembled??, collected?);
        let end = |(lane, Collected { committed_rows, failure }): (&Lane<'_>, Collected)| match (failure, &assembled) {
            (Some(error), _) => Err(error),
            (None, assemble::Assembled::All { rows }) if lane.committed.is_all_with(committed_rows, *rows) => {
                Ok(PassEnd::Complete { rows: *rows })
            }
            _ => Ok(PassEnd::Stopped),
        };
        Ok(lanes.all().iter().zip(collected).map(end).collect())
    })
}
