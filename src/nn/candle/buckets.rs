//! Which sequences of a batch are computed together: a pure rule over their lengths.
//!
//! An operation on a GPU costs its launch, however small it is, so that forty lengths should not be forty operations;
//! sequences of similar lengths are then padded to the longest of them. On the processor nothing is gained by padding,
//! and sequences of exactly one length are computed together.

use std::ops::Range;

use crate::domain::PackedBatch;

/// How sequences of different lengths are brought together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// Not at all: only sequences of one length are computed together.
    OneLength,
    /// Padded to the longest, where little is lost by that.
    Padded,
}

/// What a sequence costs, and so its padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// By pairs of its tokens, for each head: attention.
    Pairs,
    /// By its tokens: a layer that gives very many numbers for each of them.
    Tokens,
}

impl Cost {
    fn of(self, length: usize) -> usize {
        match self {
            Self::Pairs => length * length,
            Self::Tokens => length,
        }
    }

    /// What may be padding in any bucket: the scores of half a thousand tokens, or the logits of a hundred, are computed
    /// in about the time in which the operations of another bucket are launched.
    fn free(self) -> usize {
        match self {
            Self::Pairs => 512 * 512,
            Self::Tokens => 128,
        }
    }
}

/// Consecutive sequences that are computed together, each as long as the longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Where the tokens of each sequence are in the batch; none is empty, and each begins where the one before ends.
    pub(super) sequences: Vec<Range<usize>>,
    /// How many leading tokens of each sequence are seen.
    pub(super) seen: Vec<usize>,
    /// Length of the longest.
    pub(super) length: usize,
}

impl Bucket {
    /// Where the tokens of all its sequences are.
    pub(super) fn tokens(&self) -> Range<usize> {
        let end = |sequence: Option<&Range<usize>>| sequence.map_or(0, |sequence| sequence.end);
        self.sequences.first().map_or(0, |sequence| sequence.start)..end(self.sequences.last())
    }

    /// At most `count` of its sequences, from one of them on, in a bucket that is as long.
    pub(super) fn some(&self, first: usize, count: usize) -> Self {
        let some = first..(first + count).min(self.sequences.len());
        Self { sequences: self.sequences[some.clone()].to_vec(), seen: self.seen[some].to_vec(), length: self.length }
    }

    /// Whether all sequences have one length.
    pub(super) fn is_even(&self) -> bool {
        self.tokens().len() == self.sequences.len() * self.length
    }
}

/// Cuts a batch into buckets. Empty sequences have no tokens and appear nowhere.
pub(super) fn buckets(batch: &PackedBatch, grouping: Grouping, cost: Cost) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    // What the last bucket's sequences cost without padding.
    let mut own = 0;
    for (number, bounds) in batch.cu_seqlens().windows(2).enumerate() {
        let (sequence, seen) = (bounds[0]..bounds[1], batch.seen(number));
        let added = cost.of(sequence.len());
        match buckets.last_mut() {
            _ if sequence.is_empty() => {}
            Some(bucket) if may_join(bucket, own + added, sequence.len(), (grouping, cost)) => {
                bucket.length = bucket.length.max(sequence.len());
                bucket.sequences.push(sequence);
                bucket.seen.push(seen);
                own += added;
            }
            _ => {
                buckets.push(Bucket { length: sequence.len(), sequences: vec![sequence], seen: vec![seen] });
                own = added;
            }
        }
    }
    buckets
}

/// Whether a sequence of `length` may be computed with a bucket, whose sequences and it cost `own` without padding: as
/// long as no more than a quarter is added as padding, or no more than is free.
fn may_join(bucket: &Bucket, own: usize, length: usize, (grouping, cost): (Grouping, Cost)) -> bool {
    if grouping == Grouping::OneLength {
        return length == bucket.length;
    }
    let padded = (bucket.sequences.len() + 1) * cost.of(bucket.length.max(length));
    padded - own <= (own / 4).max(cost.free())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of sequences and length of each bucket.
    #[track_caller]
    fn check(lengths: &[usize], grouping: Grouping, expected: &[(usize, usize)]) {
        check_by(lengths, grouping, Cost::Pairs, expected);
    }

    #[track_caller]
    fn check_by(lengths: &[usize], grouping: Grouping, cost: Cost, expected: &[(usize, usize)]) {
        let ids = vec![0; lengths.iter().copied().max().unwrap_or(0)];
        let buckets = buckets(&PackedBatch::new(lengths.iter().map(|&length| &ids[..length])), grouping, cost);
        let found: Vec<_> = buckets.iter().map(|bucket| (bucket.sequences.len(), bucket.length)).collect();
        assert_eq!(found, expected, "{lengths:?}");
        let together: Vec<_> = buckets.iter().flat_map(Bucket::tokens).collect();
        assert_eq!(together, (0..lengths.iter().sum()).collect::<Vec<_>>());
        let lengths = buckets.iter().flat_map(|bucket| bucket.sequences.iter().map(Range::len));
        assert!(lengths.clone().all(|length| length > 0));
        for bucket in &buckets {
            assert_eq!(bucket.length, bucket.sequences.iter().map(Range::len).max().unwrap());
            assert_eq!(bucket.is_even(), bucket.sequences.iter().all(|sequence| sequence.len() == bucket.length));
        }
    }

    #[test]
    fn only_one_length_is_computed_together_where_padding_gains_nothing() {
        check(&[7, 7, 0, 7, 5, 7], Grouping::OneLength, &[(3, 7), (1, 5), (1, 7)]);
        check(&[0, 0], Grouping::OneLength, &[]);
    }

    #[test]
    fn short_sequences_are_padded_together_whatever_their_lengths() {
        check(&[1, 9, 40, 0, 2, 130], Grouping::Padded, &[(5, 130)]);
        check(&[], Grouping::Padded, &[]);
    }

    #[test]
    fn long_sequences_are_padded_only_if_little_is_lost() {
        // A text of 2048 tokens does not pay for one of 16 more than it must.
        check(&[2048, 2000, 1900, 16], Grouping::Padded, &[(3, 2048), (1, 16)]);
        check(&[16, 2048], Grouping::Padded, &[(1, 16), (1, 2048)]);
        check(&[8192, 4096], Grouping::Padded, &[(1, 8192), (1, 4096)]);
    }

    #[test]
    fn tokens_with_many_numbers_are_padded_less() {
        check_by(&[1, 9, 40, 0, 2, 130], Grouping::Padded, Cost::Tokens, &[(4, 40), (1, 130)]);
        check_by(&[512, 410, 400, 100], Grouping::Padded, Cost::Tokens, &[(3, 512), (1, 100)]);
        check_by(&[7, 7, 5], Grouping::OneLength, Cost::Tokens, &[(2, 7), (1, 5)]);
    }

    #[test]
    fn some_sequences_of_a_bucket_are_as_long_as_all() {
        let whole = Bucket { sequences: vec![0..3, 3..5, 5..6], seen: vec![3, 1, 1], length: 3 };
        let last = Bucket { sequences: vec![3..5, 5..6], seen: vec![1, 1], length: 3 };
        assert_eq!((whole.some(1, 5), whole.some(0, 3)), (last, whole));
    }
}
