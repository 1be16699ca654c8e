//! One head of keys and values of a sequence, and the heads of queries that share it: the walk over rows and keys.
//!
//! For some rows at a time, scores of a block of keys are computed with rows in lanes, made into weights, and the values
//! that they weigh are added to what is in the result from earlier blocks, scaled anew when a larger score has been found
//! (Milakov and Gimelshein 2018, <https://arxiv.org/abs/1805.02867>; Dao et al. 2022, <https://arxiv.org/abs/2205.14135>).

use std::ops::Range;

use super::bias::Bias;
use super::packing::Rows;
use super::scores::{PerRow, Scores, Softmax};
use super::scratch::{KEY_BLOCK, ROW_BLOCK, Scratch};
use crate::nn::cpu::rotation::Rotation;
use crate::nn::cpu::tile::{Finish, Product};
use crate::nn::cpu::vector::Vector;
use crate::nn::{Attention, Mask};

/// A head of keys and values.
pub(super) struct Head<'a> {
    pub(super) attention: &'a Attention,
    pub(super) rotation: Option<&'a Rotation>,
    pub(super) bias: Option<&'a Bias>,
    /// Counted over all heads of keys and values.
    pub(super) number: usize,
    /// Of the sequence.
    /// How many leading tokens of it are keys.
    pub(super) seen: usize,
    /// [length, input width].
    pub(super) qkv: *const f32,
    /// [length, output width].
    pub(super) out: *mut f32,
}

impl Head<'_> {
    /// Attention of some rows.
    ///
    /// # Safety
    /// The processor has the instructions of `V`; q, k, v and the result reach as far as the length says, and nobody else
    /// uses these rows of these heads of the result; the scratch memory is for sequences of this length.
    #[inline(always)]
    pub(super) unsafe fn attend<V: Vector>(&self, rows: Range<usize>, scratch: &mut Scratch) {
        let Attention { heads, key_value_heads, mask, .. } = *self.attention;
        if rows.is_empty() {
            return;
        }
        let group = heads / key_value_heads;
        let panels = rows.len().div_ceil(V::LANES);
        let blocks = rows.len().div_ceil(rows_of_a_block(mask));
        let seen = mask.keys(rows.start, self.seen).start..mask.keys(rows.end - 1, self.seen).end;
        // SAFETY: keys and rows are inside the sequence; otherwise as the caller says.
        unsafe {
            let keys = self.keys::<V>(seen.clone(), blocks * group, scratch);
            let values = self.values::<V>(seen.clone(), blocks * group, scratch);
            for head in self.number * group..(self.number + 1) * group {
                for block in 0..blocks {
                    // As equal as whole vectors can be.
                    let bound = |block: usize| (rows.start + block * panels / blocks * V::LANES).min(rows.end);
                    self.attend_rows::<V>(head, bound(block)..bound(block + 1), seen.start, keys, values, scratch);
                }
            }
        }
    }

    /// Attention of one block of rows of one head of queries, over keys from `first_key` on.
    #[inline(always)]
    unsafe fn attend_rows<V: Vector>(
        &self,
        head: usize,
        rows: Range<usize>,
        first_key: usize,
        keys: Rows,
        values: Rows,
        scratch: &mut Scratch,
    ) {
        let Attention { head_size, mask, .. } = *self.attention;
        let seen = mask.keys(rows.start, self.seen).start..mask.keys(rows.end - 1, self.seen).end;
        let mut softmax = Softmax::new();
        let out_stride = self.attention.output_width();
        // SAFETY: rows and keys are inside the sequence, and blocks of them have room in the scratch memory.
        unsafe {
            self.queries::<V>(head, rows.clone(), scratch);
            let scores = scratch.scores.as_mut_ptr();
            let out = self.out.add(rows.start * out_stride + head * head_size);
            // Blocks begin at the same keys for all rows: it is there that results are scaled.
            for block in (seen.start / KEY_BLOCK)..seen.end.div_ceil(KEY_BLOCK) {
                let block = (block * KEY_BLOCK).max(seen.start)..((block + 1) * KEY_BLOCK).min(seen.end);
                let before = softmax.largest_before();
                let product = Product {
                    rows: block.len(),
                    panels: rows.len().div_ceil(V::LANES),
                    inner: head_size,
                    left: keys.after(block.start - first_key).first,
                    left_stride: keys.stride,
                    left_step: 1,
                    right: scratch.queries.as_mut_ptr(),
                    panel_stride: head_size * V::LANES,
                    right_step: V::LANES,
                    finish: Scores {
                        mask,
                        bias: self.bias,
                        head,
                        first_key: block.start,
                        first_query: rows.start,
                        last_query: rows.end - 1,
                        out: scores,
                        largest: softmax.largest(),
                    },
                };
                product.compute::<V>();
                let factors = softmax.weigh::<V>(&before, block.len(), rows.len().div_ceil(V::LANES), scores);
                let scales = if block.end == seen.end { Some(softmax.scales()) } else { None };
                let panels = head_size.div_ceil(V::LANES);
                let product = Product {
                    rows: rows.len(),
                    panels,
                    inner: block.len(),
                    left: scores,
                    left_stride: 1,
                    left_step: ROW_BLOCK,
                    right: values.after(block.start - first_key).first,
                    panel_stride: V::LANES,
                    right_step: values.stride,
                    finish: Blend {
                        out,
                        stride: out_stride,
                        last_lanes: head_size - (panels - 1) * V::LANES,
                        last_panel: panels - 1,
                        factors: if block.start == seen.start { None } else { Some(&factors) },
                        scales: scales.as_ref(),
                    },
                };
                product.compute::<V>();
            }
        }
    }
}

/// Rows that are worked on together. Where each sees other keys, fewer compute less that is hidden.
fn rows_of_a_block(mask: Mask) -> usize {
    if mask == Mask::FULL { ROW_BLOCK } else { ROW_BLOCK / 2 }
}

/// `out` = (`out` · `factors` + sums) · `scales`, row by row.
#[derive(Clone, Copy)]
struct Blend<'a> {
    out: *mut f32,
    stride: usize,
    last_panel: usize,
    /// How many lanes of the last panel there are.
    last_lanes: usize,
    /// What is in `out` is not read without them.
    factors: Option<&'a PerRow>,
    scales: Option<&'a PerRow>,
}

impl Finish for Blend<'_> {
    #[inline(always)]
    unsafe fn finish<V: Vector, const ROWS: usize, const PANELS: usize>(
        self,
        first_row: usize,
        first_panel: usize,
        sums: [[V; PANELS]; ROWS],
    ) {
        for (row, sums) in sums.into_iter().enumerate() {
            for (panel, mut sum) in sums.into_iter().enumerate() {
                let row = first_row + row;
                let panel = first_panel + panel;
                let lanes = if panel == self.last_panel { self.last_lanes } else { V::LANES };
                // SAFETY: the result has this row, and so many numbers in it.
                unsafe {
                    let out = self.out.add(row * self.stride + panel * V::LANES);
                    if let Some(factors) = self.factors {
                        let old = if lanes == V::LANES { V::load(out) } else { V::load_first(out, lanes) };
                        sum = old.mul_add(V::splat(factors.0[row]), sum);
                    }
                    if let Some(scales) = self.scales {
                        sum = sum.mul(V::splat(scales.0[row]));
                    }
                    if lanes == V::LANES {
                        sum.store(out);
                    } else {
                        sum.store_first(out, lanes);
                    }
                }
            }
        }
    }
}
