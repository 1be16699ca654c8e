//! What happens to a pooled vector before it is a result: cut and normalised, in f32 or better.

use crate::domain::{Embeddings, SparseVector};
use crate::model::Profile;

/// Why a vector must not be taken for a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorFault {
    /// A component is NaN or infinite.
    NotFinite,
    /// All components are zero, so that it has no direction.
    Zero,
}

impl VectorFault {
    /// The reason as the ledger gives it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFinite => "the model gave a vector that is not finite",
            Self::Zero => "the model gave a zero vector",
        }
    }
}

/// Whether a vector is unfit to be written.
pub fn vector_fault(vector: &[f32]) -> Option<VectorFault> {
    if !vector.iter().all(|component| component.is_finite()) {
        Some(VectorFault::NotFinite)
    } else if vector.iter().all(|&component| component == 0.0) {
        Some(VectorFault::Zero)
    } else {
        None
    }
}

/// What is wrong with the vectors of one text, of whatever kinds. A sparse vector without weights and a text without
/// tokens that count are results; numbers that are none are not.
pub fn fault(dense: Option<&[f32]>, sparse: Option<&SparseVector>, multi: Option<&[f32]>) -> Option<VectorFault> {
    let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    let others = sparse.is_none_or(|sparse| finite(&sparse.values)) && multi.is_none_or(finite);
    if others { dense.and_then(vector_fault) } else { Some(VectorFault::NotFinite) }
}

/// Cuts and normalises pooled vectors as a profile asks: [sequences, width] to [sequences, dimension].
pub(super) fn finished(profile: &Profile, pooled: Vec<f32>, width: usize) -> Embeddings {
    let dimension = profile.truncate_dim.map_or(width, |dimension| dimension.min(width));
    let mut values = cut(pooled, width, dimension);
    if profile.normalize {
        values.chunks_exact_mut(dimension).for_each(normalize);
    }
    let last = profile.dimension(width);
    Embeddings::dense(last, cut(values, dimension, last))
}

fn cut(vectors: Vec<f32>, width: usize, dimension: usize) -> Vec<f32> {
    if dimension == width {
        return vectors;
    }
    vectors.chunks_exact(width).flat_map(|vector| &vector[..dimension]).copied().collect()
}

/// Scales to unit length. The sum of squares is in f64, where no finite f32 overflows it; a zero vector stays zero.
#[expect(clippy::cast_possible_truncation, reason = "components of a unit vector fit f32; this is the rounding step")]
pub(super) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|&component| f64::from(component).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|component| *component = (f64::from(*component) / length) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_cut_first_and_normalised_then() {
        let profile = Profile { normalize: true, truncate_dim: Some(2), ..Profile::default() };
        let embeddings = finished(&profile, vec![3.0, 4.0, 100.0, 0.0, -2.0, 7.0], 3);
        assert_eq!(embeddings, Embeddings::dense(2, vec![0.6, 0.8, 0.0, -1.0]));
    }

    #[test]
    fn what_the_files_cut_is_not_scaled_again() {
        let profile = Profile { normalize: true, cut_last: Some(1), ..Profile::default() };
        assert_eq!(finished(&profile, vec![3.0, 4.0, 0.0, -2.0], 2), Embeddings::dense(1, vec![0.6, 0.0]));
        assert_eq!((profile.dimension(2), profile.dimension(0)), (1, 0));
    }

    #[test]
    fn large_components_do_not_overflow_the_length() {
        let embeddings = finished(&Profile { normalize: true, ..Profile::default() }, vec![3e38, 3e38], 2);
        assert!((embeddings.values[0] - std::f32::consts::FRAC_1_SQRT_2).abs() < 1e-7, "{embeddings:?}");
    }

    #[test]
    fn a_text_is_faulty_if_one_of_its_vectors_is() {
        let sparse = |values: &[f32]| SparseVector { indices: vec![0; values.len()], values: values.to_vec() };
        assert_eq!(fault(Some(&[1.0]), Some(&sparse(&[])), Some(&[])), None);
        assert_eq!(fault(None, Some(&sparse(&[1.0, f32::INFINITY])), None), Some(VectorFault::NotFinite));
        assert_eq!(fault(Some(&[1.0]), None, Some(&[0.0, f32::NAN])), Some(VectorFault::NotFinite));
        assert_eq!(fault(Some(&[0.0]), None, Some(&[1.0])), Some(VectorFault::Zero));
    }

    #[test]
    fn useless_vectors_are_found() {
        assert_eq!(vector_fault(&[0.0, -0.0]), Some(VectorFault::Zero));
        assert_eq!(vector_fault(&[1.0, f32::NAN]), Some(VectorFault::NotFinite));
        assert_eq!(vector_fault(&[f32::INFINITY, 0.0]), Some(VectorFault::NotFinite));
        assert_eq!(vector_fault(&[0.0, 1e-30]), None);
    }

    #[test]
    fn normalising_keeps_useless_vectors_recognisable() {
        let profile = Profile { normalize: true, ..Profile::default() };
        for (pooled, expected) in [
            (vec![0.0, 0.0], VectorFault::Zero),
            (vec![f32::NAN, 1.0], VectorFault::NotFinite),
            (vec![f32::INFINITY, 1.0], VectorFault::NotFinite),
        ] {
            assert_eq!(vector_fault(&finished(&profile, pooled, 2).values), Some(expected));
        }
    }
}
