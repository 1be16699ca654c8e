//! From the hidden states of tokens to results: one head for each kind of vectors.
//!
//! All heads that a run asks for work on the same hidden states, so that the layers compute once. What each of them wants
//! of the device is begun before anything is waited for, and no more comes to the host than the result is made of.

use super::dense::{self, Ready, Step};
use super::finish::finished;
use super::load::HeadOptions;
use crate::arch::{LoadError, MaskedLm};
use crate::domain::{Embeddings, MultiVectors, PackedBatch, SparseVector, VectorKind};
use crate::model::Profile;
use crate::model::pooling::Pooling;
use crate::model::spec::{ModelSpec, MultiHead, SparseHead, TextRole};
use crate::model::weights::Weights;
use crate::nn::cpu::gemm::Kernel;
use crate::nn::{Backend, Matrix, NnError, Pending, Wanted};

/// The heads of a model that a run asks for.
pub(super) struct Heads<B: Backend> {
    dense: Option<Pooled>,
    sparse: Option<Sparse<B>>,
    multi: Option<Multi<B>>,
}

/// What makes one vector of the token vectors of a text.
struct Pooled {
    poolings: Vec<Pooling>,
    steps: Vec<Step<Ready>>,
}

/// What makes weights of a vocabulary.
enum Sparse<B: Backend> {
    MaskedLm(MaskedLm<B>),
    Tokens(TokenWeights<B>),
}

/// A weight for each token: relu(w · x + b).
struct TokenWeights<B: Backend> {
    /// To one number.
    layer: B::Projection,
    dropped: Vec<u32>,
}

/// What makes a vector for each token that counts.
struct Multi<B: Backend> {
    /// The first step, where it is a product and nothing else: vectors come narrower to the host.
    first: Option<First<B>>,
    /// The other steps.
    steps: Vec<Step<Ready>>,
    left_out: usize,
    skipped: Vec<u32>,
    skips_in_queries: bool,
}

/// A layer and the width of what it gives.
struct First<B: Backend> {
    layer: B::Projection,
    outputs: usize,
}

impl<B: Backend> Heads<B> {
    pub(super) fn load(
        spec: &ModelSpec,
        options: HeadOptions<'_>,
        weights: &Weights,
        backend: &B,
    ) -> Result<Self, LoadError> {
        let asked = |kind| options.kinds.contains(&kind);
        // What is left for the host is little: it loses nothing there.
        let kernel = Kernel::single(options.instructions);
        let dense = || -> Result<_, LoadError> {
            let steps = dense::read(&spec.after_pooling, VectorKind::Dense, weights)?;
            let steps = steps.into_iter().map(|step| step.packed(kernel)).collect();
            Ok(Pooled { poolings: spec.pooling.clone(), steps })
        };
        Ok(Self {
            dense: (asked(VectorKind::Dense) && !spec.pooling.is_empty()).then(dense).transpose()?,
            sparse: match spec.sparse.as_ref().filter(|_| asked(VectorKind::Sparse)) {
                Some(head) => Some(Sparse::load(spec, head, weights, backend)?),
                None => None,
            },
            multi: match spec.multi.as_ref().filter(|_| asked(VectorKind::Multi)) {
                Some(head) => Some(Multi::load(head, kernel, weights, backend)?),
                None => None,
            },
        })
    }

    /// Those that a profile asks for.
    fn asked(&self, profile: &Profile) -> (Option<&Pooled>, Option<&Sparse<B>>, Option<&Multi<B>>) {
        (
            self.dense.as_ref().filter(|_| profile.asks_for(VectorKind::Dense)),
            self.sparse.as_ref().filter(|_| profile.asks_for(VectorKind::Sparse)),
            self.multi.as_ref().filter(|_| profile.asks_for(VectorKind::Multi)),
        )
    }

    /// Begins all that the heads want of a batch's hidden states, [tokens, hidden].
    pub(super) fn begin(
        &self,
        backend: &B,
        profile: &Profile,
        hidden: &B::Activations,
        batch: &PackedBatch,
    ) -> Result<Begun, NnError> {
        let (dense, sparse, multi) = self.asked(profile);
        let kept = multi.map(|head| head.kept(profile.role, batch));
        let of_tokens = match sparse {
            Some(Sparse::Tokens(head)) => Some(Wanted { tokens: None, projection: Some(&head.layer) }),
            _ => None,
        };
        let of_kept = multi.zip(kept.as_ref()).map(|(head, kept)| Wanted {
            tokens: Some(&kept.tokens),
            projection: head.first.as_ref().map(|first| &first.layer),
        });
        let wanted: Vec<_> = of_tokens.into_iter().chain(of_kept).collect();
        Ok(Begun {
            copies: if wanted.is_empty() { None } else { Some(backend.copies(hidden, &wanted)?) },
            weights: match sparse {
                Some(Sparse::MaskedLm(head)) => Some(head.forward(backend, hidden, batch)?),
                _ => None,
            },
            pooled: match dense {
                Some(head) => Some(backend.pool(&head.poolings, profile.left_out, hidden, batch)?),
                None => None,
            },
            kept,
        })
    }

    /// Waits for what was begun of the same batch, whose hidden states are of so many numbers each, and makes vectors of
    /// it.
    pub(super) fn finish(
        &self,
        profile: &Profile,
        begun: Begun,
        width: usize,
        batch: &PackedBatch,
    ) -> Result<Embeddings, NnError> {
        let Begun { pooled, copies, weights, kept } = begun;
        let (dense, sparse, multi) = self.asked(profile);
        let mut embeddings = match (dense, pooled) {
            (Some(head), Some(pooled)) => head.apply(profile, pooled.get()?, width),
            _ => Embeddings::default(),
        };
        let mut copies = copies.map(Pending::get).transpose()?.unwrap_or_default().into_iter();
        embeddings.sparse = match (sparse, weights) {
            (Some(Sparse::Tokens(head)), _) => Some(head.apply(&copies.next().unwrap_or_default(), batch)),
            (_, Some(weights)) => Some(weights.get()?),
            _ => None,
        };
        embeddings.multi = match (multi, kept) {
            (Some(head), Some(kept)) => Some(head.apply(copies.next().unwrap_or_default(), width, &kept)),
            _ => None,
        };
        Ok(embeddings)
    }
}

/// What the heads have begun with a batch.
pub(super) struct Begun {
    pooled: Option<Pending>,
    /// For the heads that want numbers of tokens, in the order of the fields of [`Heads`].
    copies: Option<Pending<Vec<Vec<f32>>>>,
    weights: Option<Pending<Vec<SparseVector>>>,
    kept: Option<Kept>,
}

impl Pooled {
    fn apply(&self, profile: &Profile, mut vectors: Vec<f32>, width: usize) -> Embeddings {
        let mut width = width * self.poolings.len();
        for step in &self.steps {
            (vectors, width) = step.apply(vectors, width);
        }
        finished(profile, vectors, width)
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
                let bias = own.tensor("bias")?.expect_shape(&[1])?.to_f32()?;
                let weight = Matrix { rows: 1, columns: spec.hidden_size, values: weight };
                Self::Tokens(TokenWeights { layer: backend.projection(weight, Some(bias))?, dropped: dropped.clone() })
            }
        })
    }
}

impl<B: Backend> TokenWeights<B> {
    /// From one number for each token.
    fn apply(&self, weights: &[f32], batch: &PackedBatch) -> Vec<SparseVector> {
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

/// The tokens that count, of each text one after the other.
struct Kept {
    tokens: Vec<u32>,
    /// How many of each text.
    counts: Vec<usize>,
}

impl<B: Backend> Multi<B> {
    fn load(head: &MultiHead, kernel: Kernel, weights: &Weights, backend: &B) -> Result<Self, LoadError> {
        let mut steps = dense::read(&head.steps, VectorKind::Multi, weights)?.into_iter();
        let (first, on_host) = match steps.next() {
            Some(Step::Dense(dense)) if dense.is_linear() => {
                let (weight, bias) = dense.into_linear();
                let outputs = weight.rows;
                (Some(First { layer: backend.projection(weight, bias)?, outputs }), None)
            }
            step => (None, step),
        };
        let steps = on_host.into_iter().chain(steps).map(|step| step.packed(kernel)).collect();
        let MultiHead { left_out, skips_in_queries, .. } = *head;
        Ok(Self { first, steps, left_out, skipped: head.skipped.clone(), skips_in_queries })
    }

    fn kept(&self, role: TextRole, batch: &PackedBatch) -> Kept {
        let skips = role == TextRole::Document || self.skips_in_queries;
        let mut kept = Kept { tokens: Vec::new(), counts: Vec::with_capacity(batch.sequences()) };
        for bounds in batch.cu_seqlens().windows(2) {
            let before = kept.tokens.len();
            let tokens = (bounds[0] + self.left_out).min(bounds[1])..bounds[1];
            let counts = tokens.filter(|token| !(skips && self.skipped.contains(&batch.ids()[*token])));
            // A batch is far smaller than what an index can count.
            kept.tokens.extend(counts.filter_map(|token| u32::try_from(token).ok()));
            kept.counts.push(kept.tokens.len() - before);
        }
        kept
    }

    /// From [tokens that count, hidden or what the first step gives].
    fn apply(&self, states: Vec<f32>, hidden: usize, kept: &Kept) -> MultiVectors {
        let (mut vectors, mut dimension) = (states, self.first.as_ref().map_or(hidden, |first| first.outputs));
        for step in &self.steps {
            (vectors, dimension) = step.apply(vectors, dimension);
        }
        let mut rest = vectors.as_slice();
        let of_text = |&count: &usize| {
            let (own, others) = rest.split_at(count * dimension);
            rest = others;
            own.to_vec()
        };
        MultiVectors { dimension, texts: kept.counts.iter().map(of_text).collect() }
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
