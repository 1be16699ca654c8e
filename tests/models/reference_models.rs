//! Tiny checkpoints against what the reference library computes for them: token ids, counts and vectors.
//!
//! Each directory of `tests/fixtures/models` holds a random model in the layout of a real one and a `reference.json`
//! with the outputs of sentence-transformers for it. Every backend of the processor must give them; where `EMBED_TEST_GPU`
//! names the UUID of a GPU, that GPU must.

mod second_opinion;
mod subject;

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use embed_collections::model::spec::ModelSpec;
use embed_collections::nn::cpu::Instructions;
use embed_collections::nn::{Backend, Candle, Cpu, Gpu, Numbers};
use serde::Deserialize;
use serde_json::Value;

use self::subject::{ON_GPU, ON_PROCESSOR, Subject, Worst};

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    #[serde(default)]
    texts: Vec<String>,
    /// What the scores of the case are for.
    queries: Option<Vec<String>>,
    /// "query" or "document", for models that treat them differently.
    task: Option<String>,
    prompt_name: Option<String>,
    prompt: Option<String>,
    max_length: Option<usize>,
    truncate_dim: Option<usize>,
    normalize: Option<bool>,
    token_ids: Option<Vec<Vec<u32>>>,
    full_token_counts: Option<Vec<usize>>,
    /// 0 for tokens that none sees.
    attention_mask: Option<Vec<Vec<u32>>>,
    /// A vector a text, or a list of vectors. None where the text has no token, which the reference library refuses.
    embeddings: Option<Vec<Option<Value>>>,
    /// Weights by token.
    sparse: Option<Vec<BTreeMap<String, f32>>>,
    /// A list of vectors a text, for some texts.
    colbert: Option<Vec<Option<Value>>>,
    /// [queries, texts].
    maxsim: Option<Vec<Vec<f64>>>,
}

#[track_caller]
fn check(model: &str) {
    check_directory(&Path::new("tests/fixtures/models").join(model));
}

#[track_caller]
fn check_directory(directory: &Path) {
    if let Some(gpu) = &*GPU {
        // One thread at a time uses it; after one that failed, others may.
        let gpu = gpu.lock().unwrap_or_else(PoisonError::into_inner);
        return check_on(directory, ON_GPU, || Candle::on(&gpu, Numbers::F32).unwrap());
    }
    for set in [Instructions::Avx512, Instructions::Avx2, Instructions::Portable] {
        check_on(directory, ON_PROCESSOR, || Cpu::with_instructions(set));
    }
    check_on(directory, ON_PROCESSOR, Candle::cpu);
}

static GPU: LazyLock<Option<Mutex<Gpu>>> =
    LazyLock::new(|| std::env::var("EMBED_TEST_GPU").ok().map(|uuid| Mutex::new(Gpu::cuda(&uuid).unwrap())));

/// What a directory beside the fixtures differs by, or why it cannot be checked.
fn fault(directory: &Path) -> Option<String> {
    let checked = catch_unwind(|| check_directory(directory));
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
fn check_on<B: Backend>(directory: &Path, tolerance: f64, backend: impl Fn() -> B) {
    let model = directory.file_name().unwrap().to_string_lossy();
    let path = directory.join("reference.json");
    let reference: Reference = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(!reference.cases.is_empty());
    let spec = ModelSpec::read(directory).unwrap();
    let subject = Subject::new(&spec, tolerance, &backend);
    let mut worst = Worst::default();
    for case in &reference.cases {
        subject.check(case, &format!("{model}, {}", case.name), &mut worst);
    }
    println!("{model} on {}: {worst}", std::any::type_name::<B>());
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
fn splade_models_of_every_head_are_true_to_their_references() {
    check("splade-mlm");
    check("splade-distilbert");
    check("splade-roberta");
    check("splade-mpnet");
    check("splade-electra");
    check("splade-albert");
    check("splade-deberta");
    check("splade-gte");
    check("splade-modernbert");
}

#[test]
fn documents_take_their_own_way_through_a_router() {
    check("splade-router");
}

#[test]
fn the_three_heads_of_a_bge_m3_are_true_to_their_reference() {
    check("xlmr-bin-heads");
}

#[test]
fn colberts_of_both_layouts_are_true_to_their_references() {
    check("colbert-pylate");
    check("colbert-modernbert");
    check("colbert-stanford");
}

#[test]
fn static_models_of_both_layouts_are_true_to_their_references() {
    check("static-model2vec");
    check("static-st");
}

/// Models without special tokens have such texts, and a batch may have no others.
#[test]
fn texts_without_a_token_are_the_same_on_every_backend() {
    for model in [
        "static-st",
        "bert-minilm",
        "qwen2-bias",
        "gemma3-bidirectional",
        "t5-dense",
        "deberta-v2",
        "xlmr-bin-heads",
        "splade-mlm",
    ] {
        let spec = ModelSpec::read(&Path::new("tests/fixtures/models").join(model)).unwrap();
        let expected = Subject::new(&spec, ON_PROCESSOR, &Cpu::new).of_no_tokens();
        let weights = expected.sparse.as_ref().map_or(0, Vec::len);
        assert!(expected.rows().len() == 2 || weights == 2, "{model}");
        if let Some(gpu) = &*GPU {
            let gpu = gpu.lock().unwrap_or_else(PoisonError::into_inner);
            let found = Subject::new(&spec, ON_GPU, &|| Candle::on(&gpu, Numbers::F32).unwrap()).of_no_tokens();
            assert_eq!(found, expected, "{model}");
        }
        assert_eq!(Subject::new(&spec, ON_PROCESSOR, &Candle::cpu).of_no_tokens(), expected, "{model}");
    }
}
