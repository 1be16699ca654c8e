//! Queries, keys and values of a head in the order in which products read them.
//!
//! Keys are read number by number and values vector by vector, so that both may stay where they are; they are copied close
//! together when they are read more than once. Queries are turned so that rows are in lanes.

use std::ops::Range;

use super::head::Head;
use super::scratch::Scratch;
use crate::nn::Attention;
use crate::nn::cpu::norm::rms_norm;
use crate::nn::cpu::vector::Vector;

/// Rows at a stride.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) first: *const f32,
    pub(super) stride: usize,
}

impl Rows {
    /// The rows from one on.
    pub(super) fn after(self, row: usize) -> Self {
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
    /// A head of the sequence's queries, keys or values, counted over all of them.
    fn rows(&self, head: usize) -> Rows {
        let first = self.qkv.wrapping_add(head * self.attention.head_size);
        Rows { first, stride: self.attention.input_width() }
    }

    /// Some keys after norm and rotation.
    #[inline(always)]
    pub(super) unsafe fn keys<V: Vector>(&self, keys: Range<usize>, reads: usize, scratch: &mut Scratch) -> Rows {
        let head_size = self.attention.head_size;
        let from = self.rows(self.attention.heads + self.number).after(keys.start);
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
    pub(super) unsafe fn values<V: Vector>(&self, keys: Range<usize>, reads: usize, scratch: &mut Scratch) -> Rows {
        let Attention { heads, key_value_heads, head_size, .. } = *self.attention;
        let from = self.rows(heads + key_value_heads + self.number).after(keys.start);
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
                Some((weight, epsilon)) => rms_norm(source, weight, epsilon, out),
                None => out.copy_from_slice(source),
            }
            if let Some(rotation) = self.rotation {
                rotation.turn(out, position);
            }
        }
    }

    /// Queries of a block of rows, scaled to exponents of 2, with rows in lanes.
    #[inline(always)]
    pub(super) unsafe fn queries<V: Vector>(&self, head: usize, rows: Range<usize>, scratch: &mut Scratch) {
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
}

/// Whether rows of keys or values are left where they are. Far apart as they are there, more of them do not stay together
/// in the nearest cache: they would fall into few of its sets.
fn stay_in_place(reads: usize, rows: usize, head_size: usize) -> bool {
    const MAX_NUMBERS: usize = 2048;
    reads == 1 || rows * head_size <= MAX_NUMBERS
}
