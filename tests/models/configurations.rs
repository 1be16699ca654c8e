//! Keys of `config.json` beside the common ones: each is honoured as the reference library honours it, or refused.
//!
//! A copy of a fixture says the same in other words, and must still give the vectors of its `reference.json`; or it says
//! something else, and must not.

use std::fs;
use std::path::Path;

use crate::program::{Finished, Program, copy_of};
use serde_json::{Map, Value, json};

/// `models verify` of a fixture whose `config.json` has other values under some keys; null takes a key away.
fn verify(model: &str, changes: &Value) -> Finished {
    let directory = copy_of(&format!("tests/fixtures/models/{model}"));
    let path = directory.path().join("config.json");
    let mut config: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            config.remove(key).unwrap();
        } else {
            config.insert(key.clone(), value.clone());
        }
    }
    fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
    models_verify(directory.path())
}

fn models_verify(directory: &Path) -> Finished {
    Program::bare().arguments(&["models", "verify", directory.to_str().unwrap()]).run()
}

/// Still the vectors of the reference.
#[track_caller]
fn check_same(model: &str, changes: &Value) {
    let finished = verify(model, changes);
    assert_eq!(finished.exit_code, 0, "{model} {changes}: {}\n{}", finished.stdout, finished.stderr);
}

/// Not used, with a message that has these words.
#[track_caller]
fn check_refused(model: &str, changes: &Value, words: &[&str]) {
    let finished = verify(model, changes);
    assert_eq!(finished.exit_code, 5, "{model} {changes}: {}", finished.stdout);
    for word in words {
        assert!(finished.stderr.contains(word), "{model} {changes}: {word:?} is not in {}", finished.stderr);
    }
}

/// Used, and other vectors.
#[track_caller]
fn check_other(model: &str, changes: &Value) {
    check_refused(model, changes, &["differ"]);
}

#[test]
fn a_window_of_a_modernbert_is_given_by_one_side_or_by_both() {
    check_same("modernbert-cls", &json!({"sliding_window": 5, "local_attention": 2}));
    check_other("modernbert-cls", &json!({"sliding_window": 4}));
}

#[test]
fn layers_of_a_mistral_may_have_types() {
    let types = |name: &str| json!({"layer_types": vec![name; LAYERS_OF_MISTRAL]});
    check_same("mistral-window", &types("sliding_attention"));
    check_other("mistral-window", &types("full_attention"));
    check_refused("mistral-window", &json!({"layer_types": ["full_attention"]}), &["layer_types", "num_hidden_layers"]);
}

const LAYERS_OF_MISTRAL: usize = 2;

#[test]
fn a_distilbert_may_have_its_sizes_under_the_names_of_all_others() {
    let aliased = json!({"n_layers": null, "num_hidden_layers": 2, "n_heads": 7, "num_attention_heads": 4});
    check_same("distilbert-dense", &aliased);
    check_other("distilbert-dense", &json!({"num_hidden_layers": 1}));
}

#[test]
fn the_padding_token_of_an_mpnet_is_not_read_from_the_configuration() {
    check_same("mpnet-bias", &json!({"pad_token_id": 7}));
}

#[test]
fn biases_of_nomics_own_code_are_there_unless_the_configuration_says_otherwise() {
    let finished = verify("nomic-bert-rotary", &json!({"qkv_proj_bias": null}));
    assert_eq!(finished.exit_code, 5, "{}", finished.stdout);
    assert!(finished.stderr.contains("Wqkv.bias"), "{}", finished.stderr);
}

#[test]
fn what_would_change_the_vectors_and_is_not_implemented_is_refused() {
    for model in ["bert-minilm", "roberta-mean", "electra-factorized", "modernbert-cls", "t5-dense", "gte-fused"] {
        check_refused(model, &json!({"is_causal": true}), &["is_causal"]);
        check_same(model, &json!({"is_causal": false}));
    }
    check_same("mpnet-bias", &json!({"is_causal": true}));
    check_refused("t5-dense", &json!({"dense_act_fn": "silu"}), &["dense_act_fn", "feed_forward_proj"]);
    let scaled = json!({"rope_scaling": {"type": "linear", "factor": 2.0}});
    for model in ["modernbert-cls", "gemma3-bidirectional"] {
        check_refused(model, &scaled, &["rope_scaling", "rope_type"]);
    }
    let code = json!({"auto_map": {"AutoModel": "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel"}});
    check_refused("jina-bert-alibi", &code, &["qk-post-norm"]);
    check_refused("jina-v3-rotary", &json!({"lora_adaptations": ["retrieval.query"]}), &["lora_adaptations"]);
}

#[test]
fn code_for_other_uses_than_embedding_is_no_obstacle() {
    check_same("bert-minilm", &json!({"auto_map": {"AutoModelForCausalLM": "x.Y"}}));
    check_refused("bert-minilm", &json!({"auto_map": {"AutoModel": "x.Y"}}), &["auto_map"]);
}
