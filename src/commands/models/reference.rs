//! A model's vectors against those that its directory says it must give.
//!
//! `reference.json` beside the weights has texts with their token ids and vectors of whatever kinds, as `tests/fixtures/README.md`
//! describes it. All are computed in f32, each text alone, as a vector does not depend on its batch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::inside;
use crate::domain::{Embeddings, PackedBatch, TokenSeq, VectorKind};
use crate::embedder::{ModelFault, with_causes};
use crate::encoder::{self, Encoder, HeadOptions};
use crate::lease::{DeviceKey, Lease};
use crate::model::Profile;
use crate::model::spec::{ModelSpec, PromptChoice};
use crate::model::weights::Weights;
use crate::nn::Instructions;
use crate::nn::cpu::gemm::Kernel;
use crate::prepare::Tokenizer;

/// Largest difference of a component of a unit vector. A right implementation differs in f32 by some 1e-7; the wrong kind
/// of GELU by 5e-5.
const TOLERANCE: f64 = 1e-5;

/// What came of the comparison.
#[derive(Debug, Default, Serialize)]
pub(super) struct Comparison {
    /// The file; none if there is none and nothing was compared.
    pub path: Option<String>,
    pub cases: usize,
    /// Vectors that were compared.
    pub vectors: usize,
    pub largest_difference: f64,
    pub tolerance: f64,
    /// Cases without vectors of whole texts.
    pub left_out: Vec<String>,
    #[serde(skip)]
    pub faults: Vec<String>,
}

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    #[serde(default)]
    texts: Vec<String>,
    /// The prompt's name, for models that treat queries and documents differently.
    task: Option<String>,
    prompt_name: Option<String>,
    prompt: Option<String>,
    max_length: Option<usize>,
    truncate_dim: Option<usize>,
    normalize: Option<bool>,
    token_ids: Option<Vec<Vec<u32>>>,
    /// A vector a text, or a list of them. None where the text has no token, which the reference library refuses.
    embeddings: Option<Vec<Option<Value>>>,
    /// Weights by token.
    sparse: Option<Vec<Option<BTreeMap<u32, f32>>>>,
    /// A list of vectors a text, where the reference is that long.
    colbert: Option<Vec<Option<Vec<Vec<f32>>>>>,
}

/// What must come out of one kind for each text.
type OfKind = (VectorKind, Vec<Option<Expected>>);

/// What must come out for a text.
enum Expected {
    Dense(Vec<f32>),
    Sparse(BTreeMap<u32, f32>),
    Multi(Vec<Vec<f32>>),
}

/// Loads the model, which finds weights that are missing or of the wrong shape, and compares what it gives.
///
/// # Errors
/// When the model cannot be loaded. That vectors differ, or cannot be compared, is among the faults.
pub(super) fn compare(directory: &Path, spec: &ModelSpec, weights: &Weights) -> Result<Comparison, ModelFault> {
    let lease = Lease::shared([DeviceKey::of_slot(0)]);
    let devices: Vec<_> = lease.devices().map(|device| (device, 1)).collect();
    let kinds: Vec<VectorKind> = spec.widths().kinds().collect();
    let instructions = Instructions::detect();
    let heads = HeadOptions { kinds: &kinds, instructions };
    let mut encoders = encoder::load(spec, weights, heads, &devices, Kernel::single(instructions))?;

    let path = directory.join("reference.json");
    let mut comparison = Comparison { tolerance: TOLERANCE, ..Comparison::default() };
    let reference = match read(&path) {
        Ok(None) => return Ok(comparison),
        Ok(Some(reference)) => reference,
        Err(fault) => {
            comparison.faults.push(fault);
            return Ok(comparison);
        }
    };
    comparison.path = Some(inside(&path, directory));
    for case in &reference.cases {
        let all = match case.expected() {
            Ok(all) => all,
            Err(fault) => {
                comparison.faults.push(format!("{}, case {}: {fault}", path.display(), case.name));
                continue;
            }
        };
        if all.is_empty() {
            comparison.left_out.push(case.name.clone());
            continue;
        }
        let mut profile = Profile::new(spec, spec.prompt(&case.choice(spec))?).cut_to(case.truncate_dim);
        profile.max_length = case.max_length.unwrap_or(profile.max_length);
        profile.normalize = case.normalize.unwrap_or(profile.normalize);
        let tokenizer = Tokenizer::of(spec, &profile)?;
        profile.left_out = if spec.include_prompt { 0 } else { tokenizer.prompt_tokens()? };
        comparison.cases += 1;
        for (kind, expected) in all {
            profile.kinds = vec![kind];
            // The lease has one device.
            let Some(encoder) = encoders.first_mut() else { continue };
            if let Err(fault) = case.check(&expected, &tokenizer, encoder.as_mut(), &profile, &mut comparison) {
                comparison.faults.push(format!("{}, case {}: {fault}", path.display(), case.name));
            }
        }
    }
    if comparison.vectors == 0 && comparison.faults.is_empty() {
        comparison.faults.push(format!("{} has no vectors of whole texts to compare with", path.display()));
    }
    Ok(comparison)
}

/// None if there is no such file.
fn read(path: &PathBuf) -> Result<Option<Reference>, String> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(reference) => Ok(Some(reference)),
            Err(error) => Err(format!("{} is no reference: {error}", path.display())),
        },
    }
}

impl Case {
    /// References are made by a library that knows no prompt for documents, only a default one.
    fn choice(&self, spec: &ModelSpec) -> PromptChoice {
        match (&self.prompt, self.prompt_name.as_ref().or(self.task.as_ref()).or(spec.default_prompt_name.as_ref())) {
            (Some(text), _) => PromptChoice::Text(text.clone()),
            (None, Some(name)) => PromptChoice::Named(name.clone()),
            (None, None) => PromptChoice::Text(String::new()),
        }
    }

    /// What the case says, for each kind of vectors that it has something of.
    fn expected(&self) -> Result<Vec<OfKind>, String> {
        let mut all = Vec::new();
        if let Some(embeddings) = &self.embeddings {
            let of_tokens = self.task.is_some();
            let read = |value: &Value| {
                let value = value.clone();
                if of_tokens {
                    serde_json::from_value(value).map(Expected::Multi)
                } else {
                    serde_json::from_value(value).map(Expected::Dense)
                }
            };
            let read = |value: &Option<Value>| value.as_ref().map(read).transpose().map_err(|error| error.to_string());
            let kind = if of_tokens { VectorKind::Multi } else { VectorKind::Dense };
            all.push((kind, embeddings.iter().map(read).collect::<Result<_, _>>()?));
        }
        if let Some(sparse) = &self.sparse {
            all.push((VectorKind::Sparse, sparse.iter().map(|it| it.clone().map(Expected::Sparse)).collect()));
        }
        if let Some(colbert) = &self.colbert {
            all.push((VectorKind::Multi, colbert.iter().map(|it| it.clone().map(Expected::Multi)).collect()));
        }
        Ok(all)
    }

    /// Compares all texts, and ends at the first whose vector cannot be the right one for another reason than its size.
    fn check(
        &self,
        expected: &[Option<Expected>],
        tokenizer: &Tokenizer,
        encoder: &mut dyn Encoder,
        profile: &Profile,
        comparison: &mut Comparison,
    ) -> Result<(), String> {
        let ids = self.token_ids.as_deref();
        if expected.len() != self.texts.len() || ids.is_some_and(|ids| ids.len() != self.texts.len()) {
            return Err(format!("it has {} texts and {} vectors", self.texts.len(), expected.len()));
        }
        let mut worst = (0.0, 0);
        for (index, (text, expected)) in self.texts.iter().zip(expected).enumerate() {
            let sequence = tokenizer.encode(text).map_err(|error| format!("text {index}: {error}"))?;
            if let Some(ids) = ids.map(|ids| &ids[index]).filter(|ids| **ids != sequence.ids) {
                return Err(format!("the tokens of text {index} are {:?}, not {ids:?}", sequence.ids));
            }
            let Some(expected) = expected else { continue };
            let embeddings =
                embed(encoder, profile, &sequence, expected).map_err(|fault| format!("text {index}: {fault}"))?;
            let difference = expected
                .difference(&embeddings)
                .ok_or_else(|| format!("the vector of text {index} is not finite, or is not {}", expected.shape()))?;
            comparison.vectors += 1;
            if difference > worst.0 {
                worst = (difference, index);
            }
        }
        comparison.largest_difference = comparison.largest_difference.max(worst.0);
        if worst.0 > TOLERANCE {
            return Err(format!(
                "the vector of text {} differs by {:.1e}, more than {TOLERANCE:.0e}",
                worst.1, worst.0
            ));
        }
        Ok(())
    }
}

fn embed(
    encoder: &mut dyn Encoder,
    profile: &Profile,
    sequence: &TokenSeq,
    expected: &Expected,
) -> Result<Embeddings, String> {
    match expected {
        // What a model without layers makes of nothing.
        Expected::Dense(vector) if sequence.ids.is_empty() => {
            Ok(Embeddings::dense(vector.len(), vec![0.0; vector.len()]))
        }
        _ => encoder.encode(&PackedBatch::of([sequence]), profile).map_err(|error| with_causes(&error)),
    }
}

impl Expected {
    /// None if the two cannot be compared.
    fn difference(&self, found: &Embeddings) -> Option<f64> {
        match self {
            Self::Dense(expected) => difference(&found.values, expected),
            Self::Sparse(expected) => {
                let found = found.sparse.as_ref()?.first()?;
                let found: BTreeMap<u32, f32> =
                    found.indices.iter().copied().zip(found.values.iter().copied()).collect();
                // Where a weight is nothing but for rounding, one side may have it and the other not.
                let weight = |of: &BTreeMap<u32, f32>, id: &u32| f64::from(of.get(id).copied().unwrap_or_default());
                let differences = found
                    .keys()
                    .chain(expected.keys())
                    .map(|id| (weight(&found, id) - weight(expected, id)).abs() / weight(expected, id).max(1.0));
                found.values().all(|weight| weight.is_finite()).then(|| differences.fold(0.0, f64::max))
            }
            Self::Multi(expected) => {
                let multi = found.multi.as_ref()?;
                let vectors: Vec<&[f32]> = multi.texts.first()?.chunks_exact(multi.dimension.max(1)).collect();
                let same = vectors.len() == expected.len();
                let differences = vectors.iter().zip(expected).map(|(vector, expected)| difference(vector, expected));
                let differences: Vec<f64> = differences.collect::<Option<_>>()?;
                same.then(|| differences.into_iter().fold(0.0, f64::max))
            }
        }
    }

    /// What it is, in words.
    fn shape(&self) -> String {
        match self {
            Self::Dense(vector) => format!("of {} components", vector.len()),
            Self::Sparse(_) => "one of weights".to_owned(),
            Self::Multi(vectors) => format!("{} vectors of tokens", vectors.len()),
        }
    }
}

/// Largest difference of a component, where the expected vector has length 1; so that direction and length count alike.
/// None if the vectors cannot be compared.
fn difference(vector: &[f32], expected: &[f32]) -> Option<f64> {
    let comparable = vector.len() == expected.len() && vector.iter().all(|component| component.is_finite());
    let length = expected.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let scale = if length == 0.0 { 1.0 } else { length };
    let differences = vector.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs() / scale);
    comparable.then(|| differences.fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(vector: &[f32], expected: &[f32], outcome: Option<f64>) {
        assert_eq!(difference(vector, expected), outcome, "{vector:?} {expected:?}");
    }

    #[test]
    fn a_difference_is_that_of_unit_vectors_and_counts_the_length_too() {
        check(&[3.0, 4.0], &[3.0, 4.0], Some(0.0));
        check(&[3.0, 4.0], &[0.0, 5.0], Some(0.6));
        check(&[6.0, 8.0], &[3.0, 4.0], Some(0.8));
        check(&[0.0, 0.5], &[0.0, 0.0], Some(0.5));
    }

    #[test]
    fn vectors_that_cannot_be_compared_are_not_alike() {
        check(&[f32::NAN, 1.0], &[0.0, 1.0], None);
        check(&[0.0, f32::INFINITY], &[0.0, 1.0], None);
        check(&[1.0], &[1.0, 0.0], None);
    }
}
