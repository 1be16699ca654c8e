//! From the hidden states of tokens to results: one head for each kind of vectors.
//!
//! All heads that a run asks for work on the same hidden states, so that the layers compute once.

use super::dense::{self, Step};
use super::finish::Finish;
use crate::arch::{LoadError, MaskedLm};
use crate::domain::{Embeddings, MultiVectors, PackedBatch, SparseVector, VectorKind};
use crate::model::spec::{ModelSpec, MultiHead, SparseHead, TextRole};
use crate::model::weights::Weights;
use crate::nn::{Awaited, Backend, NnError, Pooling};

/// The heads of a model that a run asks for.
pub(super) struct Heads<B: Backend> {
    dense: Option<Pooled>,
    sparse: Option<Sparse<B>>,
    multi: Option<Multi>,
}

/// What makes one vector of the token vectors of a text.
struct Pooled {
    poolings: Vec<Pooling>,
    steps: Vec<Step>,
}

/// What makes weights of a vocabulary.
enum Sparse<B: Backend> {
    MaskedLm(MaskedLm<B>),
    Tokens(TokenWeights),
}

/// A weight for each token: relu(w · x + b).
struct TokenWeights {
    weight: Vec<f32>,
    bias: f32,
    dropped: Vec<u32>,
}

/// What makes a vector for each token that counts.
struct Multi {
    steps: Vec<Step>,
    left_out: usize,
    skipped: Vec<u32>,
}

impl<B: Backend> Heads<B> {
    pub(super) fn load(spec: &ModelSpec, finish: &Finish, weights: &Weights, backend: &B) -> Result<Self, LoadError> {
        let asked = |kind| finish.kinds(spec.default_kind).contains(&kind);
        let dense = || -> Result<_, LoadError> {
            let steps = dense::load(&spec.after_pooling, VectorKind::Dense, weights)?;
            Ok(Pooled { poolings: spec.pooling.clone(), steps })
        };
        Ok(Self {
            dense: (asked(VectorKind::Dense) && !spec.pooling.is_empty()).then(dense).transpose()?,
            sparse: match spec.sparse.as_ref().filter(|_| asked(VectorKind::Sparse)) {
                Some(head) => Some(Sparse::load(spec, head, weights, backend)?),
                None => None,
            },
            multi: match spec.multi.as_ref().filter(|_| asked(VectorKind::Multi)) {
                Some(head) => Some(Multi::load(head, finish.role, weights)?),
                None => None,
            },
        })
    }

    /// Whether there is nothing but pooled vectors, for which nobody need wait before the next batch is begun.
    pub(super) fn are_pooled_alone(&self) -> bool {
        self.dense.is_some() && self.sparse.is_none() && self.multi.is_none()
    }

    /// What [`Self::pooled`] makes vectors of, where they [are pooled alone](Self::are_pooled_alone).
    pub(super) fn pool(
        &self,
        backend: &B,
        finish: &Finish,
        hidden: &B::Activations,
        batch: &PackedBatch,
    ) -> Result<Awaited, NnError> {
        let poolings = self.dense.as_ref().map_or(&[][..], |head| &head.poolings);
        backend.pool(poolings, finish.left_out, hidden, batch)
    }

    /// The vectors of a batch whose pooled hidden states are here.
    pub(super) fn pooled(&self, finish: &Finish, pooled: Vec<f32>, width: usize) -> Embeddings {
        self.dense.as_ref().map_or_else(Embeddings::default, |head| head.apply(finish, pooled, width))
    }

    /// The vectors of a batch from its hidden states, [tokens, hidden], of so many numbers each.
    pub(super) fn apply(
        &self,
        backend: &B,
        finish: &Finish,
        (hidden, width): (&B::Activations, usize),
        batch: &PackedBatch,
    ) -> Result<Embeddings, NnError> {
        let mut embeddings = match &self.dense {
            Some(_) => self.pooled(finish, self.pool(backend, finish, hidden, batch)?.get()?, width),
            None => Embeddings::default(),
        };
        let on_host = matches!(self.sparse, Some(Sparse::Tokens(_))) || self.multi.is_some();
        let states = if on_host { backend.to_host(hidden)? } else { Vec::new() };
        embeddings.sparse = match &self.sparse {
            Some(Sparse::MaskedLm(head)) => Some(head.forward(backend, hidden, batch)?),
            Some(Sparse::Tokens(head)) => Some(head.apply(&states, batch)),
            None => None,
        };
        embeddings.multi = self.multi.as_ref().map(|head| head.apply(states, width, batch));
        Ok(embeddings)
    }
}

impl Pooled {
    fn apply(&self, finish: &Finish, mut vectors: Vec<f32>, width: usize) -> Embeddings {
        let mut width = width * self.poolings.len();
        for step in &self.steps {
            (vectors, width) = step.apply(vectors, width);
        }
        finish.apply(vectors, width)
    }
}

impl<B: Backend> Sparse<B> {
    fn load(spec: &ModelSpec, head: &SparseHead, weights: &Weights, backend: &B) -> Result<Self, LoadError> {
        Ok(match head {
            SparseHead::MaskedLm { pooling, vocabulary } => {
                Self::MaskedLm(MaskedLm::load(spec, *pooling, *vocabulary, weights, backend)?)
            }
            SparseHead::TokenWeights { weights: path, dropped, .. } => {
                let own = weights.head(VectorKind::Sparse).next().ok_or_else(|| dense::absent("weight", path))?;
                let weight = own.tensor("weight")?.expect_shape(&[1, spec.hidden_size])?.to_f32()?;
                let bias = own.tensor("bias")?.expect_shape(&[1])?.to_f32()?[0];
                Self::Tokens(TokenWeights { weight, bias, dropped: dropped.clone() })
            }
        })
    }
}

impl TokenWeights {
    fn apply(&self, states: &[f32], batch: &PackedBatch) -> Vec<SparseVector> {
        let width = self.weight.len();
        let weights: Vec<f32> =
            states.chunks_exact(width).map(|state| dense::dot(&self.weight, state) + self.bias).collect();
        let of_text = |bounds: &[usize]| {
            let tokens = batch.ids()[bounds[0]..bounds[1]].iter().zip(&weights[bounds[0]..bounds[1]]);
            largest_of_each(tokens.map(|(id, weight)| (*id, *weight)).filter(|(id, _)| !self.dropped.contains(id)))
        };
        batch.cu_seqlens().windows(2).map(of_text).collect()
    }
}

/// The largest weight of every token, as far as it is more than nothing; what is not a number stays, and is found.
fn largest_of_each(tokens: impl Iterator<Item = (u32, f32)>) -> SparseVector {
    let mut weights: Vec<(u32, f32)> = tokens.filter(|(_, weight)| *weight > 0.0 || weight.is_nan()).collect();
    // The largest of equal tokens first, before it what is not a number.
    weights.sort_by(|(id, weight), (other, other_weight)| id.cmp(other).then(other_weight.total_cmp(weight)));
    weights.dedup_by_key(|(id, _)| *id);
    let (indices, values) = weights.into_iter().unzip();
    SparseVector { indices, values }
}

impl Multi {
    fn load(head: &MultiHead, role: TextRole, weights: &Weights) -> Result<Self, LoadError> {
        let skipped = match role {
            TextRole::Document => head.skipped.clone(),
            TextRole::Query => Vec::new(),
        };
        Ok(Self { steps: dense::load(&head.steps, VectorKind::Multi, weights)?, left_out: head.left_out, skipped })
    }

    fn apply(&self, states: Vec<f32>, width: usize, batch: &PackedBatch) -> MultiVectors {
        let (mut vectors, mut dimension) = (states, width);
        for step in &self.steps {
            (vectors, dimension) = step.apply(vectors, dimension);
        }
        let of_text = |bounds: &[usize]| {
            let first = (bounds[0] + self.left_out).min(bounds[1]);
            let tokens = first..bounds[1];
            let kept = tokens.filter(|token| !self.skipped.contains(&batch.ids()[*token]));
            kept.flat_map(|token| &vectors[token * dimension..(token + 1) * dimension]).copied().collect()
        };
        MultiVectors { dimension, texts: batch.cu_seqlens().windows(2).map(of_text).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: &[(u32, f32)], expected: &[(u32, f32)]) {
        let found = largest_of_each(tokens.iter().copied());
        let found: Vec<_> = found.indices.into_iter().zip(found.values).collect();
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    }

    #[test]
    fn the_largest_weight_of_each_token_counts() {
        check(&[(7, 1.0), (3, 0.5), (7, 2.0), (5, 0.0), (4, -1.0), (3, 0.25)], &[(3, 0.5), (7, 2.0)]);
        check(&[(2, -3.0)], &[]);
    }

    #[test]
    fn a_weight_that_is_no_number_is_not_hidden_by_others() {
        check(&[(7, 1.0), (7, f32::NAN), (7, 3.0)], &[(7, f32::NAN)]);
    }
}
