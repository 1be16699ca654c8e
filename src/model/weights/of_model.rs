//! The weights of a model: those of its transformer, and those of the layers behind it.

use std::path::PathBuf;

use super::{WeightError, Weights};
use crate::domain::VectorKind;
use crate::model::spec::{AfterPooling, ModelSpec, SparseHead};

impl Weights {
    /// Maps the weights of a model that some kinds of vectors need: those of the transformer and of the layers that lead
    /// from it to each of them.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn of(spec: &ModelSpec, kinds: &[VectorKind]) -> Result<Self, WeightError> {
        let mut weights = Self::open(&spec.weights)?;
        let token_steps = spec.multi.as_ref().map_or(&[][..], |head| &head.steps);
        let mut files: Vec<(VectorKind, &[PathBuf])> = Vec::new();
        for (kind, steps) in [(VectorKind::Dense, spec.after_pooling.as_slice()), (VectorKind::Multi, token_steps)] {
            files.extend(steps.iter().filter_map(|step| match step {
                AfterPooling::Dense(dense) if !dense.weights.is_empty() => Some((kind, dense.weights.as_slice())),
                _ => None,
            }));
        }
        if let Some(SparseHead::TokenWeights { weights, .. }) = &spec.sparse {
            files.push((VectorKind::Sparse, std::slice::from_ref(weights)));
        }
        for (kind, files) in files.into_iter().filter(|(kind, _)| kinds.contains(kind)) {
            weights.heads.push((kind, Self::open(files)?));
        }
        Ok(weights)
    }
}
