//! Models as GPUs compute them, on the processor: f16 and bf16, sequences of several lengths padded together. What lower
//! precision costs a model was measured with torch (`scripts/measure_half_precision.py`); twice that is allowed.
//!
//! `REFERENCE_MODELS` names a directory of more models, as in `reference_models.rs`; `EMBED_TEST_GPU` the UUID of a GPU on
//! which all is computed in place of the processor.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use embed_collections::domain::{PackedBatch, VectorKind};
use embed_collections::encoder::{self, Finish};
use embed_collections::lease::{DeviceKey, Lease};
use embed_collections::model::spec::ModelSpec;
use embed_collections::model::weights::Weights;
use embed_collections::nn::{Candle, Gpu, Grouping, Numbers};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    runner: String,
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
    #[serde(default)]
    embeddings: Vec<Option<Vec<f32>>>,
}

/// What f32 costs however sequences are brought together, as in `reference_models.rs`.
const F32_COST: f64 = 1e-6;

/// The same on a GPU, whose library adds up in another order.
const F32_COST_ON_GPU: f64 = 5e-6;

/// A model, and what is known of it.
struct Model {
    directory: PathBuf,
    reference: Reference,
    /// What f16 and bf16 cost torch in all cases: largest difference of a component by the name of the numbers.
    measured: Option<BTreeMap<String, f64>>,
}

impl Model {
    /// The cases that can be compared in these numbers, and what may be lost; none where nobody knows that.
    fn cases(&self, numbers: Numbers) -> Option<(&[Case], f64)> {
        let Self { reference: Reference { cases, other_dtypes, .. }, measured, .. } = self;
        let name = numbers.to_string();
        match (numbers, measured) {
            (Numbers::F32, _) => Some((cases, if gpu().is_some() { F32_COST_ON_GPU } else { F32_COST })),
            (_, Some(measured)) => Some((cases, *measured.get(&name)?)),
            (_, None) => Some((&cases[..1], other_dtypes.get(&name)?.max_abs_diff?)),
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

/// The models with one vector a text.
fn models() -> Vec<Model> {
    let text = fs::read("tests/fixtures/half_precision.json").unwrap();
    let mut measured: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_slice(&text).unwrap();
    let mut models = Vec::new();
    let elsewhere = std::env::var_os("REFERENCE_MODELS").map(PathBuf::from);
    for root in [Some("tests/fixtures/models".into()), elsewhere].into_iter().flatten() {
        let entries = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap());
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        for name in names {
            let directory = root.join(&name);
            let Ok(text) = fs::read(directory.join("reference.json")) else { continue };
            // Other kinds of vectors are written otherwise.
            let Ok(mut reference) = serde_json::from_slice::<Reference>(&text) else { continue };
            let measured = measured.remove(&name);
            if !["sentence_transformers", "own_forward"].contains(&reference.runner.as_str()) {
                continue;
            }
            // Where a prompt is left out of pooling and its length is not written down, the tokenizer must say it:
            // `reference_models.rs` asks it.
            let includes_prompt = ModelSpec::read(&directory).unwrap().include_prompt;
            reference.cases.retain(|case| includes_prompt || case.prompt_length.is_some());
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

/// Largest difference of all texts of a model, each case as one batch.
fn worst(directory: &Path, cases: &[Case], numbers: Numbers) -> f64 {
    let spec = ModelSpec::read(directory).unwrap();
    let weights = Weights::of(&spec, &[VectorKind::Dense]).unwrap();
    let lease = Lease::shared([DeviceKey::of_slot(0)]);
    let device = lease.devices().next().unwrap();
    let mut worst: f64 = 0.0;
    for case in cases {
        let finish = Finish {
            left_out: if spec.include_prompt { 0 } else { case.prompt_length.unwrap_or(0) },
            normalize: case.normalize.unwrap_or(spec.normalize),
            truncate_dim: case.truncate_dim,
            ..Finish::default()
        };
        let mut encoders = encoder::load_on(&spec, &weights, finish, vec![(device, backend(numbers))]).unwrap();
        let pairs =
            case.token_ids.iter().zip(&case.embeddings).filter_map(|(ids, vector)| Some((ids, vector.as_ref()?)));
        let (sequences, expected): (Vec<&Vec<u32>>, Vec<&Vec<f32>>) = pairs.unzip();
        let found = encoders[0].encode(&PackedBatch::new(sequences.into_iter().map(Vec::as_slice))).unwrap();
        assert!(found.values.iter().all(|component| component.is_finite()), "a vector is not finite");
        assert_eq!(found.rows().len(), expected.len());
        worst = found.rows().zip(expected).map(|(found, expected)| difference(found, expected)).fold(worst, f64::max);
    }
    worst
}

/// Checks every model of which is known what it may lose: at least so many.
#[track_caller]
fn check(numbers: Numbers, least: usize) {
    let (mut faults, mut checked) = (Vec::new(), 0);
    for model in &models() {
        let name = model.directory.file_name().unwrap().to_string_lossy();
        let Some((cases, cost)) = model.cases(numbers) else {
            println!("{name} in {numbers}: not measured with PyTorch, left out");
            continue;
        };
        let (worst, allowed) = (worst(&model.directory, cases, numbers), 2.0 * cost);
        println!("{name} in {numbers}: {worst:.1e} of {allowed:.1e}");
        if worst > allowed {
            faults.push(format!("{name} differs by {worst:.1e}, more than {allowed:.1e}"));
        }
        checked += 1;
    }
    assert!(faults.is_empty(), "in {numbers}:\n{}", faults.join("\n"));
    assert!(checked >= least, "only {checked} models");
}

#[test]
fn padding_changes_nothing_in_f32() {
    check(Numbers::F32, 20);
}

#[test]
fn f16_costs_no_more_than_twice_what_it_costs_pytorch() {
    check(Numbers::F16, 15);
}

/// Turing has no bf16, and says so.
#[test]
fn bf16_costs_no_more_than_twice_what_it_costs_pytorch() {
    match gpu().map(|gpu| gpu.check(Numbers::Bf16)) {
        Some(Err(refused)) => println!("not computed: {refused}"),
        _ => check(Numbers::Bf16, 15),
    }
}
