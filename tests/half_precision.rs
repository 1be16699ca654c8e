//! Models as GPUs compute them, on the processor: f16 and bf16, sequences of several lengths padded together. What lower
//! precision costs is known of the reference library; twice that is allowed.
//!
//! `REFERENCE_MODELS` names a directory of more models, as in `reference_models.rs`; `EMBED_TEST_GPU` the UUID of a GPU on
//! which all is computed in place of the processor.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at the first surprise")]

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
    /// What other precisions cost the reference library.
    other_dtypes: Option<OtherDtypes>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct OtherDtypes {
    f16: Cost,
    bf16: Cost,
}

#[derive(Deserialize)]
struct Cost {
    max_abs_diff: f64,
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

/// What f16 and bf16 cost the reference library at most, of all models where that was measured.
const F16_COST: f64 = 0.0018;
const BF16_COST: f64 = 0.0098;

fn cost(reference: &Reference, numbers: Numbers) -> f64 {
    match (numbers, &reference.other_dtypes) {
        (Numbers::F32, _) if gpu().is_some() => F32_COST_ON_GPU,
        (Numbers::F32, _) => F32_COST,
        (Numbers::F16, Some(own)) => own.f16.max_abs_diff,
        (Numbers::Bf16, Some(own)) => own.bf16.max_abs_diff,
        (Numbers::F16, None) => F16_COST,
        (Numbers::Bf16, None) => BF16_COST,
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

/// The directories of models with one vector a text.
fn models() -> Vec<(PathBuf, Reference)> {
    let roots = [Some("tests/fixtures/models".into()), std::env::var_os("REFERENCE_MODELS").map(PathBuf::from)];
    let entries = roots.into_iter().flatten().flat_map(|root: PathBuf| fs::read_dir(root).unwrap());
    let mut models = Vec::new();
    for directory in entries.map(|entry| entry.unwrap().path()) {
        let Ok(text) = fs::read(directory.join("reference.json")) else { continue };
        // Other kinds of vectors are written otherwise.
        let Ok(reference) = serde_json::from_slice::<Reference>(&text) else { continue };
        if ["sentence_transformers", "own_forward"].contains(&reference.runner.as_str()) {
            models.push((directory, reference));
        }
    }
    models.sort_by(|one, other| one.0.cmp(&other.0));
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
fn worst(directory: &Path, reference: &Reference, numbers: Numbers) -> f64 {
    let spec = ModelSpec::read(directory).unwrap();
    let weights = Weights::of(&spec, &[VectorKind::Dense]).unwrap();
    let lease = Lease::shared([DeviceKey::of_slot(0)]);
    let device = lease.devices().next().unwrap();
    let mut worst: f64 = 0.0;
    for case in &reference.cases {
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

#[track_caller]
fn check(numbers: Numbers) {
    let mut faults = Vec::new();
    let models = models();
    assert!(models.len() > 20, "only {} models", models.len());
    for (directory, reference) in &models {
        let name = directory.file_name().unwrap().to_string_lossy();
        let (worst, allowed) = (worst(directory, reference, numbers), 2.0 * cost(reference, numbers));
        println!("{name} in {numbers}: {worst:.1e} of {allowed:.1e}");
        if worst > allowed {
            faults.push(format!("{name} differs by {worst:.1e}, more than {allowed:.1e}"));
        }
    }
    assert!(faults.is_empty(), "in {numbers}:\n{}", faults.join("\n"));
}

#[test]
fn padding_changes_nothing_in_f32() {
    check(Numbers::F32);
}

#[test]
fn f16_costs_no_more_than_twice_what_it_costs_the_reference() {
    check(Numbers::F16);
}

/// Turing has no bf16, and says so.
#[test]
fn bf16_costs_no_more_than_twice_what_it_costs_the_reference() {
    match gpu().map(|gpu| gpu.check(Numbers::Bf16)) {
        Some(Err(refused)) => println!("not computed: {refused}"),
        _ => check(Numbers::Bf16),
    }
}
