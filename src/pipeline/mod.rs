//! One model over one collection: read, tokenise, encode, write, all at the same time.
//!
//! ```text
//!  read ─[groups]─> tokenize × T ─[groups]─> assemble ─[batches]─> encode × N ─[vectors]─> collect ─> commit
//!                                               └────────────[drafts of shards]────────────────┘
//! ```
//!
//! Every arrow is a bounded channel, and a permit bounds the shards between `assemble` and `commit`, so that host
//! memory is that of a few shards, whatever the size of the collection. A shard is the window in which sequences are
//! sorted by length; its vectors find their way back by index, and shards are committed in order.
//!
//! A thread that fails says so and closes its channels; the others notice and end. Nothing waits for ever.

mod assemble;
mod collect;
mod encode;
mod source;
mod stages;

#[cfg(test)]
mod tests;

pub use stages::StageClock;

use std::sync::atomic::{AtomicU8, Ordering};

use crossbeam_channel::bounded;

use crate::batch::BatchLimits;
use crate::collection::Collection;
use crate::domain::Shard;
use crate::encoder::{EncodeError, Encoder};
use crate::output::{CommitError, Committed, InputChanged};
use crate::telemetry::event::{Observer, StopCause};
use crate::tokenize::Tokenizer;

/// Chunks handed on at once: enough that channels cost nothing, few enough that all threads have work early.
const GROUP_CHUNKS: usize = 32;
/// Bytes of text after which a group is handed on early.
const GROUP_BYTES: usize = 256 * 1024;
/// Shards between tokeniser and disk: one that is encoded, one that is finished or written, one that is filled.
const SHARDS_IN_FLIGHT: usize = 3;

/// Everything that one pass over one collection needs.
pub struct Pass<'a> {
    /// What to read.
    pub collection: &'a Collection,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Threads that tokenise.
    pub tokenizer_threads: usize,
    /// One thread each.
    pub encoders: &'a mut [Box<dyn Encoder>],
    /// Limits of a batch.
    pub limits: BatchLimits,
    /// Rows in a shard.
    pub shard_rows: usize,
    /// Length of a vector.
    pub dimension: usize,
    /// What an earlier run committed, to be checked against the input and skipped.
    pub committed: &'a Committed,
    /// Asked before each group and each batch whether to go on.
    pub stop: &'a StopSwitch,
    /// Where the time goes.
    pub clock: &'a StageClock,
    /// Who wants to know.
    pub observer: &'a dyn Observer,
}

/// Takes finished shards, in order.
pub trait Commit {
    /// Makes a shard durable.
    ///
    /// # Errors
    /// [`CommitError`]; the pass ends then.
    fn commit(&mut self, shard: &Shard) -> Result<(), CommitError>;
}

/// How a pass ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassEnd {
    /// All rows are committed.
    Complete {
        /// Their number.
        rows: u64,
    },
    /// The stop switch was thrown; complete shards are committed.
    Stopped,
}

/// A pass that failed. What was committed before stays.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A batch could not be encoded.
    #[error("encoding failed: {0}")]
    Encode(#[from] EncodeError),
    /// A shard could not be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What an earlier run embedded is no longer what is there.
    #[error(transparent)]
    InputChanged(#[from] InputChanged),
    /// A thread panicked; its message is on standard error.
    #[error("internal error: a thread of the {stage} stage panicked")]
    Panicked {
        /// The stage.
        stage: &'static str,
    },
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

/// Runs a pass to its end.
///
/// # Errors
/// [`PassError`], after all threads have ended.
pub fn run(pass: Pass<'_>, commit: &mut dyn Commit) -> Result<PassEnd, PassError> {
    let Pass { collection, tokenizer, encoders, stop, clock, observer, .. } = pass;
    let (group_sender, groups) = bounded(pass.tokenizer_threads * 2);
    let (tokenized_sender, tokenized) = bounded(pass.tokenizer_threads * 2);
    let (batch_sender, batches) = bounded(encoders.len() * 2);
    let (message_sender, messages) = bounded(SHARDS_IN_FLIGHT + encoders.len() * 4);
    let (permit_sender, permits) = bounded(SHARDS_IN_FLIGHT);
    for _ in 0..SHARDS_IN_FLIGHT {
        let _ = permit_sender.send(());
    }
    let assembler = assemble::Assembler {
        shard_rows: pass.shard_rows,
        limits: pass.limits,
        committed: pass.committed,
        collection: collection.name(),
        stop,
        observer,
        permits,
        batches: batch_sender,
        messages: message_sender.clone(),
    };
    let committed_rows = pass.committed.rows();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || source::read(collection, &group_sender, stop, clock, observer));
        let tokenizers: Vec<_> = (0..pass.tokenizer_threads)
            .map(|_| {
                let (groups, tokenized) = (groups.clone(), tokenized_sender.clone());
                scope.spawn(move || source::tokenize(tokenizer, committed_rows, &groups, &tokenized, clock))
            })
            .collect();
        drop((groups, tokenized_sender));
        let assembler = scope.spawn(move || assembler.run(&tokenized));
        let encoders: Vec<_> = encoders
            .iter_mut()
            .enumerate()
            .map(|(worker, encoder)| {
                let (batches, results) = (batches.clone(), message_sender.clone());
                scope.spawn(move || {
                    encode::encode(worker, encoder.as_mut(), &batches, &results, stop, clock, observer);
                })
            })
            .collect();
        drop((batches, message_sender));
        // This thread collects; the channels that it owns close when it returns, and the others follow.
        let collected =
            collect::Collector { dimension: pass.dimension, collection: collection.name(), observer, clock }.run(
                messages,
                permit_sender,
                commit,
            );
        let panicked = |stage| move |_| PassError::Panicked { stage };
        let read = reader.join().map_err(panicked("reading"));
        let tokenized = tokenizers.into_iter().try_for_each(|thread| thread.join().map_err(panicked("tokenizing")));
        let assembled = assembler.join().map_err(panicked("assembling"));
        let encoded = encoders.into_iter().try_for_each(|thread| thread.join().map_err(panicked("encoding")));
        read.and(tokenized).and(encoded)?;
        let (assembled, fresh_rows) = (assembled??, collected?);
        Ok(match assembled {
            assemble::Assembled::All { rows } if rows == committed_rows + fresh_rows => PassEnd::Complete { rows },
            _ => PassEnd::Stopped,
        })
    })
}
