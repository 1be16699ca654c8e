//! A product of small matrices whose right-hand side lies in panels, computed in tiles that stay in registers.
//!
//! Each number of the result is one chain of multiplications and additions in the order of the inner dimension, whatever
//! the tile: it does not depend on how many rows there are, nor on which of them it is in.
#![expect(clippy::inline_always, reason = "a body that is not inlined is compiled without the instructions")]
#![expect(clippy::needless_range_loop, reason = "what a library's iterators call may be compiled without them")]

use std::ops::Range;

use super::vector::{Vector, Work};

/// `out` = (`out` · `before` + `left` · `right`) · `after`, row by row.
pub(super) struct Product {
    /// Rows of the result.
    pub(super) rows: usize,
    /// Vectors in a row of the result.
    pub(super) panels: usize,
    /// Length of the sums.
    pub(super) inner: usize,
    /// [rows, inner] at a stride.
    pub(super) left: *const f32,
    pub(super) left_stride: usize,
    /// [panels, inner, lanes], panels at a stride.
    pub(super) right: *const f32,
    pub(super) panel_stride: usize,
    /// [rows, panels · lanes] at a stride; the last panel may be written in part.
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    /// How many lanes of the last panel there are.
    pub(super) last_lanes: usize,
    /// `[rows]`; what is in `out` is not read without it.
    pub(super) before: Option<*const f32>,
    /// `[rows]`.
    pub(super) after: Option<*const f32>,
}

impl Product {
    /// Computes it.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, and all operands reach as far as their shapes say.
    #[inline(always)]
    pub(super) unsafe fn compute<V: Vector>(&self) {
        let mut panel = 0;
        while panel < self.panels {
            let (rows, panels) = tile_size::<V>(self.panels - panel);
            let rest = self.rows % rows;
            // SAFETY: the tiles are inside the product; otherwise as the caller says.
            unsafe {
                if rest < self.rows {
                    self.compute_tiles::<V>(rows, panels, 0..self.rows - rest, panel);
                }
                if rest > 0 {
                    self.compute_tiles::<V>(rest, panels, self.rows - rest..self.rows, panel);
                }
            }
            panel += panels;
        }
    }

    /// Computes tiles of [rows, panels] one below the other.
    #[inline(always)]
    unsafe fn compute_tiles<V: Vector>(&self, tile_rows: usize, panels: usize, rows: Range<usize>, panel: usize) {
        /// One arm for every number of rows.
        macro_rules! tiles {
            ($panels:literal: $($rows:literal)*) => {
                match tile_rows {
                    // SAFETY: as the caller says; the number of rows and panels is that of the type.
                    $($rows => unsafe { V::call(Tiles::<$rows, $panels> { product: self, rows, panel }) },)*
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

/// How large the next tile is, in rows and panels, when so many panels are left. A tile of one panel loads as much as it
/// computes; it is not left over after larger ones where that can be helped.
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
struct Tiles<'a, const ROWS: usize, const PANELS: usize> {
    product: &'a Product,
    /// A multiple of the tile's rows.
    rows: Range<usize>,
    /// The first panel.
    panel: usize,
}

impl<const ROWS: usize, const PANELS: usize> Work for Tiles<'_, ROWS, PANELS> {
    type Output = ();

    #[inline(always)]
    unsafe fn on<V: Vector>(self) {
        let Product { inner, left_stride, panel_stride, out_stride, .. } = *self.product;
        let product = self.product;
        let last_lanes = if self.panel + PANELS == product.panels { product.last_lanes } else { V::LANES };
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
                    left = left.add(1);
                    right = right.add(V::LANES);
                }
                for row in 0..ROWS {
                    let out = product.out.add((first_row + row) * out_stride + self.panel * V::LANES);
                    for panel in 0..PANELS {
                        let mut sum = sums[row][panel];
                        let out = out.add(panel * V::LANES);
                        let lanes = if panel + 1 == PANELS { last_lanes } else { V::LANES };
                        if let Some(before) = product.before {
                            sum = V::load_first(out, lanes).mul_add(V::splat(*before.add(first_row + row)), sum);
                        }
                        if let Some(after) = product.after {
                            sum = sum.mul(V::splat(*after.add(first_row + row)));
                        }
                        if lanes == V::LANES {
                            sum.store(out);
                        } else {
                            sum.store_first(out, lanes);
                        }
                    }
                }
            }
            first_row += ROWS;
        }
    }
}
