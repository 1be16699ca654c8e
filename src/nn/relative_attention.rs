//! Attention whose scores also depend on distances together with the contents of tokens, as plain data: the disentangled
//! attention of `DeBERTa`.
//!
//! He et al. 2020, <https://arxiv.org/abs/2006.03654>, section 3.1. Like [`Attention`](super::Attention) it is independent
//! of the backend, so that the two cannot read a description differently.

use super::Matrix;

/// softmax(scale · (q · k + q · key of the distance + k · query of the distance)) v within each sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct RelativeAttention {
    /// Heads of queries, keys and values.
    pub heads: usize,
    /// Width of one head.
    pub head_size: usize,
    /// What the sums are multiplied with.
    pub scale: f32,
    /// [distances, heads · `head_size`]: what a query is multiplied with, whatever the key ("content to position").
    pub keys: Option<Matrix>,
    /// [distances, heads · `head_size`]: what a key is multiplied with, whatever the query ("position to content").
    pub queries: Option<Matrix>,
    /// Which row belongs to a distance.
    pub distances: Distances,
}

/// Rows for distances, the first half for keys after the query, the second for itself and keys before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distances {
    /// Rows for either direction.
    pub span: usize,
    /// Where it is set, the nearer half of each direction's rows have one distance each and the others logarithmically
    /// wider ranges up to this; else each row has one distance.
    pub max_distance: Option<usize>,
}

impl RelativeAttention {
    /// Width of queries, keys and values side by side.
    pub fn input_width(&self) -> usize {
        3 * self.output_width()
    }

    /// Width of the result.
    pub fn output_width(&self) -> usize {
        self.heads * self.head_size
    }

    /// Refuses a description that contradicts itself: it is the fault of an architecture, not of a model's files.
    ///
    /// # Panics
    /// When it does.
    pub(super) fn assert_consistent(&self) {
        assert!(self.head_size > 0, "heads are not empty");
        assert!(self.distances.span > 0, "there is a row for either direction");
        if let Some(max_distance) = self.distances.max_distance {
            let near = self.distances.span / 2;
            assert!(near > 0 && max_distance > near + 1, "ranges lie beyond the near distances");
        }
        for table in [&self.keys, &self.queries].into_iter().flatten() {
            let shape = [2 * self.distances.span, self.output_width()];
            assert_eq!([table.rows, table.columns], shape, "each distance has a row for all heads");
            assert_eq!(table.values.len(), table.rows * table.columns, "a matrix has as many values as its shape says");
        }
    }
}

impl Distances {
    /// [2 · length - 1]: the row for a key that is `index - (length - 1)` tokens after its query. Rows do not rise.
    pub(super) fn by_offset(self, length: usize) -> Vec<usize> {
        let columns = (2 * length).saturating_sub(1);
        (0..columns).map(|index| self.row(length.cast_signed() - 1 - index.cast_signed())).collect()
    }

    /// The row for a query `offset` tokens after its key.
    fn row(self, offset: isize) -> usize {
        let span = self.span.cast_signed();
        let range = match self.max_distance {
            Some(max_distance) => self.range(offset, max_distance),
            None => offset,
        };
        (range + span).clamp(0, 2 * span - 1).cast_unsigned()
    }

    /// `make_log_bucket_position` of `transformers`, in f32 as there.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "small numbers, and a whole one in the end"
    )]
    fn range(self, offset: isize, max_distance: usize) -> isize {
        let near = self.span / 2;
        let distance = offset.unsigned_abs();
        if distance <= near {
            return offset;
        }
        let logarithm = (distance as f32 / near as f32).ln();
        let widest = (((max_distance - 1) as f64 / near as f64) as f32).ln();
        let beyond = (logarithm / widest * (near - 1) as f32).ceil() as isize;
        (beyond + near.cast_signed()) * offset.signum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_distances_have_rows_of_their_own_and_far_ones_share() {
        // transformers, make_log_bucket_position(n, 16, 96) for n from 0; the half for keys before begins at row 16.
        let distances = Distances { span: 16, max_distance: Some(96) };
        let row = |offset| distances.row(offset);
        assert_eq!([0, 1, 7, 8, 9, 10, 11, 12].map(row), [16, 17, 23, 24, 25, 25, 25, 26]);
        assert_eq!([-1, -8, -9, -11].map(row), [15, 8, 7, 7]);
        assert_eq!([95, 500, -95, -500].map(row), [31, 31, 1, 0]);
        // The same with 256 and 512, as the published models have it.
        let distances = Distances { span: 256, max_distance: Some(512) };
        let found = [129, 166, 203, 240, 277, 314, 351, 388, 425, 462, 499].map(|offset| distances.row(offset) - 256);
        assert_eq!(found, [129, 152, 171, 186, 199, 211, 221, 230, 239, 246, 253]);
    }

    #[test]
    fn without_ranges_the_last_row_is_for_all_that_lie_beyond() {
        let distances = Distances { span: 3, max_distance: None };
        assert_eq!([-9, -3, -2, 0, 2, 3].map(|offset| distances.row(offset)), [0, 0, 1, 3, 5, 5]);
        assert_eq!(distances.by_offset(2), [4, 3, 2]);
        assert!(distances.by_offset(0).is_empty());
    }
}
