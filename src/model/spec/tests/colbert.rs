//! `ColBERT` models as they are found, and what becomes of their queries and documents.

use super::*;

const LIBRARY: &str = "config_sentence_transformers.json";
const SENTENCE: &str = "sentence_bert_config.json";

/// A model as `PyLate` saves it, without a word of what it is.
fn pylate() -> Directory {
    let directory = Directory::new();
    directory.modules(&["Transformer", "pylate.models.Dense.Dense"]);
    let dense = json!({"in_features": 8, "out_features": 4, "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity"});
    directory.json("1_pylate.models.Dense.Dense/config.json", &dense);
    directory.write("1_pylate.models.Dense.Dense/model.safetensors", "");
    let vocabulary = json!({"[UNK]": 0, "[MASK]": 1, "!": 2, "the": 3, "[PAD]": 4});
    let normalizer = json!({"type": "BertNormalizer", "lowercase": true});
    let model = json!({"type": "WordPiece", "vocab": vocabulary});
    directory.json("tokenizer.json", &json!({"normalizer": normalizer, "model": model}));
    directory.json(LIBRARY, &json!({"query_prefix": "[Q] ", "document_prefix": "[D] "}));
    directory
}

/// The same in the layout of sentence-transformers, with what its files say.
fn native(sentence: &Value, mask: &Value) -> Directory {
    let directory = pylate();
    directory.modules(&["Transformer", "Dense", "MultiVectorMask", "Normalize"]);
    let dense = json!({"in_features": 8, "out_features": 4, "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity", "module_input_name": "token_embeddings"});
    directory.json("1_Dense/config.json", &dense);
    directory.write("1_Dense/model.safetensors", "");
    directory.json("2_MultiVectorMask/config.json", mask);
    directory.json("3_Normalize/config.json", &json!({"module_input_name": "token_embeddings"}));
    directory.json(LIBRARY, &json!({"model_type": "MultiVectorEncoder"}));
    directory.json(SENTENCE, sentence);
    directory
}

fn head(directory: &Directory) -> MultiHead {
    directory.read().unwrap().multi.unwrap()
}

fn query() -> PromptChoice {
    PromptChoice::Named("query".to_owned())
}

#[test]
fn a_model_of_pylate_is_one_without_a_word_of_it() {
    let directory = pylate();
    let named = |kind: Value| json!({"model_type": kind, "query_prefix": "[Q] ", "document_prefix": "[D] "});
    directory.json(LIBRARY, &named(json!("ColBERT")));
    let expected = directory.read().unwrap();
    for library in [
        json!({"query_prefix": "[Q] ", "document_prefix": "[D] "}),
        named(Value::Null),
        named(json!("SentenceTransformer")),
    ] {
        directory.json(LIBRARY, &library);
        assert_eq!(directory.read().unwrap(), expected, "{library}");
    }
    let Expansion { token, length, cuts, seen } = expected.multi.as_ref().unwrap().expansion.unwrap();
    assert_eq!((token, length, cuts, seen, expected.default_kind), (1, 32, true, false, VectorKind::Multi));
    for library in [json!({}), json!({"query_length": 9}), named(json!("SparseEncoder"))] {
        directory.json(LIBRARY, &library);
        directory.check_refused(&["modules.json"]);
    }
}

#[test]
fn a_model_with_a_pooling_is_none_whatever_prefixes_it_has() {
    let directory = Directory::new();
    directory.json(LIBRARY, &json!({"query_prefix": "[Q] "}));
    assert_eq!(directory.read().unwrap().default_kind, VectorKind::Dense);
}

#[track_caller]
fn check_filling(library: &Value, sentence: &Value, expected: Option<(usize, bool)>, longest: [usize; 2]) {
    let directory = pylate();
    let mut all = json!({"model_type": "ColBERT"});
    all.as_object_mut().unwrap().extend(library.as_object().unwrap().clone());
    directory.json(LIBRARY, &all);
    directory.json(SENTENCE, sentence);
    let spec = directory.read().unwrap();
    let found = spec.multi.as_ref().unwrap().expansion.map(|expansion| (expansion.length, expansion.seen));
    assert_eq!(found, expected, "{library} {sentence}");
    assert_eq!([TextRole::Query, TextRole::Document].map(|role| spec.longest(role)), longest, "{library} {sentence}");
}

#[test]
fn queries_are_filled_up_as_the_files_say() {
    let none = json!({});
    let fixed = json!({"strategy": "fixed", "length": 12, "attend": true});
    check_filling(&none, &none, None, [64, 64]);
    check_filling(&json!({"query_length": 9}), &none, Some((9, false)), [9, 64]);
    check_filling(&json!({"query_length": 9, "do_query_expansion": false}), &none, None, [9, 64]);
    check_filling(&json!({"query_expansion": fixed}), &none, Some((12, true)), [12, 64]);
    check_filling(&json!({"query_expansion": null, "query_length": 9}), &none, None, [9, 64]);
    // One that is null is set: the other does not count.
    let seen = json!({"attend_to_mask_tokens": true});
    check_filling(&seen, &none, Some((32, true)), [32, 64]);
    let unset = json!({"attend_to_expansion_tokens": null, "attend_to_mask_tokens": true});
    check_filling(&unset, &none, Some((32, false)), [32, 64]);
}

#[test]
fn the_transformers_own_file_goes_before_that_of_the_library() {
    let library = json!({"query_length": 9, "document_length": 40});
    check_filling(&library, &json!({"document_length": 20}), Some((9, false)), [9, 20]);
    check_filling(&library, &json!({"document_length": null}), Some((9, false)), [9, 64]);
    let own = json!({"query_expansion": {"strategy": "fixed", "length": 7}});
    check_filling(&library, &own, Some((7, false)), [7, 40]);
    check_filling(&library, &json!({"query_expansion": null}), None, [64, 40]);
}

#[test]
fn queries_may_be_filled_up_and_not_be_cut() {
    let expansion = json!({"strategy": "min", "length": 12});
    let directory = native(&json!({"query_expansion": expansion, "query_length": 30}), &json!({}));
    let spec = directory.read().unwrap();
    assert_eq!((spec.longest(TextRole::Query), head(&directory).expansion.unwrap().length), (30, 12));
    let directory = native(&json!({"query_expansion": expansion}), &json!({}));
    assert_eq!(directory.read().unwrap().longest(TextRole::Query), 64);
    let directory = native(&json!({"query_expansion": expansion, "query_length": 9}), &json!({}));
    let error = directory.read().unwrap_err().to_string();
    assert!(error.contains("query_length 9 is less than the 12 tokens"), "{error}");
}

#[test]
fn words_that_are_left_out_may_be_the_unknown_one_and_may_be_left_out_of_queries() {
    let directory = pylate();
    let words = json!(["[UNK]", "!", "nowhere"]);
    directory.json(LIBRARY, &json!({"model_type": "ColBERT", "skiplist_words": words}));
    assert_eq!(head(&directory).skipped, [0, 2]);
    for (tasks, expected) in [
        (json!(["document"]), Some(false)),
        (json!("document"), Some(false)),
        (json!(["query", "document"]), Some(true)),
        (json!(["query"]), None),
    ] {
        let directory = native(&json!({}), &json!({"skiplist_words": ["!"], "skiplist_tasks": tasks}));
        match expected {
            Some(in_queries) => assert_eq!(head(&directory).skips_in_queries, in_queries, "{tasks}"),
            None => directory.check_refused(&["2_MultiVectorMask/config.json", "skiplist_tasks"]),
        }
    }
}

#[test]
fn queries_can_be_asked_for_where_no_prompt_has_their_name() {
    let directory = pylate();
    for library in [json!({"query_prefix": null}), json!({"query_length": 9})] {
        let mut library = library;
        library["model_type"] = json!("ColBERT");
        directory.json(LIBRARY, &library);
        let spec = directory.read().unwrap();
        let prompt = spec.prompt(&query()).unwrap();
        assert_eq!((prompt.text.as_str(), spec.role(&prompt)), ("", TextRole::Query));
        let prompt = spec.prompt(&PromptChoice::Default).unwrap();
        assert_eq!((prompt.text.as_str(), spec.role(&prompt)), ("", TextRole::Document));
    }
}

#[test]
fn where_queries_would_come_out_otherwise_documents_alone_are_embedded() {
    let sizes = |kind: &str, window: usize| json!({"model_type": kind, "hidden_size": 8, "max_position_embeddings": 514, "local_attention": window});
    for (config, length, is_query_refused) in [
        (sizes("bert", 2), 32, false),
        (sizes("modernbert", 64), 32, false),
        (sizes("modernbert", 62), 32, true),
        (json!({"model_type": "modernbert", "hidden_size": 8}), 64, false),
        (json!({"model_type": "modernbert", "hidden_size": 8, "sliding_window": 9}), 9, false),
        (json!({"model_type": "modernbert", "hidden_size": 8, "sliding_window": 9}), 10, true),
        (json!({"model_type": "modernbert", "hidden_size": 8}), 65, true),
        (sizes("mpnet", 128), 32, true),
        (sizes("deberta-v2", 128), 32, true),
    ] {
        let directory = pylate();
        directory.json("config.json", &config);
        directory.json("tokenizer_config.json", &json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
        let mut library = json!({"model_type": "ColBERT", "query_length": length});
        directory.json(LIBRARY, &library);
        let spec = directory.read().unwrap();
        let refused = spec.prompt(&query()).map_err(|error| error.to_string());
        let named = |text: &str| text.contains("queries filled up with unseen tokens");
        assert_eq!(refused.as_ref().err().is_some_and(|text| named(text)), is_query_refused, "{config}");
        assert_eq!(spec.notes.iter().any(|note| named(note)), is_query_refused, "{:?}", spec.notes);
        assert!(spec.prompt(&PromptChoice::Default).is_ok(), "{config}");
        // Where all tokens see those that fill up, nothing is different.
        library["attend_to_expansion_tokens"] = json!(true);
        directory.json(LIBRARY, &library);
        assert!(directory.read().unwrap().prompt(&query()).is_ok(), "{config}");
    }
}

#[test]
fn punctuation_is_left_out_unless_the_metadata_say_something_else() {
    for (name, expected) in [("colbert-stanford", true), ("colbert-pylate", true)] {
        assert_eq!(fixture(name).multi.unwrap().skipped.is_empty(), !expected, "{name}");
    }
    let copy = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/colbert-stanford");
    for entry in std::fs::read_dir(from).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    for (metadata, is_empty) in [("{}", false), (r#"{"mask_punctuation": null}"#, true)] {
        std::fs::write(copy.path().join("artifact.metadata"), metadata).unwrap();
        let head = ModelSpec::read(copy.path()).unwrap().multi.unwrap();
        assert_eq!(head.skipped.is_empty(), is_empty, "{metadata}");
    }
}

#[test]
fn what_is_called_splade_is_what_has_the_name_itself() {
    let root = tempfile::tempdir().unwrap();
    let config = json!({"model_type": "bert", "hidden_size": 8, "architectures": ["BertForMaskedLM"]});
    let kind = |path: &str, origin: Option<&str>| {
        let directory = root.path().join(path);
        std::fs::create_dir_all(&directory).unwrap();
        let mut config = config.clone();
        config["_name_or_path"] = json!(origin);
        std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
        std::fs::write(directory.join("tokenizer.json"), "{}").unwrap();
        std::fs::write(directory.join("model.safetensors"), "").unwrap();
        let spec = ModelSpec::read(&directory).unwrap();
        assert_eq!(spec.notes.iter().filter(|note| note.contains("masked language model")).count(), 1);
        spec.default_kind
    };
    assert_eq!(kind("my-splade", None), VectorKind::Sparse);
    assert_eq!(kind("my-splade-tests/bert-base", None), VectorKind::Dense);
    assert_eq!(kind("hub/models--naver--splade-v3/snapshots/0123", None), VectorKind::Sparse);
    assert_eq!(kind("splade-cache/models--x--bert/snapshots/0123", None), VectorKind::Dense);
    assert_eq!(kind("plain", Some("naver/splade_v2_max")), VectorKind::Sparse);
    assert_eq!(kind("plain-too", Some("/home/me/splade-tests/bert/")), VectorKind::Dense);
}
