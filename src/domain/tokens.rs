//! What goes into an encoder and what comes out.

/// Token ids of one text, special tokens and prompt included, within the model's limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenSeq {
    /// Vocabulary indices.
    pub ids: Vec<u32>,
    /// How many tokens were cut off to meet the limit.
    pub truncated: u32,
}

/// Several token sequences laid end to end. There is no padding and so no mask: whoever needs either makes it
/// inside, and no result can depend on batch mates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// [tokens] ids of all sequences, one after the other.
    ids: Vec<u32>,
    /// [sequences + 1] cumulative lengths: sequence i is `ids[cu_seqlens[i]..cu_seqlens[i + 1]]`.
    cu_seqlens: Vec<usize>,
}

impl PackedBatch {
    /// Packs sequences in the order given. Empty sequences are allowed.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut batch = Self { ids: Vec::new(), cu_seqlens: vec![0] };
        for sequence in sequences {
            batch.ids.extend_from_slice(sequence);
            batch.cu_seqlens.push(batch.ids.len());
        }
        batch
    }

    /// `[tokens]` all ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// [sequences + 1] cumulative lengths, from 0.
    pub fn cu_seqlens(&self) -> &[usize] {
        &self.cu_seqlens
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

/// Vectors of a batch, in the batch's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Length of a vector.
    pub dimension: usize,
    /// [sequences, dimension].
    pub values: Vec<f32>,
}

impl Embeddings {
    /// One slice a sequence.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dimension)
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
}
