//! Attention with an online softmax over blocks of keys, divided over cores.
//!
//! A [`Layer`] is cut into pieces: one head of keys and values of one sequence, with some of the rows that attend to it
//! (`head`). Pieces are cut from the beginning of their sequence and each row is computed in its own lane (`scores`), so
//! that its result depends neither on batch mates nor on cores. The plain twin is `nn::candle`.
#![expect(clippy::inline_always, reason = "a body that is not inlined is compiled without the instructions")]

mod bias;
mod head;
mod packing;
mod scores;
mod scratch;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::bias::Bias;
use self::head::Head;
use self::scratch::{ROW_BLOCK, Scratch};
use super::buffers::Buffers;
use super::cores;
use super::instructions::Supported;
use super::rotation::Rotation;
use super::vector::{Vector, Work};
use crate::domain::PackedBatch;
use crate::nn::Attention;

/// Least multiplications that are worth a core of their own: some ten times the cost of asking one that is awake.
const WORK_OF_A_CORE: usize = 1 << 20;

/// Pieces for each core, so that none waits long for the last.
const PIECES_OF_A_CORE: usize = 4;

/// One attention layer over a batch.
pub(super) struct Layer<'a> {
    pub(super) attention: &'a Attention,
    /// Present when the layer has rotary positions; for as many positions as the longest sequence has.
    pub(super) rotation: Option<Arc<Rotation>>,
    /// [tokens, input width].
    pub(super) qkv: &'a [f32],
    pub(super) batch: &'a PackedBatch,
    /// [tokens, output width].
    pub(super) out: &'a mut [f32],
    pub(super) buffers: &'a Arc<Buffers>,
}

impl Layer<'_> {
    /// On how many of some cores it is worth computing.
    pub(super) fn cores_of_use(&self, cores: usize) -> usize {
        let lengths = self.batch.cu_seqlens().windows(2).map(|bounds| bounds[1] - bounds[0]);
        let scores =
            |length: usize| (0..length).map(|query| self.attention.mask.keys(query, length).len()).sum::<usize>();
        let multiplications = 2 * self.attention.output_width() * lengths.map(scores).sum::<usize>();
        cores.min(multiplications / WORK_OF_A_CORE).max(1)
    }

    /// Computes it on so many cores, with the same bits for any number.
    pub(super) fn compute(self, instructions: Supported, cores_of_use: usize) {
        let Self { attention, rotation, qkv, batch, out, buffers } = self;
        assert_eq!(qkv.len(), batch.tokens() * attention.input_width(), "q, k and v have another shape");
        assert_eq!(out.len(), batch.tokens() * attention.output_width(), "the result has another shape");
        let longest = batch.longest();
        let heads = (batch.sequences() * attention.key_value_heads).max(1);
        let parts = if cores_of_use > 1 { (PIECES_OF_A_CORE * cores_of_use).div_ceil(heads) } else { 1 };
        let pieces = Pieces {
            attention,
            rotation: rotation.as_deref(),
            bias: Bias::new(attention, longest),
            qkv,
            out: Shared(out.as_mut_ptr()),
            batch,
            longest,
            buffers,
            parts: parts.min(longest.div_ceil(ROW_BLOCK)).max(1),
        };
        if cores_of_use == 1 {
            // Counted without an atomic operation, which would wait for all earlier writes.
            let mut numbers = 0..;
            return instructions.run(Share { pieces: &pieces, next: || numbers.next().unwrap_or(usize::MAX) });
        }
        let taken = AtomicUsize::new(0);
        let next = || taken.fetch_add(1, Ordering::Relaxed);
        cores::each(0..cores_of_use, |_| instructions.run(Share { pieces: &pieces, next }));
    }
}

/// A result that several cores write, each where no other does.
struct Shared(*mut f32);

// SAFETY: pieces are rows of heads, each given to one core by a counter, and the heads of rows do not overlap.
unsafe impl Sync for Shared {}

/// The pieces of a layer.
struct Pieces<'a> {
    attention: &'a Attention,
    rotation: Option<&'a Rotation>,
    bias: Option<Bias>,
    /// [tokens, input width].
    qkv: &'a [f32],
    /// [tokens, output width].
    out: Shared,
    batch: &'a PackedBatch,
    longest: usize,
    buffers: &'a Arc<Buffers>,
    /// Into how many parts the rows of each sequence are divided.
    parts: usize,
}

impl Pieces<'_> {
    /// The piece of a number, if there are so many; it may have no rows.
    fn get(&self, number: usize) -> Option<(Head<'_>, Range<usize>)> {
        let attention = self.attention;
        let (head, part) = (number / self.parts, number % self.parts);
        let (sequence, number_of_head) = (head / attention.key_value_heads, head % attention.key_value_heads);
        let &[start, end] = self.batch.cu_seqlens().get(sequence..sequence + 2)? else { return None };
        let length = end - start;
        let bound = |part: usize| (part * length.div_ceil(ROW_BLOCK) / self.parts * ROW_BLOCK).min(length);
        let head = Head {
            attention,
            rotation: self.rotation,
            bias: self.bias.as_ref(),
            number: number_of_head,
            seen: self.batch.seen(sequence),
            qkv: self.qkv[start * attention.input_width()..].as_ptr(),
            // In bounds, as the result has a row for each token of the batch.
            out: self.out.0.wrapping_add(start * attention.output_width()),
        };
        Some((head, bound(part)..bound(part + 1)))
    }
}

/// What one core does of the pieces.
struct Share<'a, F> {
    pieces: &'a Pieces<'a>,
    /// The number of a piece that nobody has.
    next: F,
}

impl<F: FnMut() -> usize> Work for Share<'_, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn on<V: Vector>(mut self) {
        let Pieces { attention, longest, buffers, .. } = *self.pieces;
        let mut scratch = Scratch::take::<V>(buffers, attention, longest);
        while let Some((head, rows)) = self.pieces.get((self.next)()) {
            // SAFETY: shapes were checked against the batch, and the scratch memory was taken for its longest sequence;
            // no other piece has these rows of these heads; the caller has the instructions.
            unsafe { head.attend::<V>(rows, &mut scratch) };
        }
    }
}
