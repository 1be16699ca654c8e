//! Models as GPUs compute them, on the processor: f16 and bf16, sequences of several lengths padded together. What lower
//! precision costs a model was measured with torch (`scripts/measure_half_precision.py`); twice that is allowed.
//!
//! `REFERENCE_MODELS` names a directory of more models, as in `reference_models.rs`; `EMBED_TEST_GPU` the UUID of a GPU on
//! which all is computed in place of the processor.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use embed_collections::domain::{Embeddings, PackedBatch, TokenSeq, VectorKind};
use embed_collections::encoder::{self, HeadOptions};
use embed_collections::lease::{DeviceKey, Lease};
use embed_collections::model::Profile;
use embed_collections::model::spec::{ModelSpec, TextRole};
use embed_collections::model::weights::Weights;
use embed_collections::nn::{Candle, Gpu, Grouping, Instructions, Numbers};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Reference {
    /// What other precisions cost torch in the first case, where that is written beside the model.
    #[serde(default)]
    other_dtypes: BTreeMap<String, Cost>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Cost {
    max_abs_diff: Option<f64>,
}

#[derive(Deserialize)]
struct Case {
    truncate_dim: Option<usize>,
    normalize: Option<bool>,
    prompt_length: Option<usize>,
    #[serde(default)]
    token_ids: Vec<Vec<u32>>,
    /// 0 for tokens that none sees.
    attention_mask: Option<Vec<Vec<u32>>>,
    /// "query" or "document", for models that treat them differently.
    task: Option<String>,
    /// A vector a text, or with a task a list of vectors.
    #[serde(default)]
    embeddings: Vec<Option<Value>>,
    /// Weights by token.
    #[serde(default)]
    sparse: Vec<BTreeMap<u32, f32>>,
    /// A list of vectors a text, for some texts.
    #[serde(default)]
    colbert: Vec<Option<Vec<Vec<f32>>>>,
}

/// What must come out for one text.
#[derive(Default)]
struct Expected {
    dense: Option<Vec<f32>>,
    sparse: Option<BTreeMap<u32, f32>>,
    multi: Option<Vec<Vec<f32>>>,
}

impl Case {
    /// For each text.
    fn expected(&self) -> Vec<Expected> {
        let of_text = |text: usize| {
            let vector = self.embeddings.get(text).cloned().flatten();
            let (vector, vectors) = if self.task.is_some() { (None, vector) } else { (vector, None) };
            let vectors = vectors.map(|vectors| serde_json::from_value(vectors).unwrap());
            Expected {
                dense: vector.map(|vector| serde_json::from_value(vector).unwrap()),
                sparse: self.sparse.get(text).cloned(),
                multi: vectors.or_else(|| self.colbert.get(text).cloned().flatten()),
            }
        };
        (0..self.token_ids.len()).map(of_text).collect()
    }

    fn sequence(&self, text: usize) -> TokenSeq {
        let ids = self.token_ids[text].clone();
        let seen = self.attention_mask.as_ref().map_or(ids.len(), |masks| masks[text].iter().sum::<u32>() as usize);
        TokenSeq { unseen: u32::try_from(ids.len() - seen).unwrap(), ids, truncated: 0 }
    }
}

/// Largest differences, by kinds of vectors.
type Costs = BTreeMap<String, f64>;

/// Largest difference of a weight in f32, times the weight where that is more than 1, as in `reference_models.rs`.
const F32_COST_OF_WEIGHTS: f64 = 5e-6;

/// What f32 costs however sequences are brought together, as in `reference_models.rs`.
const F32_COST: f64 = 1e-6;

/// The same on a GPU, whose library adds up in another order.
const F32_COST_ON_GPU: f64 = 5e-6;

/// A model, and what is known of it.
struct Model {
    directory: PathBuf,
    reference: Reference,
    /// What f16 and bf16 cost torch in all cases: by kind of vectors and name of the numbers.
    measured: Option<BTreeMap<String, BTreeMap<String, f64>>>,
}

impl Model {
    /// The cases that can be compared in these numbers, and what may be lost; none where nobody knows that.
    fn cases(&self, numbers: Numbers) -> Option<(&[Case], Costs)> {
        let Self { reference: Reference { cases, other_dtypes, .. }, measured, .. } = self;
        let name = numbers.to_string();
        match (numbers, measured) {
            (Numbers::F32, _) => {
                let times = if gpu().is_some() { F32_COST_ON_GPU / F32_COST } else { 1.0 };
                let costs = [("dense", F32_COST), ("sparse", F32_COST_OF_WEIGHTS), ("multi", F32_COST)];
                Some((cases, costs.map(|(kind, cost)| (kind.to_owned(), cost * times)).into()))
            }
            (_, Some(measured)) => {
                let cost = |(kind, costs): (&String, &BTreeMap<String, f64>)| Some((kind.clone(), *costs.get(&name)?));
                Some((cases, measured.iter().map(cost).collect::<Option<_>>()?))
            }
            (_, None) => {
                let cost = other_dtypes.get(&name)?.max_abs_diff?;
                Some((&cases[..1], BTreeMap::from([("dense".to_owned(), cost)])))
            }
        }
    }
}

/// The GPU to compute on, opened once.
fn gpu() -> Option<&'static Gpu> {
    static OPEN: OnceLock<Option<Gpu>> = OnceLock::new();
    let open = || std::env::var("EMBED_TEST_GPU").ok().map(|uuid| Gpu::cuda(&uuid).unwrap());
    OPEN.get_or_init(open).as_ref()
}

fn backend(numbers: Numbers) -> Candle {
    gpu().map_or_else(|| Candle::cpu_as(numbers, Grouping::Padded), |gpu| Candle::on(gpu, numbers).unwrap())
}

/// All of which the token ids are known.
fn models() -> Vec<Model> {
    let text = fs::read("tests/fixtures/half_precision.json").unwrap();
    let mut measured: BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>> =
        serde_json::from_slice(&text).unwrap();
    let mut models = Vec::new();
    let elsewhere = std::env::var_os("REFERENCE_MODELS").map(PathBuf::from);
    for root in [Some("tests/fixtures/models".into()), elsewhere].into_iter().flatten() {
        let entries = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap());
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        for name in names {
            let directory = root.join(&name);
            let Ok(text) = fs::read(directory.join("reference.json")) else { continue };
            let mut reference: Reference = serde_json::from_slice(&text).unwrap();
            let measured = measured.remove(&name);
            // Where a prompt is left out of pooling and its length is not written down, the tokenizer must say it:
            // `reference_models.rs` asks it.
            let includes_prompt = ModelSpec::read(&directory).unwrap().include_prompt;
            let known = |case: &Case| !case.token_ids.is_empty() && (includes_prompt || case.prompt_length.is_some());
            reference.cases.retain(known);
            if !reference.cases.is_empty() {
                models.push(Model { directory, reference, measured });
            }
        }
    }
    assert!(measured.is_empty(), "these are measured and not there: {measured:?}");
    models
}

/// Largest difference of a component between two vectors scaled to unit length.
fn difference(one: &[f32], other: &[f32]) -> f64 {
    assert_eq!(one.len(), other.len());
    let length = |vector: &[f32]| vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    // A static model's vector of a text without tokens has no direction.
    let (a, b) = (length(one).max(f64::MIN_POSITIVE), length(other).max(f64::MIN_POSITIVE));
    one.iter().zip(other).map(|(x, y)| (f64::from(*x) / a - f64::from(*y) / b).abs()).fold(0.0, f64::max)
}

/// Largest difference of a weight, over the weight where that is more than 1.
fn difference_of_weights(found: &BTreeMap<u32, f32>, expected: &BTreeMap<u32, f32>) -> f64 {
    let weight = |weights: &BTreeMap<u32, f32>, token| f64::from(weights.get(token).copied().unwrap_or_default());
    let one = |token| (weight(found, token) - weight(expected, token)).abs() / weight(expected, token).max(1.0);
    found.keys().chain(expected.keys()).map(one).fold(0.0, f64::max)
}

impl Expected {
    /// The reference library makes nothing of a text without tokens.
    fn is_known(&self) -> bool {
        self.dense.is_some() || self.sparse.is_some() || self.multi.is_some()
    }

    /// Takes the differences of what was found at a place into account.
    fn compare(&self, found: &Embeddings, place: usize, worst: &mut Costs) {
        let mut take = |kind: &str, difference: f64| {
            let worst = worst.entry(kind.to_owned()).or_default();
            *worst = worst.max(difference);
        };
        if let Some(expected) = &self.dense {
            let vector = found.rows().nth(place).unwrap();
            assert!(vector.iter().all(|component| component.is_finite()), "a vector is not finite");
            take("dense", difference(vector, expected));
        }
        if let Some(expected) = &self.sparse {
            let vector = &found.sparse.as_ref().unwrap()[place];
            assert!(vector.values.iter().all(|weight| weight.is_finite()), "a weight is not finite");
            let found = vector.indices.iter().copied().zip(vector.values.iter().copied()).collect();
            take("sparse", difference_of_weights(&found, expected));
        }
        if let Some(expected) = &self.multi {
            let multi = found.multi.as_ref().unwrap();
            let (found, expected) = (&multi.texts[place], expected.concat());
            assert_eq!(found.len(), expected.len(), "vectors of tokens");
            assert!(found.iter().all(|component| component.is_finite()), "a vector is not finite");
            let differences = found.iter().zip(&expected).map(|(x, y)| f64::from((x - y).abs()));
            take("multi", differences.fold(0.0, f64::max));
        }
    }
}

/// Largest differences of all texts of a model, each case as one batch.
fn worst(directory: &Path, cases: &[Case], numbers: Numbers) -> Costs {
    let spec = ModelSpec::read(directory).unwrap();
    let all: Vec<VectorKind> = spec.widths().kinds().collect();
    let weights = Weights::of(&spec, &all).unwrap();
    let lease = Lease::shared([DeviceKey::of_slot(0)]);
    let device = lease.devices().next().unwrap();
    let heads = HeadOptions { kinds: &all, instructions: Instructions::default() };
    let mut encoders = encoder::load_on(&spec, &weights, heads, vec![(device, backend(numbers))]).unwrap();
    let mut worst = Costs::new();
    for case in cases {
        let expected = case.expected();
        let some = |has: fn(&Expected) -> bool, kind| expected.iter().any(has).then_some(kind);
        let kinds = [
            some(|expected| expected.dense.is_some(), VectorKind::Dense),
            some(|expected| expected.sparse.is_some(), VectorKind::Sparse),
            some(|expected| expected.multi.is_some(), VectorKind::Multi),
        ];
        let profile = Profile {
            left_out: if spec.include_prompt { 0 } else { case.prompt_length.unwrap_or(0) },
            normalize: case.normalize.unwrap_or(spec.normalize),
            truncate_dim: case.truncate_dim,
            kinds: kinds.into_iter().flatten().collect(),
            role: if case.task.as_deref() == Some("query") { TextRole::Query } else { TextRole::Document },
            ..Profile::default()
        };
        let known: Vec<usize> = (0..expected.len()).filter(|&text| expected[text].is_known()).collect();
        let sequences: Vec<TokenSeq> = known.iter().map(|&text| case.sequence(text)).collect();
        let found = encoders[0].encode(&PackedBatch::of(&sequences), &profile).unwrap();
        for (place, &text) in known.iter().enumerate() {
            expected[text].compare(&found, place, &mut worst);
        }
    }
    worst
}

/// Checks every model of which is known what it may lose: at least so many, with each kind of vectors.
#[track_caller]
fn check(numbers: Numbers, least: usize) {
    let (mut faults, mut checked, mut kinds) = (Vec::new(), 0, BTreeMap::<String, usize>::new());
    for model in &models() {
        let name = model.directory.file_name().unwrap().to_string_lossy();
        let Some((cases, costs)) = model.cases(numbers) else {
            println!("{name} in {numbers}: not measured with PyTorch, left out");
            continue;
        };
        for (kind, worst) in worst(&model.directory, cases, numbers) {
            let allowed =
                2.0 * costs.get(&kind).unwrap_or_else(|| panic!("{name}: {kind} in {numbers} was not measured"));
            println!("{name}, {kind} in {numbers}: {worst:.1e} of {allowed:.1e}");
            if worst > allowed {
                faults.push(format!("{name}, {kind}, differs by {worst:.1e}, more than {allowed:.1e}"));
            }
            *kinds.entry(kind).or_default() += 1;
        }
        checked += 1;
    }
    assert!(faults.is_empty(), "in {numbers}:\n{}", faults.join("\n"));
    assert!(checked >= least, "only {checked} models");
    let of_kind = |kind| kinds.get(kind).copied().unwrap_or_default();
    assert!(of_kind("sparse") >= 4 && of_kind("multi") >= 3, "not all kinds of vectors: {kinds:?}");
}

#[test]
fn padding_changes_nothing_in_f32() {
    check(Numbers::F32, 30);
}

#[test]
fn f16_costs_no_more_than_twice_what_it_costs_pytorch() {
    check(Numbers::F16, 30);
}

/// Turing has no bf16, and says so.
#[test]
fn bf16_costs_no_more_than_twice_what_it_costs_pytorch() {
    match gpu().map(|gpu| gpu.check(Numbers::Bf16)) {
        Some(Err(refused)) => println!("not computed: {refused}"),
        _ => check(Numbers::Bf16, 30),
    }
}
