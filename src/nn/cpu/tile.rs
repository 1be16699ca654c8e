//! A product of small matrices whose right-hand side lies in vectors, computed in tiles that stay in registers.
//!
//! Each number of the result is one chain of multiplications and additions in the order of the inner dimension, whatever
//! the tile: it does not depend on how many rows there are, nor on which of them it is in. What becomes of a tile of sums
//! is for a [`Finish`] to say, before they leave the registers.
#![expect(clippy::inline_always, reason = "a body that is not inlined is compiled without the instructions")]
#![expect(clippy::needless_range_loop, reason = "what a library's iterators call may be compiled without them")]

use std::ops::Range;

use super::vector::{Vector, Work};

/// What becomes of sums.
pub(super) trait Finish: Copy {
    /// Does it to the tile whose first number is in this row and this vector of the result.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, and the result has such a tile.
    unsafe fn finish<V: Vector, const ROWS: usize, const PANELS: usize>(
        self,
        row: usize,
        panel: usize,
        sums: [[V; PANELS]; ROWS],
    );
}

/// `left` · `right`.
pub(super) struct Product<F> {
    /// Rows of the result.
    pub(super) rows: usize,
    /// Vectors in a row of the result.
    pub(super) panels: usize,
    /// Length of the sums.
    pub(super) inner: usize,
    /// [rows, inner], rows and numbers of a row at strides.
    pub(super) left: *const f32,
    pub(super) left_stride: usize,
    pub(super) left_step: usize,
    /// [panels, inner, lanes], panels and vectors of a panel at strides.
    pub(super) right: *const f32,
    pub(super) panel_stride: usize,
    pub(super) right_step: usize,
    /// Where it goes.
    pub(super) finish: F,
}

impl<F: Finish> Product<F> {
    /// Computes it.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, and all operands reach as far as their shapes say.
    #[inline(always)]
    pub(super) unsafe fn compute<V: Vector>(&self) {
        let mut panel = 0;
        while panel < self.panels {
            let (most_rows, panels) = tile_size::<V>(self.panels - panel);
            // As equal as can be: a tile of few rows loads more than it computes.
            let tiles = self.rows.div_ceil(most_rows);
            let (rows, taller) = (self.rows / tiles.max(1), self.rows % tiles.max(1));
            let rest = taller * (rows + 1);
            // SAFETY: the tiles are inside the product; otherwise as the caller says.
            unsafe {
                if rest > 0 {
                    self.compute_tiles::<V>(rows + 1, panels, 0..rest, panel);
                }
                if rest < self.rows {
                    self.compute_tiles::<V>(rows, panels, rest..self.rows, panel);
                }
            }
            panel += panels;
        }
    }

    /// Computes tiles of [`tile_rows`, panels] one below the other.
    #[inline(always)]
    unsafe fn compute_tiles<V: Vector>(&self, tile_rows: usize, panels: usize, rows: Range<usize>, panel: usize) {
        /// One arm for every number of rows.
        macro_rules! tiles {
            ($panels:literal: $($rows:literal)*) => {
                match tile_rows {
                    // SAFETY: as the caller says; the number of rows and panels is that of the type.
                    $($rows => unsafe { V::call(Tiles::<F, $rows, $panels> { product: self, rows, panel }) },)*
                    rows => unreachable!("tiles of {rows} rows and {panels} panels"),
                }
            };
        }
        match panels {
            1 => tiles!(1: 1 2 3 4 5 6 7 8),
            2 => tiles!(2: 1 2 3 4 5 6 7 8),
            3 => tiles!(3: 1 2 3 4 5 6 7 8),
            4 => tiles!(4: 1 2 3 4 5 6),
            panels => unreachable!("tiles of {panels} panels"),
        }
    }
}

/// How large the next tile is at most, in rows and panels, when so many panels are left. A tile of one panel loads as much
/// as it computes; it is not left over after larger ones where that can be helped.
#[inline(always)]
fn tile_size<V: Vector>(panels: usize) -> (usize, usize) {
    let [tall, wide] = V::TILES;
    if panels.is_multiple_of(wide.1) && !panels.is_multiple_of(tall.1) {
        wide
    } else if panels > tall.1 && panels % tall.1 == 1 {
        (tall.0, tall.1.div_ceil(2))
    } else {
        (tall.0, tall.1.min(panels))
    }
}

/// Tiles of a fixed size one below the other.
struct Tiles<'a, F, const ROWS: usize, const PANELS: usize> {
    product: &'a Product<F>,
    /// A multiple of the tile's rows.
    rows: Range<usize>,
    /// The first panel.
    panel: usize,
}

impl<F: Finish, const ROWS: usize, const PANELS: usize> Work for Tiles<'_, F, ROWS, PANELS> {
    type Output = ();

    #[inline(always)]
    unsafe fn on<V: Vector>(self) {
        let Product { inner, left_stride, left_step, panel_stride, right_step, finish, .. } = *self.product;
        let product = self.product;
        let mut first_row = self.rows.start;
        while first_row < self.rows.end {
            // SAFETY: the operands reach as far as rows, panels and the inner dimension say, and the instructions are
            // there.
            unsafe {
                let mut sums = [[V::splat(0.0); PANELS]; ROWS];
                let mut left = product.left.add(first_row * left_stride);
                let mut right = product.right.add(self.panel * panel_stride);
                for _ in 0..inner {
                    let mut columns = [V::splat(0.0); PANELS];
                    for panel in 0..PANELS {
                        columns[panel] = V::load(right.add(panel * panel_stride));
                    }
                    for row in 0..ROWS {
                        let factor = V::splat(*left.add(row * left_stride));
                        for panel in 0..PANELS {
                            sums[row][panel] = factor.mul_add(columns[panel], sums[row][panel]);
                        }
                    }
                    left = left.wrapping_add(left_step);
                    right = right.wrapping_add(right_step);
                }
                finish.finish(first_row, self.panel, sums);
            }
            first_row += ROWS;
        }
    }
}
