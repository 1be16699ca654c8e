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

/// Pairs of tokens that may be padding in any bucket, for each head: the scores of half a thousand tokens are computed
/// in about the time in which the operations of another bucket are launched.
const FREE_PAIRS: usize = 512 * 512;

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

    /// Whether all sequences have one length.
    pub(super) fn is_even(&self) -> bool {
        self.tokens().len() == self.sequences.len() * self.length
    }
}

/// Cuts a batch into buckets. Empty sequences have no tokens and appear nowhere.
pub(super) fn buckets(batch: &PackedBatch, grouping: Grouping) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    // Pairs of tokens of the last bucket's sequences, without padding.
    let mut own_pairs = 0;
    for (number, bounds) in batch.cu_seqlens().windows(2).enumerate() {
        let (sequence, seen) = (bounds[0]..bounds[1], batch.seen(number));
        let pairs = sequence.len() * sequence.len();
        match buckets.last_mut() {
            _ if sequence.is_empty() => {}
            Some(bucket) if may_join(bucket, own_pairs, sequence.len(), grouping) => {
                bucket.length = bucket.length.max(sequence.len());
                bucket.sequences.push(sequence);
                bucket.seen.push(seen);
                own_pairs += pairs;
            }
            _ => {
                buckets.push(Bucket { length: sequence.len(), sequences: vec![sequence], seen: vec![seen] });
                own_pairs = pairs;
            }
        }
    }
    buckets
}

/// Whether a sequence of `length` may be computed with a bucket whose sequences have `own_pairs` pairs of tokens: as long
/// as no more than a quarter is added as padding, or no more than is free.
fn may_join(bucket: &Bucket, own_pairs: usize, length: usize, grouping: Grouping) -> bool {
    if grouping == Grouping::OneLength {
        return length == bucket.length;
    }
    let (longest, own_pairs) = (bucket.length.max(length), own_pairs + length * length);
    let padded_pairs = (bucket.sequences.len() + 1) * longest * longest;
    padded_pairs - own_pairs <= (own_pairs / 4).max(FREE_PAIRS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of sequences and length of each bucket.
    #[track_caller]
    fn check(lengths: &[usize], grouping: Grouping, expected: &[(usize, usize)]) {
        let ids = vec![0; lengths.iter().copied().max().unwrap_or(0)];
        let buckets = buckets(&PackedBatch::new(lengths.iter().map(|&length| &ids[..length])), grouping);
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
}
