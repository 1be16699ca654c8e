//! A product of small matrices whose right-hand side lies in panels, computed in tiles that stay in registers.
//!
//! Each number of the result is one chain of multiplications and additions in the order of the inner dimension, whatever
//! the tile: it does not depend on how many rows there are, nor on which of them it is in.
#![expect(clippy::inline_always, reason = "a body that is not inlined is compiled without the instructions")]

use super::vector::{Vector, Work};

/// `out` = (`out` · `before` + `left` · `right`) · `after`, row by row.
#[derive(Clone, Copy)]
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
    /// The part of the product from a row and a panel on.
    #[inline(always)]
    unsafe fn part<V: Vector>(&self, row: usize, rows: usize, panel: usize, panels: usize) -> Self {
        // SAFETY: rows and panels are within those of the product, which the caller has for all operands.
        unsafe {
            Self {
                rows,
                panels,
                left: self.left.add(row * self.left_stride),
                right: self.right.add(panel * self.panel_stride),
                out: self.out.add(row * self.out_stride + panel * V::LANES),
                last_lanes: if panel + panels == self.panels { self.last_lanes } else { V::LANES },
                before: self.before.map(|factors| factors.add(row)),
                after: self.after.map(|factors| factors.add(row)),
                ..*self
            }
        }
    }

    /// Computes it.
    ///
    /// # Safety
    /// The processor has the instructions of `V`, and all operands reach as far as their shapes say.
    #[inline(always)]
    pub(super) unsafe fn compute<V: Vector>(self) {
        let mut panel = 0;
        while panel < self.panels {
            let (most_rows, panels) = tile_size::<V>(self.panels - panel);
            let mut row = 0;
            while row < self.rows {
                let rows = most_rows.min(self.rows - row);
                // SAFETY: the part is inside; the caller has the instructions.
                unsafe { self.part::<V>(row, rows, panel, panels).compute_tile::<V>() };
                row += rows;
            }
            panel += panels;
        }
    }

    /// Computes a product that is one tile.
    #[inline(always)]
    unsafe fn compute_tile<V: Vector>(self) {
        /// One arm for every number of rows.
        macro_rules! tile {
            ($panels:literal: $($rows:literal)*) => {
                match self.rows {
                    // SAFETY: as the caller says; the number of rows and panels is that of the type.
                    $($rows => unsafe { V::call(Tile::<$rows, $panels>(self)) },)*
                    rows => unreachable!("tiles of {rows} rows and {} panels", self.panels),
                }
            };
        }
        match self.panels {
            1 => tile!(1: 1 2 3 4 5 6 7 8),
            2 => tile!(2: 1 2 3 4 5 6 7 8),
            3 => tile!(3: 1 2 3 4 5 6 7 8),
            4 => tile!(4: 1 2 3 4 5 6),
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

/// A product of a fixed number of rows and panels.
struct Tile<const ROWS: usize, const PANELS: usize>(Product);

impl<const ROWS: usize, const PANELS: usize> Work for Tile<ROWS, PANELS> {
    type Output = ();

    #[inline(always)]
    unsafe fn on<V: Vector>(self) {
        let product = self.0;
        // SAFETY: the operands reach as far as rows, panels and the inner dimension say, and the instructions are there.
        unsafe {
            let mut sums = [[V::splat(0.0); PANELS]; ROWS];
            let (mut left, mut right) = (product.left, product.right);
            for _ in 0..product.inner {
                // Loops over indices: what a library's iterator calls may be compiled without the instructions.
                let mut columns = [V::splat(0.0); PANELS];
                for panel in 0..PANELS {
                    columns[panel] = V::load(right.add(panel * product.panel_stride));
                }
                for row in 0..ROWS {
                    let factor = V::splat(*left.add(row * product.left_stride));
                    for panel in 0..PANELS {
                        sums[row][panel] = factor.mul_add(columns[panel], sums[row][panel]);
                    }
                }
                left = left.add(1);
                right = right.add(V::LANES);
            }
            for row in 0..ROWS {
                let out = product.out.add(row * product.out_stride);
                for panel in 0..PANELS {
                    let mut sum = sums[row][panel];
                    let out = out.add(panel * V::LANES);
                    let lanes = if panel + 1 == PANELS { product.last_lanes } else { V::LANES };
                    if let Some(before) = product.before {
                        sum = V::load_first(out, lanes).mul_add(V::splat(*before.add(row)), sum);
                    }
                    if let Some(after) = product.after {
                        sum = sum.mul(V::splat(*after.add(row)));
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
