//! Some columns of a result: what one core writes while others write the columns beside it.

use std::marker::PhantomData;
use std::ops::Range;

/// Columns of a matrix of f32 that nobody else reads or writes.
#[derive(Debug)]
pub(in crate::nn::cpu) struct Columns<'a> {
    /// The first value of the first row.
    first: *mut f32,
    rows: usize,
    /// From one row to the next.
    stride: usize,
    /// Which columns of the matrix these are.
    own: Range<usize>,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is the only way to its values, as a slice is.
unsafe impl Send for Columns<'_> {}

impl<'a> Columns<'a> {
    /// All columns of a matrix of [rows, width].
    pub(in crate::nn::cpu) fn all(matrix: &'a mut [f32], width: usize) -> Self {
        let rows = matrix.len().checked_div(width).unwrap_or(0);
        assert_eq!(matrix.len(), rows * width, "a matrix has whole rows");
        Self { first: matrix.as_mut_ptr(), rows, stride: width, own: 0..width, matrix: PhantomData }
    }

    /// Takes the columns before one away.
    pub(in crate::nn::cpu) fn take_to(&mut self, column: usize) -> Self {
        let Range { start, end } = self.own;
        assert!((start..=end).contains(&column), "column {column} is not in {start}..{end}");
        let taken = Self { own: start..column, ..*self };
        // Where there are no rows, there is no address to move on from.
        let offset = if self.rows > 0 { column - start } else { 0 };
        // SAFETY: there is a row, and the column is in it or right behind it.
        self.first = unsafe { self.first.add(offset) };
        self.own.start = column;
        taken
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Which columns these are.
    pub(super) fn columns(&self) -> Range<usize> {
        self.own.clone()
    }

    /// Some of the columns in one row; the columns are numbered as those of the matrix.
    #[inline(always)]
    pub(super) fn row(&mut self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && self.own.start <= columns.start && columns.start <= columns.end);
        assert!(columns.end <= self.own.end);
        // SAFETY: the row and the columns are in this part of the matrix, as has just been seen, and no other part has
        // them.
        unsafe {
            let first = self.first.add(row * self.stride + columns.start - self.own.start);
            std::slice::from_raw_parts_mut(first, columns.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_write_what_a_plain_loop_writes(rows in 0_usize..5, width in 0_usize..9, cuts in prop::array::uniform2(0_usize..9)) {
            let [one, two] = cuts.map(|cut| cut.min(width));
            let (one, two) = (one.min(two), one.max(two));
            let mut matrix = vec![-1.0; rows * width];
            let mut rest = Columns::all(&mut matrix, width);
            for mut part in [rest.take_to(one), rest.take_to(two), rest] {
                for row in 0..part.rows() {
                    let columns = part.columns();
                    for (place, column) in part.row(row, columns.clone()).iter_mut().zip(columns) {
                        *place += (row * width + column + 1) as f32;
                    }
                }
            }
            let expected: Vec<f32> = (0..rows * width).map(|place| place as f32).collect();
            prop_assert_eq!(matrix, expected);
        }
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn columns_of_others_are_out_of_reach() {
        let mut matrix = [0.0; 6];
        let mut rest = Columns::all(&mut matrix, 3);
        rest.take_to(1).row(0, 0..2);
    }
}
