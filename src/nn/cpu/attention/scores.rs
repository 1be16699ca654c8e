//! From products of queries and keys to weights: bias, mask, the largest of each row, exponentials and their sum.
//!
//! Lanes are queries, so that nothing is ever combined across them: what a row finds is found in its own lane.
#![expect(clippy::needless_range_loop, reason = "what a library's iterators call may be compiled without them")]

use std::ops::Range;

use super::bias::Bias;
use super::scratch::ROW_BLOCK;
use crate::nn::Mask;
use crate::nn::cpu::tile::Finish;
use crate::nn::cpu::vector::Vector;

/// One number for each row of a block.
#[repr(align(64))]
#[derive(Clone, Copy)]
pub(super) struct PerRow(pub(super) [f32; ROW_BLOCK]);

/// What is known of a block's rows when some of their keys have been seen.
pub(super) struct Softmax {
    /// The largest score, as an exponent of 2.
    largest: PerRow,
    /// The sum of weights relative to that.
    sums: PerRow,
}

impl Softmax {
    /// Before any key. The largest is finite, so that a row that sees no key of its first block has weights of 0 there.
    pub(super) fn new() -> Self {
        Self { largest: PerRow([f32::MIN; ROW_BLOCK]), sums: PerRow([0.0; ROW_BLOCK]) }
    }

    /// Where scores of the next keys leave the largest of each row.
    pub(super) fn largest(&mut self) -> *mut f32 {
        self.largest.0.as_mut_ptr()
    }

    /// The largest of each row up to now.
    pub(super) fn largest_before(&self) -> PerRow {
        self.largest
    }

    /// Makes scores of [keys, panels of rows] into weights. Gives the factors that bring weights of earlier keys to the
    /// new scale.
    ///
    /// # Safety
    /// The processor has the instructions of `V`; `scores` has a line of rows for each key.
    #[inline(always)]
    pub(super) unsafe fn weigh<V: Vector>(
        &mut self,
        before: &PerRow,
        keys: usize,
        panels: usize,
        scores: *mut f32,
    ) -> PerRow {
        let mut factors = PerRow([0.0; ROW_BLOCK]);
        for row in (0..panels * V::LANES).step_by(V::LANES) {
            // SAFETY: panels are inside a line of rows; otherwise as the caller says.
            unsafe {
                let largest = V::load(self.largest.0.as_ptr().add(row));
                let mut sum = V::splat(0.0);
                for key in 0..keys {
                    let place = scores.add(key * ROW_BLOCK + row);
                    let weight = V::load(place).sub(largest).exp2();
                    weight.store(place);
                    sum = sum.add(weight);
                }
                let factor = V::load(before.0.as_ptr().add(row)).sub(largest).exp2();
                factor.store(factors.0.as_mut_ptr().add(row));
                let sums = self.sums.0.as_mut_ptr().add(row);
                V::load(sums).mul_add(factor, sum).store(sums);
            }
        }
        factors
    }

    /// What the sums of weighted values are multiplied with when all keys have been seen.
    #[inline(always)]
    pub(super) fn scales(&self) -> PerRow {
        let mut scales = self.sums;
        scales.0.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
        scales
    }
}

/// Writes scores of [keys, rows] and notes the largest of each row.
#[derive(Clone, Copy)]
pub(super) struct Scores<'a> {
    pub(super) mask: Mask,
    pub(super) bias: Option<&'a Bias>,
    pub(super) head: usize,
    /// Position of the first key.
    pub(super) first_key: usize,
    /// Positions of the rows of the block.
    pub(super) first_query: usize,
    pub(super) last_query: usize,
    /// [`KEY_BLOCK`, `ROW_BLOCK`].
    pub(super) out: *mut f32,
    /// [`ROW_BLOCK`].
    pub(super) largest: *mut f32,
}

impl Finish for Scores<'_> {
    #[inline(always)]
    unsafe fn finish<V: Vector, const ROWS: usize, const PANELS: usize>(
        self,
        row: usize,
        panel: usize,
        sums: [[V; PANELS]; ROWS],
    ) {
        let (key, first_lane) = (self.first_key + row, panel * V::LANES);
        let first_query = self.first_query + first_lane;
        let last_query = (first_query + PANELS * V::LANES - 1).min(self.last_query);
        let all_see = self.mask.queries(key + ROWS - 1).start <= first_query && self.mask.queries(key).end > last_query;
        // SAFETY: the tile is inside a block.
        unsafe {
            let out = self.out.add(row * ROW_BLOCK + first_lane);
            // Loops that need not be unrolled are not over the sums: those would be kept in memory all along.
            if self.bias.is_none() && all_see {
                let mut largest = [V::splat(0.0); PANELS];
                for panel in 0..PANELS {
                    largest[panel] = V::load(self.largest.add(first_lane + panel * V::LANES));
                }
                for row in 0..ROWS {
                    for panel in 0..PANELS {
                        sums[row][panel].store(out.add(row * ROW_BLOCK + panel * V::LANES));
                        largest[panel] = largest[panel].max(sums[row][panel]);
                    }
                }
                for panel in 0..PANELS {
                    largest[panel].store(self.largest.add(first_lane + panel * V::LANES));
                }
            } else {
                for row in 0..ROWS {
                    for panel in 0..PANELS {
                        sums[row][panel].store(out.add(row * ROW_BLOCK + panel * V::LANES));
                    }
                }
                self.bias_and_mask::<V>(row..row + ROWS, panel..panel + PANELS);
            }
        }
    }
}

impl Scores<'_> {
    /// Adds biases to scores, hides keys, and notes the largest.
    #[inline(always)]
    unsafe fn bias_and_mask<V: Vector>(&self, rows: Range<usize>, panels: Range<usize>) {
        for lane in panels.map(|panel| panel * V::LANES) {
            let query = self.first_query + lane;
            // SAFETY: rows and panels are inside a block; biases reach beyond the last query by a vector.
            unsafe {
                let mut largest = V::load(self.largest.add(lane));
                for row in rows.clone() {
                    let key = self.first_key + row;
                    let place = self.out.add(row * ROW_BLOCK + lane);
                    let mut score = V::load(place);
                    if let Some(bias) = self.bias {
                        score = score.add(V::load(bias.at(self.head, query, key)));
                    }
                    let seen_by = self.mask.queries(key);
                    let lane = |position: usize| position.clamp(query, query + V::LANES) - query;
                    score = score.only(lane(seen_by.start), lane(seen_by.end));
                    score.store(place);
                    largest = largest.max(score);
                }
                largest.store(self.largest.add(lane));
            }
        }
    }
}
