//! A model on a backend, and how its results are held against the reference: each text alone and all together.

use std::collections::BTreeMap;
use std::fmt;

use embed_collections::domain::{Embeddings, PackedBatch, TokenSeq, VectorKind};
use embed_collections::encoder::{self, HeadOptions};
use embed_collections::lease::{DeviceKey, Lease};
use embed_collections::model::Profile;
use embed_collections::model::spec::{ModelSpec, Prompt, PromptChoice, PromptOrigin};
use embed_collections::model::weights::Weights;
use embed_collections::nn::{Backend, Instructions};
use embed_collections::prepare::Tokenizer;
use serde_json::Value;

use super::Case;

/// Largest difference of a component between unit vectors. The reference itself differs from its own f64 run by up to
/// 4e-7; the wrong kind of GELU would differ by 5e-5, a wrong epsilon of a norm by 1e-5.
pub(crate) const ON_PROCESSOR: f64 = 2e-6;

/// The same where the library of a GPU adds up in another order; the cosine is then above 0.999999.
pub(crate) const ON_GPU: f64 = 1e-5;

/// Largest difference of a weight, times the weight where that is more than 1. A token without a weight has 0: where a
/// logit is zero but for rounding, one side may have a weight that the other has not.
const SPARSE_TOLERANCE: f64 = 1e-5;

/// Largest difference of a score of a query: a sum over some ten to thirty tokens.
const SCORE_TOLERANCE: f64 = 1e-4;

fn unit(vector: &[f32]) -> Vec<f64> {
    let length = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    vector.iter().map(|&x| f64::from(x) / length).collect()
}

/// Largest difference of a component between two vectors scaled to unit length.
fn difference(one: &[f32], other: &[f32]) -> f64 {
    assert_eq!(one.len(), other.len());
    // A static model's vector of a text without tokens has no direction.
    if other.iter().all(|&x| x == 0.0) {
        return one.iter().map(|&x| f64::from(x).abs()).fold(0.0, f64::max);
    }
    unit(one).iter().zip(unit(other)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The largest differences that were found.
#[derive(Default)]
pub(crate) struct Worst {
    dense: f64,
    sparse: f64,
    multi: f64,
    score: f64,
    /// Tokens that have a weight on one side alone, of all that have one.
    one_sided: (usize, usize),
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dense, sparse, multi, score, one_sided: (alone, all) } = self;
        write!(f, "largest difference {dense:.1e}, sparse {sparse:.1e} ({alone} of {all} tokens on one side alone), ")?;
        write!(f, "multi {multi:.1e}, scores {score:.1e}")
    }
}

/// A model and where it runs.
pub(crate) struct Subject<'a, B, F> {
    spec: &'a ModelSpec,
    weights: Weights,
    tolerance: f64,
    backend: &'a F,
    _of: std::marker::PhantomData<fn() -> B>,
}

impl<'a, B: Backend, F: Fn() -> B> Subject<'a, B, F> {
    pub(crate) fn new(spec: &'a ModelSpec, tolerance: f64, backend: &'a F) -> Self {
        let kinds: Vec<VectorKind> = spec.widths().kinds().collect();
        Self { spec, weights: Weights::of(spec, &kinds).unwrap(), tolerance, backend, _of: std::marker::PhantomData }
    }

    /// Holds all that a case says against what comes out.
    pub(crate) fn check(&self, case: &Case, name: &str, worst: &mut Worst) {
        if let (Some(queries), Some(maxsim)) = (&case.queries, &case.maxsim) {
            self.check_scores(queries, &case.texts, maxsim, name, worst);
            return;
        }
        let mut profile = Profile::new(self.spec, self.prompt(case)).cut_to(case.truncate_dim);
        profile.max_length = case.max_length.unwrap_or(profile.max_length);
        profile.normalize = case.normalize.unwrap_or(profile.normalize);
        let tokenizer = Tokenizer::of(self.spec, &profile).unwrap();
        let sequences: Vec<TokenSeq> = case.texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        check_tokens(case, &sequences, name);
        profile.left_out = if self.spec.include_prompt { 0 } else { tokenizer.prompt_tokens().unwrap() };
        let (expected, kinds) = expected_of(case);
        assert!(!kinds.is_empty(), "{name}: nothing to compare with");
        profile.kinds = kinds;
        let known: Vec<usize> = (0..sequences.len()).filter(|&index| expected[index].is_known()).collect();
        let sequences: Vec<&TokenSeq> = known.iter().map(|&index| &sequences[index]).collect();
        let together = self.encode(&sequences, &profile);
        for (place, &index) in known.iter().enumerate() {
            let alone = self.encode(&sequences[place..=place], &profile);
            let name = format!("{name}: text {index}");
            expected[index].compare(&together, place, self.tolerance, &name, worst);
            expected[index].compare(&alone, 0, self.tolerance, &name, worst);
        }
    }

    fn prompt(&self, case: &Case) -> Prompt {
        let choice = match (&case.prompt, case.prompt_name.as_ref().or(case.task.as_ref())) {
            (Some(text), _) => PromptChoice::Text(text.clone()),
            (None, Some(name)) => PromptChoice::Named(name.clone()),
            // The reference was made with `encode`, which knows no prompt for documents, only a default one.
            (None, None) => match &self.spec.default_prompt_name {
                Some(name) => PromptChoice::Named(name.clone()),
                None => PromptChoice::Text(String::new()),
            },
        };
        self.spec.prompt(&choice).unwrap()
    }

    /// The results of two texts that have no token.
    pub(crate) fn of_no_tokens(&self) -> Embeddings {
        let kinds: Vec<VectorKind> = self.spec.widths().kinds().collect();
        self.encode_batch(&PackedBatch::new([&[][..], &[]]), &Profile { kinds, ..Profile::default() })
    }

    fn encode(&self, sequences: &[&TokenSeq], profile: &Profile) -> Embeddings {
        self.encode_batch(&PackedBatch::of(sequences.iter().copied()), profile)
    }

    fn encode_batch(&self, batch: &PackedBatch, profile: &Profile) -> Embeddings {
        let lease = Lease::shared([DeviceKey::of_slot(0)]);
        let workers = vec![(lease.devices().next().unwrap(), (self.backend)())];
        let heads = HeadOptions { kinds: &profile.kinds, instructions: Instructions::default() };
        let mut encoders = encoder::load_on(self.spec, &self.weights, heads, workers).unwrap();
        encoders[0].encode(batch, profile).unwrap()
    }

    /// The scores of queries and documents: for each vector of the query the best of the document's, added up.
    fn check_scores(&self, queries: &[String], texts: &[String], scores: &[Vec<f64>], name: &str, worst: &mut Worst) {
        let encode = |texts: &[String], task: &str| {
            let origin = PromptOrigin::Asked(task.to_owned());
            let prompt = Prompt { text: self.spec.prompts[task].clone(), origin };
            let profile = Profile { kinds: vec![VectorKind::Multi], ..Profile::new(self.spec, prompt) };
            let tokenizer = Tokenizer::of(self.spec, &profile).unwrap();
            let sequences: Vec<TokenSeq> = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
            self.encode(&sequences.iter().collect::<Vec<_>>(), &profile).multi.unwrap()
        };
        let (queries, documents) = (encode(queries, "query"), encode(texts, "document"));
        let dot =
            |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let width = queries.dimension;
        for (query, scores) in queries.texts.iter().zip(scores) {
            for (document, score) in documents.texts.iter().zip(scores) {
                let best = |vector: &[f32]| {
                    document.chunks_exact(width).map(|other| dot(vector, other)).fold(f64::NEG_INFINITY, f64::max)
                };
                let difference = (query.chunks_exact(width).map(best).sum::<f64>() - score).abs();
                assert!(difference < SCORE_TOLERANCE, "{name}: a score differs by {difference:e}");
                worst.score = worst.score.max(difference);
            }
        }
    }
}

fn check_tokens(case: &Case, sequences: &[TokenSeq], name: &str) {
    for (index, sequence) in sequences.iter().enumerate() {
        let text = &case.texts[index];
        if let Some(ids) = &case.token_ids {
            assert_eq!(sequence.ids, ids[index], "{name}: ids of {text:?}");
        }
        if let Some(counts) = &case.full_token_counts {
            let count = sequence.ids.len() + sequence.truncated as usize;
            assert_eq!(count, counts[index], "{name}: tokens of {text:?}");
        }
        if let Some(masks) = &case.attention_mask {
            let seen = sequence.ids.len() - sequence.unseen as usize;
            let mask: Vec<u32> = (0..sequence.ids.len()).map(|token| u32::from(token < seen)).collect();
            assert_eq!(mask, masks[index], "{name}: tokens of {text:?} that are seen");
        }
    }
}

/// What must come out for one text.
#[derive(Default)]
struct Expected {
    dense: Option<Vec<f32>>,
    sparse: Option<BTreeMap<u32, f32>>,
    multi: Option<Vec<Vec<f32>>>,
}

/// For each text, and the kinds that any of them has.
fn expected_of(case: &Case) -> (Vec<Expected>, Vec<VectorKind>) {
    let mut all: Vec<Expected> = case.texts.iter().map(|_| Expected::default()).collect();
    let lists = |value: &Value| value[0].is_array() || case.task.is_some();
    for (expected, value) in all.iter_mut().zip(case.embeddings.iter().flatten()) {
        match value {
            Some(value) if lists(value) => expected.multi = Some(serde_json::from_value(value.clone()).unwrap()),
            Some(value) => expected.dense = Some(serde_json::from_value(value.clone()).unwrap()),
            None => {}
        }
    }
    for (expected, weights) in all.iter_mut().zip(case.sparse.iter().flatten()) {
        expected.sparse = Some(weights.iter().map(|(id, weight)| (id.parse().unwrap(), *weight)).collect());
    }
    for (expected, value) in all.iter_mut().zip(case.colbert.iter().flatten()) {
        expected.multi = value.as_ref().map(|value| serde_json::from_value(value.clone()).unwrap());
    }
    let some = |has: fn(&Expected) -> bool| all.iter().any(has);
    let kinds = [
        (VectorKind::Dense, some(|expected| expected.dense.is_some())),
        (VectorKind::Sparse, some(|expected| expected.sparse.is_some())),
        (VectorKind::Multi, some(|expected| expected.multi.is_some())),
    ];
    let kinds = kinds.into_iter().filter_map(|(kind, some)| some.then_some(kind)).collect();
    (all, kinds)
}

impl Expected {
    fn is_known(&self) -> bool {
        self.dense.is_some() || self.sparse.is_some() || self.multi.is_some()
    }

    fn compare(&self, found: &Embeddings, place: usize, tolerance: f64, name: &str, worst: &mut Worst) {
        if let Some(expected) = &self.dense {
            let vector = found.rows().nth(place).unwrap();
            // The largest of some differences passes over those that are not numbers.
            assert!(vector.iter().all(|component| component.is_finite()), "{name}: not finite");
            let difference = difference(vector, expected);
            assert!(difference < tolerance, "{name}: the vector differs by {difference:e}");
            worst.dense = worst.dense.max(difference);
            // Where the model does not normalise, the length is part of the result as well.
            let length = |vector: &[f32]| vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let ratio = if length(expected) == 0.0 { 1.0 } else { length(vector) / length(expected) };
            assert!((ratio - 1.0).abs() < 1e-5, "{name}: lengths differ by {ratio}");
        }
        if let Some(expected) = &self.sparse {
            let found = &found.sparse.as_ref().unwrap()[place];
            assert!(found.indices.is_sorted_by(|one, other| one < other), "{name}: {:?}", found.indices);
            assert!(found.values.iter().all(|value| value.is_finite() && *value > 0.0), "{name}: {:?}", found.values);
            let found: BTreeMap<u32, f32> = found.indices.iter().copied().zip(found.values.iter().copied()).collect();
            for id in found.keys().chain(expected.keys()) {
                let (one, other) = (found.get(id).copied(), expected.get(id).copied());
                let (one_weight, other_weight) = (one.unwrap_or(0.0), other.unwrap_or(0.0));
                let difference = f64::from(one_weight - other_weight).abs() / f64::from(other_weight).max(1.0);
                assert!(difference < SPARSE_TOLERANCE, "{name}: token {id} has {one_weight}, not {other_weight}");
                worst.sparse = worst.sparse.max(difference);
                worst.one_sided.0 += usize::from(one.is_some() != other.is_some());
                worst.one_sided.1 += 1;
            }
        }
        if let Some(expected) = &self.multi {
            let multi = found.multi.as_ref().unwrap();
            let vectors: Vec<&[f32]> = multi.texts[place].chunks_exact(multi.dimension).collect();
            assert_eq!(vectors.len(), expected.len(), "{name}: vectors of tokens");
            for (vector, expected) in vectors.into_iter().zip(expected) {
                assert!(vector.iter().all(|component| component.is_finite()), "{name}: not finite");
                assert_eq!(vector.len(), expected.len(), "{name}: components");
                // All of them have unit length, so that direction and length count alike.
                let differences = vector.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs());
                let difference = differences.fold(0.0, f64::max);
                assert!(difference < tolerance, "{name}: the vector of a token differs by {difference:e}");
                worst.multi = worst.multi.max(difference);
            }
        }
    }
}
