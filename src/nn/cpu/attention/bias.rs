//! Position biases in the order in which scores are computed.

use crate::nn::Attention;
use crate::nn::cpu::vector::MAX_LANES;

/// Position biases as exponents of 2.
pub(super) struct Bias {
    /// [heads, columns], and some more at the end. The later the key before the query, the earlier its column.
    values: Vec<f32>,
    columns: usize,
    /// Column of the query's own position.
    center: usize,
}

impl Bias {
    pub(super) fn new(attention: &Attention, longest: usize) -> Option<Self> {
        let by_offset = attention.position_bias.as_ref()?.by_offset(attention.heads, longest);
        let columns = by_offset.columns;
        let rows = by_offset.values.chunks_exact(columns.max(1));
        let values = rows.flat_map(|row| row.iter().rev().map(|bias| bias * std::f32::consts::LOG2_E));
        let values = values.chain([0.0; MAX_LANES]).collect();
        Some(Self { values, columns, center: longest.saturating_sub(1) })
    }

    /// What is added to a key's score for a query; for the queries after it, what follows. Good for a vector that begins
    /// at a query of the sequence.
    pub(super) fn at(&self, head: usize, query: usize, key: usize) -> *const f32 {
        self.values[head * self.columns + self.center + query - key..].as_ptr()
    }
}
