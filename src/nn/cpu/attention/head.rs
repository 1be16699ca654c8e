//! One head of keys and values of a sequence, and the heads of queries that share it: the walk over rows and keys.
//!
//! For some rows at a time, scores of a block of keys are computed with rows in lanes, made into weights, and the values
//! that they weigh are added to what is in the result from earlier blocks, scaled anew when a larger score has been found
//! (Milakov and Gimelshein 2018, <https://arxiv.org/abs/1805.02867>; Dao et al. 2022, <https://arxiv.org/abs/2205.14135>).
//! Keys are read number by number and values vector by vector, so that both stay as they are; they are copied close
//! together when they are read more than once.

use std::ops::Range;

use super::bias::Bias;
use super::scores::{PerRow, Scores, Softmax};
use super::scratch::Scratch;
use super::{KEY_BLOCK, ROW_BLOCK};
use crate::nn::Attention;
use crate::nn::cpu::rotation::Rotation;
use crate::nn::cpu::tile::{Finish, Product};
use crate::nn::cpu::vector::Vector;

/// A head of keys and values.
pub(super) struct Head<'a> {
    pub(super) attention: &'a Attention,
    pub(super) rotation: Option<&'a Rotation>,
    pub(super) bias: Option<&'a Bias>,
    pub(super) key_value_head: usize,
    /// Of the sequence.
    pub(super) length: usize,
    /// [length, input width].
    pub(super) qkv: *const f32,
    /// [length, output width].
    pub(super) out: *mut f32,
}

/// Rows at a stride.
#[derive(Clone, Copy)]
struct Rows {
    first: *const f32,
    stride: usize,
}

impl Rows {
    /// The rows from one on.
    fn after(self, row: usize) -> Self {
        Self { first: self.first.wrapping_add(row * self.stride), ..self }
    }

    /// Copies so many rows of a width to another stride. Rows at a stride of whole vectors are filled with zeros.
    #[inline(always)]
    unsafe fn copy<V: Vector>(self, rows: usize, width: usize, to: *mut f32, stride: usize) {
        for row in 0..rows {
            let from = self.after(row).first;
            let to = to.wrapping_add(row * stride);
            let mut column = 0;
            // SAFETY: the caller has so many rows here, and room for as many.
            unsafe {
                while column + V::LANES <= width {
                    V::load(from.add(column)).store(to.add(column));
                    column += V::LANES;
                }
                if column < width {
                    V::load_first(from.add(column), width - column)
                        .store_first(to.add(column), V::LANES.min(stride - column));
                }
            }
        }
    }
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
        let blocks = rows.len().div_ceil(ROW_BLOCK);
        let seen = mask.keys(rows.start, self.length).start..mask.keys(rows.end - 1, self.length).end;
        // SAFETY: keys and rows are inside the sequence; otherwise as the caller says.
        unsafe {
            let keys = self.keys::<V>(seen.clone(), blocks * group, scratch);
            let values = self.values::<V>(seen.clone(), blocks * group, scratch);
            for head in self.key_value_head * group..(self.key_value_head + 1) * group {
                for block in 0..blocks {
                    // As equal as whole vectors can be.
                    let bound = |block: usize| (rows.start + block * panels / blocks * V::LANES).min(rows.end);
                    self.attend_rows::<V>(head, bound(block)..bound(block + 1), seen.start, keys, values, scratch);
                }
            }
        }
    }

    /// A head of the sequence's queries, keys or values, counted over all of them.
    fn rows(&self, head: usize) -> Rows {
        let first = self.qkv.wrapping_add(head * self.attention.head_size);
        Rows { first, stride: self.attention.input_width() }
    }

    /// Some keys after norm and rotation.
    #[inline(always)]
    unsafe fn keys<V: Vector>(&self, keys: Range<usize>, reads: usize, scratch: &mut Scratch) -> Rows {
        let head_size = self.attention.head_size;
        let from = self.rows(self.attention.heads + self.key_value_head).after(keys.start);
        let norm = self.attention.head_norm.as_ref().map(|norm| (norm.key.as_slice(), norm.epsilon));
        let turns = norm.is_some() || self.rotation.is_some();
        if !turns && stay_in_place(reads, keys.len(), head_size) {
            return from;
        }
        let to = Rows { first: scratch.keys.as_mut_ptr(), stride: head_size };
        // SAFETY: the keys are in the sequence, and `keys` has room for all of them.
        unsafe {
            if turns {
                self.turn(norm, from.first, keys, scratch.keys.as_mut_ptr());
            } else {
                from.copy::<V>(keys.len(), head_size, scratch.keys.as_mut_ptr(), head_size);
            }
        }
        to
    }

    /// Some values, in whole vectors.
    #[inline(always)]
    unsafe fn values<V: Vector>(&self, keys: Range<usize>, reads: usize, scratch: &mut Scratch) -> Rows {
        let Attention { heads, key_value_heads, head_size, .. } = *self.attention;
        let from = self.rows(heads + key_value_heads + self.key_value_head).after(keys.start);
        let stride = head_size.next_multiple_of(V::LANES);
        if head_size == stride && stay_in_place(reads, keys.len(), head_size) {
            return from;
        }
        let to = scratch.values.as_mut_ptr();
        // SAFETY: the keys are in the sequence, and `values` has room for all of them in whole vectors.
        unsafe { from.copy::<V>(keys.len(), head_size, to, stride) };
        Rows { first: to, stride }
    }

    /// Rows of queries or keys, normalised and turned by their positions, without gaps at `to`.
    #[inline(always)]
    unsafe fn turn(&self, norm: Option<(&[f32], f32)>, from: *const f32, positions: Range<usize>, to: *mut f32) {
        let head_size = self.attention.head_size;
        for (row, position) in positions.enumerate() {
            // SAFETY: the caller has so many rows in the input and room for as many.
            let (source, out) = unsafe {
                (
                    std::slice::from_raw_parts(from.add(row * self.attention.input_width()), head_size),
                    std::slice::from_raw_parts_mut(to.add(row * head_size), head_size),
                )
            };
            match norm {
                Some((weight, epsilon)) => crate::nn::cpu::norm::rms_norm(source, weight, epsilon, out),
                None => out.copy_from_slice(source),
            }
            if let Some(rotation) = self.rotation {
                rotation.turn(out, position);
            }
        }
    }

    /// Queries of a block of rows, scaled to exponents of 2, with rows in lanes.
    #[inline(always)]
    unsafe fn queries<V: Vector>(&self, head: usize, rows: Range<usize>, scratch: &mut Scratch) {
        let head_size = self.attention.head_size;
        let norm = self.attention.head_norm.as_ref().map(|norm| (norm.query.as_slice(), norm.epsilon));
        let Rows { mut stride, .. } = self.rows(0);
        let mut from = self.rows(head).after(rows.start).first;
        // SAFETY: the rows are inside the sequence; `turned` and `queries` have room for a block of rows.
        unsafe {
            if norm.is_some() || self.rotation.is_some() {
                let turned = scratch.turned.as_mut_ptr();
                self.turn(norm, from, rows.clone(), turned);
                (from, stride) = (turned, head_size);
            }
            let scale = V::splat(self.attention.scale * std::f32::consts::LOG2_E);
            for first in (0..rows.len()).step_by(V::LANES) {
                let count = V::LANES.min(rows.len() - first);
                let to = scratch.queries.as_mut_ptr().add(first * head_size);
                for column in (0..head_size).step_by(V::LANES) {
                    let columns = V::LANES.min(head_size - column);
                    let from = from.add(first * stride + column);
                    V::transpose(from, stride, count, columns, scale, to.add(column * V::LANES));
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
        let seen = mask.keys(rows.start, self.length).start..mask.keys(rows.end - 1, self.length).end;
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

/// Whether rows of keys or values are left where they are. Far apart as they are there, more of them do not stay together
/// in the nearest cache: they would fall into few of its sets.
fn stay_in_place(reads: usize, rows: usize, head_size: usize) -> bool {
    const MOST_NUMBERS: usize = 2048;
    reads == 1 || rows * head_size <= MOST_NUMBERS
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
