//! What goes into an encoder and what comes out.

use std::ops::Range;

use super::{MultiVectors, SparseVector};

/// Token ids of one text, special tokens and prompt included, within the model's limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenSeq {
    /// Vocabulary indices.
    pub ids: Vec<u32>,
    /// How many tokens were cut off to meet the limit.
    pub truncated: u32,
    /// How many tokens at the end see the others and are not seen by any: what fills a query of `ColBERT`.
    pub unseen: u32,
}

/// Several token sequences laid end to end. There is no padding and so no mask: whoever needs either makes it
/// inside, and no result can depend on batch mates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// [tokens] ids of all sequences, one after the other.
    ids: Vec<u32>,
    /// [sequences + 1] cumulative lengths: sequence i is `ids[cu_seqlens[i]..cu_seqlens[i + 1]]`.
    cu_seqlens: Vec<usize>,
    /// `[sequences]` how many leading tokens of each are seen by the others; `None` where all are.
    seen: Option<Vec<usize>>,
}

impl PackedBatch {
    /// Packs sequences in the order given. Empty sequences are allowed.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut batch = Self { ids: Vec::new(), cu_seqlens: vec![0], seen: None };
        for sequence in sequences {
            batch.ids.extend_from_slice(sequence);
            batch.cu_seqlens.push(batch.ids.len());
        }
        batch
    }

    /// Packs sequences with the tokens at their ends that none may see.
    pub fn of<'a>(sequences: impl IntoIterator<Item = &'a TokenSeq> + Clone) -> Self {
        let batch = Self::new(sequences.clone().into_iter().map(|sequence| sequence.ids.as_slice()));
        let seen = |sequence: &TokenSeq| sequence.ids.len().saturating_sub(sequence.unseen as usize);
        let some_unseen = sequences.clone().into_iter().any(|sequence| sequence.unseen > 0);
        Self { seen: some_unseen.then(|| sequences.into_iter().map(seen).collect()), ..batch }
    }

    /// Some of its sequences, in their order.
    #[must_use]
    pub fn part(&self, sequences: Range<usize>) -> Self {
        let bounds = &self.cu_seqlens[sequences.start..=sequences.end];
        let first = bounds[0];
        Self {
            ids: self.ids[first..bounds[bounds.len() - 1]].to_vec(),
            cu_seqlens: bounds.iter().map(|bound| bound - first).collect(),
            seen: self.seen.as_ref().map(|seen| seen[sequences].to_vec()),
        }
    }

    /// Length of each of some sequences.
    pub fn lengths(&self, sequences: Range<usize>) -> impl Iterator<Item = usize> {
        self.cu_seqlens[sequences.start..=sequences.end].windows(2).map(|pair| pair[1] - pair[0])
    }

    /// `[tokens]` all ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// [sequences + 1] cumulative lengths, from 0.
    pub fn cu_seqlens(&self) -> &[usize] {
        &self.cu_seqlens
    }

    /// How many leading tokens of a sequence are seen by its tokens.
    pub fn seen(&self, sequence: usize) -> usize {
        let length = || self.cu_seqlens[sequence + 1] - self.cu_seqlens[sequence];
        self.seen.as_ref().map_or_else(length, |seen| seen[sequence])
    }

    /// Whether some tokens are not seen.
    pub fn has_unseen(&self) -> bool {
        self.seen.is_some()
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Number of tokens over all sequences.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Length of the longest sequence in tokens.
    pub fn longest(&self) -> usize {
        self.cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// `[tokens]` position of each token in its own sequence, from 0.
    pub fn positions(&self) -> Vec<u32> {
        let mut positions = Vec::with_capacity(self.ids.len());
        for pair in self.cu_seqlens.windows(2) {
            positions.extend(0..u32::try_from(pair[1] - pair[0]).unwrap_or(u32::MAX));
        }
        positions
    }
}

/// Vectors of a batch, in the batch's order, of the kinds that were asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embeddings {
    /// Length of a dense vector; 0 without them.
    pub dimension: usize,
    /// [sequences, dimension].
    pub values: Vec<f32>,
    /// One a sequence.
    pub sparse: Option<Vec<SparseVector>>,
    /// One list a sequence.
    pub multi: Option<MultiVectors>,
}

impl Embeddings {
    /// Dense vectors alone: [sequences, dimension].
    pub fn dense(dimension: usize, values: Vec<f32>) -> Self {
        Self { dimension, values, ..Self::default() }
    }

    /// The dense vector of a sequence, if there are any.
    pub fn dense_of(&self, sequence: usize) -> Option<&[f32]> {
        let of = sequence * self.dimension..(sequence + 1) * self.dimension;
        self.values.get(of).filter(|vector| !vector.is_empty())
    }

    /// Takes the vectors of one sequence from those of another batch, which has the same kinds.
    pub fn replace(&mut self, sequence: usize, others: &mut Self, other: usize) {
        let of = sequence * self.dimension..(sequence + 1) * self.dimension;
        if let (Some(own), Some(new)) = (self.values.get_mut(of), others.dense_of(other)) {
            own.copy_from_slice(new);
        }
        if let (Some(own), Some(new)) = (&mut self.sparse, &mut others.sparse) {
            own[sequence] = std::mem::take(&mut new[other]);
        }
        if let (Some(own), Some(new)) = (&mut self.multi, &mut others.multi) {
            own.texts[sequence] = std::mem::take(&mut new.texts[other]);
        }
    }

    /// One slice a sequence; nothing without dense vectors.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dimension.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_batch_knows_its_sequences() {
        let batch = PackedBatch::new([&[5, 6, 7][..], &[], &[8]]);
        assert_eq!(batch.ids(), [5, 6, 7, 8]);
        assert_eq!(batch.cu_seqlens(), [0, 3, 3, 4]);
        assert_eq!((batch.sequences(), batch.tokens(), batch.longest()), (3, 4, 3));
        assert_eq!(batch.positions(), [0, 1, 2, 0]);
    }

    #[test]
    fn a_part_is_the_batch_of_its_sequences() {
        let sequence = |ids: &[u32], unseen| TokenSeq { ids: ids.to_vec(), truncated: 0, unseen };
        let sequences = [sequence(&[1, 2, 3], 1), sequence(&[4], 0), sequence(&[5, 6], 1)];
        let batch = PackedBatch::of(&sequences);
        assert_eq!(batch.part(0..3), batch);
        assert_eq!(batch.part(1..3).ids(), [4, 5, 6]);
        assert_eq!(batch.part(1..3).cu_seqlens(), [0, 1, 3]);
        assert_eq!((batch.part(2..3).seen(0), batch.part(1..1).sequences()), (1, 0));
        assert_eq!(batch.lengths(0..2).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn vectors_of_all_kinds_are_replaced_together() {
        let sparse = |value| SparseVector { indices: vec![1], values: vec![value] };
        let all = |values: Vec<f32>| Embeddings {
            sparse: Some(values.iter().map(|value| sparse(*value)).collect()),
            multi: Some(MultiVectors { dimension: 1, texts: values.iter().map(|value| vec![*value]).collect() }),
            ..Embeddings::dense(1, values)
        };
        let mut embeddings = all(vec![1.0, 2.0, 3.0]);
        embeddings.replace(1, &mut all(vec![8.0, 9.0]), 1);
        assert_eq!(embeddings, all(vec![1.0, 9.0, 3.0]));
    }

    #[test]
    fn tokens_at_the_end_may_be_unseen() {
        let sequence = |ids: &[u32], unseen| TokenSeq { ids: ids.to_vec(), truncated: 0, unseen };
        let all_seen = [sequence(&[1, 2], 0), sequence(&[3], 0)];
        assert_eq!(PackedBatch::of(&all_seen), PackedBatch::new([&[1, 2][..], &[3]]));
        let batch = PackedBatch::of(&[sequence(&[1, 2], 0), sequence(&[3, 9, 9], 2)]);
        assert_eq!((batch.seen(0), batch.seen(1), batch.has_unseen()), (2, 1, true));
    }
}
