//! The kinds of vectors that a model can give for a text, and what each looks like.
//!
//! A dense vector has a number for every component; a sparse one has a weight for some tokens of a vocabulary; a multi
//! vector has a dense one for each of several tokens of the text.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A kind of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum VectorKind {
    /// One vector of a text.
    Dense,
    /// Weights of some tokens of the vocabulary.
    Sparse,
    /// One vector for each of several tokens of a text.
    Multi,
}

impl VectorKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Dense, Self::Sparse, Self::Multi];

    /// The name used in settings and outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Sparse => "sparse",
            Self::Multi => "multi",
        }
    }
}

/// Some kinds of vectors, each with its width; a kind without width is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Widths {
    /// Components of a dense vector.
    pub dense: Option<usize>,
    /// Size of the vocabulary whose tokens sparse vectors weigh.
    pub sparse: Option<usize>,
    /// Components of each vector of a token.
    pub multi: Option<usize>,
}

impl Widths {
    /// Dense vectors of so many components, and nothing else.
    pub fn dense(dimension: usize) -> Self {
        Self { dense: Some(dimension), ..Self::default() }
    }

    /// The width of a kind, if it is there.
    pub fn of(self, kind: VectorKind) -> Option<usize> {
        match kind {
            VectorKind::Dense => self.dense,
            VectorKind::Sparse => self.sparse,
            VectorKind::Multi => self.multi,
        }
    }

    /// The kinds that there are, in the order of [`VectorKind::ALL`].
    pub fn kinds(self) -> impl Iterator<Item = VectorKind> {
        VectorKind::ALL.into_iter().filter(move |kind| self.of(*kind).is_some())
    }

    /// The same without the kinds that are not in the list.
    #[must_use]
    pub fn only(self, kinds: &[VectorKind]) -> Self {
        let keep = |kind: VectorKind| self.of(kind).filter(|_| kinds.contains(&kind));
        Self { dense: keep(VectorKind::Dense), sparse: keep(VectorKind::Sparse), multi: keep(VectorKind::Multi) }
    }
}

/// The names of the kinds, in their order.
impl fmt::Display for Widths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, kind) in self.kinds().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(kind.as_str())?;
        }
        Ok(())
    }
}

/// Weights of some tokens of a vocabulary; all others have none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SparseVector {
    /// Token ids, ascending, each once.
    pub indices: Vec<u32>,
    /// The weight of each: greater than 0, or not a number where the model's was none.
    pub values: Vec<f32>,
}

impl SparseVector {
    /// What is not zero of `[vocabulary]` weights.
    pub fn of(weights: &[f32]) -> Self {
        let mut sparse = Self::default();
        for (index, &weight) in (0..).zip(weights) {
            if weight != 0.0 {
                sparse.indices.push(index);
                sparse.values.push(weight);
            }
        }
        sparse
    }
}

/// Vectors of tokens of several texts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MultiVectors {
    /// Components of a vector.
    pub dimension: usize,
    /// For each text [vectors, dimension]; texts have different numbers of vectors, and may have none.
    pub texts: Vec<Vec<f32>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_tell_of_the_kinds_that_are_there() {
        let widths = Widths { dense: Some(3), sparse: None, multi: Some(2) };
        assert_eq!(widths.to_string(), "dense,multi");
        assert_eq!(widths.only(&[VectorKind::Multi, VectorKind::Sparse]), Widths { dense: None, ..widths });
        assert_eq!(Widths::default().kinds().count(), 0);
    }

    #[test]
    fn a_sparse_vector_leaves_zeros_out_and_keeps_what_is_no_number() {
        let sparse = SparseVector::of(&[0.0, 0.5, -0.0, f32::NAN, 2.0]);
        assert_eq!(sparse.indices, [1, 3, 4]);
        assert!(sparse.values[1].is_nan(), "{sparse:?}");
    }
}
