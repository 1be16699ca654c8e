//! What there is to say about an attention layer, as plain data, and the tables that follow from it.
//!
//! Everything here is independent of the backend, so that the two cannot read a description differently; what they do
//! with it is checked against each other and against sums by hand.

use super::Matrix;

/// Multi-head attention: softmax(scale · q kᵀ + bias) v within each sequence, over the keys that the mask leaves.
///
/// [`Attention::new`] is that of BERT; the other fields are for models that differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; a divisor of `heads`. Query heads share them group by group.
    pub key_value_heads: usize,
    /// Width of one head.
    pub head_size: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Which keys a query sees.
    pub mask: Mask,
    /// Norms of queries and keys.
    pub head_norm: Option<HeadNorm>,
    /// Rotary positions of queries and keys, after their norms.
    pub rotary: Option<Rotary>,
    /// What is added to the scaled scores.
    pub position_bias: Option<PositionBias>,
}

impl Attention {
    /// Every token attends to every token of its own sequence, scaled by the inverse square root of the head's size.
    pub fn new(heads: usize, head_size: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
        let scale = 1.0 / (head_size as f32).sqrt();
        Self {
            heads,
            key_value_heads: heads,
            head_size,
            scale,
            mask: Mask::FULL,
            head_norm: None,
            rotary: None,
            position_bias: None,
        }
    }

    /// Width of queries, keys and values side by side.
    pub fn input_width(&self) -> usize {
        (self.heads + 2 * self.key_value_heads) * self.head_size
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
        assert!(self.key_value_heads > 0 && self.heads.is_multiple_of(self.key_value_heads), "heads form whole groups");
        assert!(self.head_size > 0, "heads are not empty");
        if let Some(norm) = &self.head_norm {
            assert_eq!([norm.query.len(), norm.key.len()], [self.head_size; 2], "a head's norm is as wide as a head");
        }
        if let Some(rotary) = &self.rotary {
            assert!(2 * rotary.inverse_frequencies.len() <= self.head_size, "no more is rotated than a head has");
        }
        match &self.position_bias {
            Some(PositionBias::Slopes(slopes)) => assert_eq!(slopes.len(), self.heads, "each head has its slope"),
            Some(PositionBias::Buckets { table, .. }) => {
                assert_eq!(table.columns, self.heads, "each head has its column");
                assert!(table.rows >= 4 && table.rows.is_multiple_of(4), "buckets: near and far, before and after");
            }
            None => {}
        }
    }
}

/// Which keys a query sees: those at most so far before and after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// How far before the query.
    pub before: usize,
    /// How far after it.
    pub after: usize,
}

impl Mask {
    /// All of its sequence.
    pub const FULL: Self = Self { before: usize::MAX, after: usize::MAX };
    /// Itself and what comes before it.
    pub const CAUSAL: Self = Self { before: usize::MAX, after: 0 };

    /// At most `distance` tokens away on either side; `ModernBERT` has half its `local_attention` here.
    pub fn window(distance: usize) -> Self {
        Self { before: distance, after: distance }
    }

    /// The last `width` tokens, itself included; `sliding_window` of Mistral.
    pub fn causal_window(width: usize) -> Self {
        Self { before: width.saturating_sub(1), after: 0 }
    }

    /// The keys of a sequence that query `query` sees.
    pub(super) fn keys(self, query: usize, length: usize) -> std::ops::Range<usize> {
        query.saturating_sub(self.before)..query.saturating_add(self.after).saturating_add(1).min(length)
    }

    /// The queries that see key `key` in a sequence without end.
    pub(super) fn queries(self, key: usize) -> std::ops::Range<usize> {
        key.saturating_sub(self.after)..key.saturating_add(self.before).saturating_add(1)
    }
}

/// RMS norms over each head of the queries and of the keys; Qwen3, Gemma3.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadNorm {
    /// `[head_size]` for queries.
    pub query: Vec<f32>,
    /// `[head_size]` for keys.
    pub key: Vec<f32>,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Which two numbers of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Number i with number i + rotated / 2; GPT-NeoX, Llama and most.
    HalfSplit,
    /// Number 2 i with number 2 i + 1; GPT-J.
    Interleaved,
}

/// Rotary positions: pairs of numbers of a head are turned by the position times a frequency.
///
/// Su et al. 2021, <https://arxiv.org/abs/2104.09864>. Angles are f32 products, as in `transformers`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Radians a position, one for each pair; the first 2 · pairs numbers of a head are turned. Scaled variants (linear,
    /// Llama 3, `YaRN`) differ in these alone.
    pub inverse_frequencies: Vec<f32>,
    /// How pairs are formed.
    pub pairing: Pairing,
}

impl Rotary {
    /// theta^(-2 i / rotated) for pair i of the first `rotated` numbers of a head, rounded at each step as in
    /// `transformers`: at far positions its rounding shows.
    pub fn new(theta: f64, rotated: usize, pairing: Pairing) -> Self {
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "meant to be rounded")]
        let frequency = |pair: usize| 1.0 / theta.powf(f64::from(2.0 * pair as f32 / rotated as f32)) as f32;
        Self { inverse_frequencies: (0..rotated / 2).map(frequency).collect(), pairing }
    }

    /// Cosines and sines, both [positions, pairs], of positions from 0.
    pub(super) fn table(&self, positions: usize) -> (Vec<f32>, Vec<f32>) {
        #[expect(clippy::cast_precision_loss, reason = "positions are small")]
        let angles = (0..positions).flat_map(|position| {
            self.inverse_frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency))
        });
        #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
        angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
    }
}

/// A number added to each score that depends on head and distance alone.
#[derive(Debug, Clone, PartialEq)]
pub enum PositionBias {
    /// `ALiBi` in both directions: -slope · |query - key|, one slope a head.
    ///
    /// Press et al. 2021, <https://arxiv.org/abs/2108.12409>.
    Slopes(Vec<f32>),
    /// A learned number for each bucket of distances; T5 and `MPNet`. `DeBERTa`'s disentangled attention has a layer
    /// of its own, [`RelativeAttention`](super::RelativeAttention): its bias depends on the contents of tokens.
    Buckets {
        /// [buckets, heads].
        table: Matrix,
        /// Distance from which on there is one bucket for all.
        max_distance: usize,
    },
}

impl PositionBias {
    /// [heads, 2 · length - 1]: what is added where the key is `column - (length - 1)` tokens after the query.
    pub(super) fn by_offset(&self, heads: usize, length: usize) -> Matrix {
        let columns = (2 * length).saturating_sub(1);
        let offsets = || (0..columns).map(|column| column.cast_signed() - length.cast_signed() + 1);
        let mut values = Vec::with_capacity(heads * columns);
        match self {
            #[expect(clippy::cast_precision_loss, reason = "distances are small")]
            Self::Slopes(slopes) => {
                for slope in slopes {
                    values.extend(offsets().map(|offset| -slope * offset.unsigned_abs() as f32));
                }
            }
            Self::Buckets { table, max_distance } => {
                let buckets: Vec<usize> = offsets().map(|offset| bucket(offset, table.rows, *max_distance)).collect();
                for head in 0..heads {
                    values.extend(buckets.iter().map(|bucket| table.values[bucket * heads + head]));
                }
            }
        }
        Matrix { rows: heads, columns, values }
    }
}

/// The bucket of a key `offset` tokens after its query: half of the buckets for either direction, in each half one for
/// every near distance and then logarithmically wider ones (`_relative_position_bucket` of T5, bidirectional, in f32 as
/// there).
fn bucket(offset: isize, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let exact = half / 2;
    let direction = if offset > 0 { half } else { 0 };
    let distance = offset.unsigned_abs();
    if distance < exact {
        return direction + distance;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small positive numbers, rounded down"
    )]
    let beyond = {
        let logarithm = (distance as f32 / exact as f32).ln();
        let widest = (max_distance as f64 / exact as f64).ln() as f32;
        (logarithm / widest * (half - exact) as f32) as usize
    };
    direction + (exact + beyond).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_leave_the_keys_that_they_name() {
        assert_eq!(Mask::FULL.keys(3, 5), 0..5);
        assert_eq!(Mask::CAUSAL.keys(3, 5), 0..4);
        assert_eq!(Mask::window(1).keys(0, 5), 0..2);
        assert_eq!(Mask::window(1).keys(4, 5), 3..5);
        assert_eq!(Mask::causal_window(2).keys(3, 5), 2..4);
    }

    #[test]
    fn distances_fall_into_the_buckets_of_t5() {
        // 32 buckets, 128 tokens: 8 near ones either way, then 8..12, 12..16, 16..23, 23..32, 32..46, 46..64, 64..91.
        let bucket = |offset| bucket(offset, 32, 128);
        assert_eq!([0, -1, -7, -8, -11, -12, -15, -16].map(bucket), [0, 1, 7, 8, 8, 9, 9, 10]);
        assert_eq!([-22, -23, -32, -45, -46, -64, -90, -91, -5000].map(bucket), [10, 11, 12, 12, 13, 14, 14, 15, 15]);
        assert_eq!([1, 7, 8, 16, 128, 5000].map(bucket), [17, 23, 24, 26, 31, 31]);
    }

    #[test]
    fn biases_depend_on_the_distance() {
        let slopes = PositionBias::Slopes(vec![1.0, 0.5]);
        assert_eq!(slopes.by_offset(2, 3).values, [-2.0, -1.0, 0.0, -1.0, -2.0, -1.0, -0.5, 0.0, -0.5, -1.0]);
        let table = Matrix { rows: 4, columns: 1, values: vec![0.0, 1.0, 2.0, 3.0] };
        let buckets = PositionBias::Buckets { table, max_distance: 8 };
        assert_eq!(buckets.by_offset(1, 3).values, [1.0, 1.0, 0.0, 3.0, 3.0]);
    }

    #[test]
    fn frequencies_fall_from_one_to_almost_theta() {
        let rotary = Rotary::new(10_000.0, 4, Pairing::HalfSplit);
        assert_eq!(rotary.inverse_frequencies, [1.0, 0.01]);
        let (cosines, sines) = rotary.table(2);
        assert_eq!(cosines, [1.0, 1.0, 1.0_f32.cos(), 0.01_f32.cos()]);
        assert_eq!(sines, [0.0, 0.0, 1.0_f32.sin(), 0.01_f32.sin()]);
    }
}
