//! Tiny checkpoints against what the reference library computes for them: token ids, counts and vectors.
//!
//! Each directory of `tests/fixtures/models` holds a random model in the layout of a real one and a `reference.json`
//! with the outputs of sentence-transformers for it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at the first surprise")]

use std::any::Any;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use embed_collections::domain::{PackedBatch, TokenSeq};
use embed_collections::encoder::{self, Encoder, Finish};
use embed_collections::lease::{DeviceKey, Lease};
use embed_collections::model::spec::{ModelSpec, PromptChoice};
use embed_collections::model::weights::Weights;
use embed_collections::nn::cpu::Instructions;
use embed_collections::nn::{Backend, Candle, Cpu};
use embed_collections::tokenize::Tokenizer;
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    texts: Vec<String>,
    prompt_name: Option<String>,
    prompt: Option<String>,
    max_length: Option<usize>,
    truncate_dim: Option<usize>,
    normalize: Option<bool>,
    token_ids: Vec<Vec<u32>>,
    full_token_counts: Vec<usize>,
    /// None where the text has no token, which the reference library refuses.
    embeddings: Vec<Option<Vec<f32>>>,
}

/// Largest difference of a component between unit vectors. The reference itself differs from its own f64 run by up to
/// 4e-7; the wrong kind of GELU would differ by 5e-5, a wrong epsilon of a norm by 1e-5.
const TOLERANCE: f64 = 2e-6;

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

fn encode(encoder: &mut dyn Encoder, sequences: &[TokenSeq]) -> Vec<Vec<f32>> {
    let batch = PackedBatch::new(sequences.iter().map(|sequence| sequence.ids.as_slice()));
    let vectors = encoder.encode(&batch).unwrap();
    // The largest of some differences passes over those that are not numbers.
    assert!(vectors.values.iter().all(|component| component.is_finite()), "a vector is not finite");
    vectors.rows().map(<[f32]>::to_vec).collect()
}

#[track_caller]
fn check(model: &str) {
    for set in [Instructions::Avx512, Instructions::Avx2, Instructions::Portable] {
        check_on(model, || Cpu::with_instructions(set));
    }
    check_on(model, Candle::cpu);
}

/// What a directory beside the fixtures differs by, or why it cannot be checked.
fn fault(directory: &Path) -> Option<String> {
    let checked = catch_unwind(|| {
        for set in [Instructions::Avx512, Instructions::Avx2, Instructions::Portable] {
            check_directory(directory, || Cpu::with_instructions(set));
        }
        check_directory(directory, Candle::cpu);
    });
    let message = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast::<&str>().map_or_else(|_| "it panicked".to_owned(), |text| (*text).to_owned()),
    };
    checked.err().map(message)
}

/// Checks every directory in the one that `REFERENCE_MODELS` names, except those whose names `REFERENCE_MODELS_SKIP`
/// lists (separated by commas): more shapes and architectures than a repository should hold.
#[test]
fn every_model_of_another_directory_is_true_to_its_reference() {
    let Some(root) = std::env::var_os("REFERENCE_MODELS") else {
        println!("skipped: REFERENCE_MODELS names no directory of models");
        return;
    };
    let left_out = std::env::var("REFERENCE_MODELS_SKIP").unwrap_or_default();
    let left_out: Vec<&str> = left_out.split(',').filter(|name| !name.is_empty()).collect();
    let mut directories: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.retain(|directory| directory.join("reference.json").exists());
    directories.sort();
    assert!(!directories.is_empty(), "no directory there has a reference.json");
    let mut faults = Vec::new();
    for directory in directories {
        let name = directory.file_name().unwrap().to_string_lossy();
        if left_out.contains(&name.as_ref()) {
            println!("{name}: left out");
        } else if let Some(fault) = fault(&directory) {
            faults.push(format!("{name}: {fault}"));
        }
    }
    assert!(faults.is_empty(), "{} differ:\n{}", faults.len(), faults.join("\n"));
}

#[track_caller]
fn check_on<B: Backend>(model: &str, backend: impl Fn() -> B) {
    check_directory(&Path::new("tests/fixtures/models").join(model), backend);
}

#[track_caller]
fn check_directory<B: Backend>(directory: &Path, backend: impl Fn() -> B) {
    let model = directory.display();
    let reference: Reference = serde_json::from_slice(&fs::read(directory.join("reference.json")).unwrap()).unwrap();
    let spec = ModelSpec::read(directory).unwrap();
    let weights = Weights::of(&spec).unwrap();
    assert!(!reference.cases.is_empty());
    let lease = Lease::shared([DeviceKey::of_slot(0)]);
    let device = lease.devices().next().unwrap();
    let mut worst: f64 = 0.0;
    for case in reference.cases {
        let choice = match (case.prompt, case.prompt_name) {
            (Some(text), _) => PromptChoice::Text(text),
            (None, Some(name)) => PromptChoice::Named(name),
            // The reference was made with `encode`, which knows no prompt for documents, only a default one.
            (None, None) => match &spec.default_prompt_name {
                Some(name) => PromptChoice::Named(name.clone()),
                None => PromptChoice::Text(String::new()),
            },
        };
        let prompt = spec.prompt(&choice).unwrap().text;
        let max_length = case.max_length.unwrap_or(spec.max_length);
        let tokenizer = Tokenizer::of(&spec, max_length, prompt).unwrap();
        let left_out = if spec.include_prompt { 0 } else { tokenizer.prompt_tokens().unwrap() };
        let sequences: Vec<TokenSeq> = case.texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        for (index, sequence) in sequences.iter().enumerate() {
            let text = &case.texts[index];
            assert_eq!(sequence.ids, case.token_ids[index], "{model}, {}: ids of {text:?}", case.name);
            let full_count = sequence.ids.len() + sequence.truncated as usize;
            assert_eq!(full_count, case.full_token_counts[index], "{model}, {}: tokens of {text:?}", case.name);
        }
        let finish =
            Finish { left_out, normalize: case.normalize.unwrap_or(spec.normalize), truncate_dim: case.truncate_dim };
        let mut encoders = encoder::load_on(&spec, &weights, finish, vec![(device, backend())]).unwrap();
        let (sequences, expected): (Vec<TokenSeq>, Vec<Vec<f32>>) = sequences
            .into_iter()
            .zip(case.embeddings)
            .filter_map(|(sequence, vector)| Some((sequence, vector?)))
            .unzip();
        let together = encode(encoders[0].as_mut(), &sequences);
        for (index, sequence) in sequences.iter().enumerate() {
            let alone = encode(encoders[0].as_mut(), std::slice::from_ref(sequence)).remove(0);
            for vector in [&together[index], &alone] {
                let difference = difference(vector, &expected[index]);
                let name = &case.name;
                assert!(difference < TOLERANCE, "{model}, {name}: vector {index} differs by {difference:e}");
                worst = worst.max(difference);
            }
            // Where the model does not normalise, the length is part of the result as well.
            let length = |vector: &[f32]| vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let ratio = if length(&expected[index]) == 0.0 { 1.0 } else { length(&alone) / length(&expected[index]) };
            assert!((ratio - 1.0).abs() < 1e-5, "{model}, {}: lengths differ by {ratio}", case.name);
        }
    }
    println!("{model} on {}: largest difference {worst:.1e}", std::any::type_name::<B>());
}

#[test]
fn a_bert_with_mean_pooling_is_true_to_its_reference() {
    check("bert-minilm");
}

#[test]
fn a_bert_with_cls_pooling_and_prompts_is_true_to_its_reference() {
    check("bert-bge");
}

#[test]
fn a_bert_with_four_poolings_is_true_to_its_reference() {
    check("bert-poolings");
}

#[test]
fn a_bert_without_modules_in_bf16_is_true_to_its_reference() {
    check("bert-plain");
}

#[test]
fn a_bert_in_f16_with_a_default_prompt_is_true_to_its_reference() {
    check("bert-short");
}

#[test]
fn a_dense_layer_after_pooling_is_true_to_its_reference() {
    check("distilbert-dense");
}

#[test]
fn a_prompt_that_is_read_and_not_pooled_is_true_to_its_reference() {
    check("roberta-noprompt");
}

#[test]
fn weights_in_a_file_of_pytorch_are_true_to_their_reference() {
    check("xlmr-bin-heads");
}

#[test]
fn a_dense_layer_before_the_scaling_is_true_to_its_reference() {
    check("t5-dense");
}

#[test]
fn a_qwen2_is_true_to_its_reference() {
    check("qwen2-bias");
}

#[test]
fn a_qwen3_in_shards_is_true_to_its_reference() {
    check("qwen3-sharded");
}

#[test]
fn a_llama_is_true_to_its_reference() {
    check("llama-grouped");
}

#[test]
fn a_mistral_with_a_window_is_true_to_its_reference() {
    check("mistral-window");
}

#[test]
fn a_gemma_that_sees_both_directions_is_true_to_its_reference() {
    check("gemma3-bidirectional");
}

#[test]
fn static_models_of_both_layouts_are_true_to_their_references() {
    check("static-model2vec");
    check("static-st");
}
