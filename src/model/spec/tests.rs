//! Directories as they are found, and each thing that is refused, by its name.

use serde_json::json;
use tempfile::TempDir;

use super::*;

fn fixture(name: &str) -> ModelSpec {
    ModelSpec::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)).unwrap()
}

/// A directory that is read without complaint, to be changed by a test.
struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        directory.json("config.json", &json!({"model_type": "bert", "hidden_size": 8, "max_position_embeddings": 64}));
        directory.modules(&["Transformer", "Pooling", "Normalize"]);
        directory.json("1_Pooling/config.json", &json!({"pooling_mode_mean_tokens": true}));
        let normalizer = json!({"type": "BertNormalizer", "lowercase": true});
        directory.json("tokenizer.json", &json!({"normalizer": normalizer}));
        directory.write("model.safetensors", "");
        directory
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn json(&self, name: &str, value: &Value) {
        self.write(name, &value.to_string());
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.path().join(name)).unwrap();
    }

    fn modules(&self, classes: &[&str]) {
        let modules = classes.iter().enumerate().map(|(index, class)| {
            let path = if index == 0 { String::new() } else { format!("{index}_{class}") };
            let class =
                if class.contains('.') { (*class).to_owned() } else { format!("sentence_transformers.models.{class}") };
            json!({"idx": index, "name": index.to_string(), "path": path, "type": class})
        });
        self.json("modules.json", &Value::Array(modules.collect()));
    }

    fn read(&self) -> Result<ModelSpec, SpecError> {
        ModelSpec::read(self.0.path())
    }

    /// The directory is refused, and the message holds all of `parts`.
    #[track_caller]
    fn check_refused(&self, parts: &[&str]) {
        let error = self.read().map(|spec| spec.config).unwrap_err();
        assert!(matches!(error, SpecError::Unsupported { .. }), "{error:?}");
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
}

/// The directory is refused once `file` holds `value`.
#[track_caller]
fn check_refused_with(file: &str, value: &Value, part: &str) {
    let directory = Directory::new();
    directory.json(file, value);
    let file_name = file.rsplit('/').next().unwrap();
    directory.check_refused(&[file_name, part]);
}

#[test]
fn a_directory_with_all_files_says_all() {
    let spec = fixture("bert-minilm");
    assert_eq!((spec.pooling, spec.normalize, spec.dimension, spec.max_length), (Pooling::Mean, true, 32, 80));
    assert_eq!((spec.prompts.len(), spec.default_prompt_name.as_deref()), (0, None));
    assert_eq!(spec.similarity.as_deref(), Some("cosine"));
    assert_eq!(spec.config["num_attention_heads"], 4);
    assert!(spec.tokenizer.ends_with("tokenizer.json") && spec.weights[0].ends_with("model.safetensors"));
    assert_eq!(spec.notes, [] as [String; 0]);

    let spec = fixture("bert-bge");
    assert_eq!((spec.pooling, spec.normalize), (Pooling::Cls, true));
    assert_eq!(spec.prompts["query"], "Represent this sentence for searching relevant passages: ");

    let spec = fixture("bert-short");
    assert_eq!((spec.normalize, spec.max_length, spec.default_prompt_name.as_deref()), (false, 24, Some("query")));
}

#[test]
fn a_directory_without_modules_is_a_mean_without_normalisation_and_says_so() {
    let spec = fixture("bert-plain");
    assert_eq!((spec.pooling, spec.normalize, spec.max_length), (Pooling::Mean, false, 77));
    assert!(spec.notes.len() == 1 && spec.notes[0].contains("no modules.json"), "{:?}", spec.notes);
}

#[test]
fn without_modules_the_prompts_and_lengths_of_sentence_transformers_do_not_apply() {
    let directory = Directory::new();
    directory.remove("modules.json");
    directory.json("sentence_bert_config.json", &json!({"max_seq_length": 9}));
    directory.json("config_sentence_transformers.json", &json!({"prompts": {"document": "d"}}));
    let spec = directory.read().unwrap();
    assert_eq!((spec.max_length, spec.prompts.len()), (64, 0));
}

#[test]
fn the_newer_spelling_of_the_same_directory_says_the_same() {
    let directory = Directory::new();
    directory.modules(&[
        "sentence_transformers.base.modules.transformer.Transformer",
        "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
        "sentence_transformers.base.modules.normalize.Normalize",
    ]);
    let pooling = "1_sentence_transformers.sentence_transformer.modules.pooling.Pooling/config.json";
    let sentence = json!({
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
        "processor_kwargs": {"model_max_length": 33},
    });
    directory.json("sentence_bert_config.json", &sentence);
    for mode in [json!("cls"), json!(["cls"])] {
        directory.json(pooling, &json!({"embedding_dimension": 8, "pooling_mode": mode, "include_prompt": true}));
        let spec = directory.read().unwrap();
        assert_eq!((spec.pooling, spec.normalize, spec.max_length), (Pooling::Cls, true, 33));
    }
}

#[test]
fn a_transformer_in_a_directory_of_its_own_is_read_from_there() {
    let directory = Directory::new();
    let root = directory.0.path();
    std::fs::create_dir(root.join("0_Transformer")).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::rename(root.join(name), root.join("0_Transformer").join(name)).unwrap();
    }
    directory.json("0_Transformer/sentence_bert_config.json", &json!({"max_seq_length": 11}));
    directory.json(
        "modules.json",
        &json!([
            {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]),
    );
    let spec = directory.read().unwrap();
    assert_eq!((spec.max_length, spec.normalize), (11, false));
    assert_eq!(spec.weights, [root.join("0_Transformer/model.safetensors")]);
}

#[test]
fn the_limit_is_what_the_files_say_and_never_more_than_there_are_positions() {
    let limit = |sentence: Option<Value>, tokenizer: Option<Value>| {
        let directory = Directory::new();
        if let Some(limit) = sentence {
            directory.json("sentence_bert_config.json", &json!({"max_seq_length": limit}));
        }
        if let Some(limit) = tokenizer {
            directory.json("tokenizer_config.json", &json!({"model_max_length": limit}));
        }
        let spec = directory.read().unwrap();
        (spec.max_length, spec.notes.len())
    };
    let unlimited = serde_json::from_str::<Value>("1000000000000000019884624838656").unwrap();
    assert_eq!(limit(None, None), (64, 0));
    assert_eq!(limit(None, Some(json!(50))), (50, 0));
    assert_eq!(limit(None, Some(json!(512))), (64, 0));
    assert_eq!(limit(None, Some(unlimited)), (64, 0));
    assert_eq!(limit(Some(json!(20)), Some(json!(10))), (20, 0));
    assert_eq!(limit(Some(Value::Null), Some(json!(10))), (10, 0));
    assert_eq!(limit(Some(json!(512)), None), (64, 1), "and says that it lowered it");
}

#[test]
fn a_limit_that_is_none_is_an_error() {
    for limit in [json!(0), json!(-1), json!("512"), json!(1.5)] {
        let directory = Directory::new();
        directory.json("sentence_bert_config.json", &json!({"max_seq_length": limit}));
        assert!(matches!(directory.read(), Err(SpecError::Invalid { .. })), "{limit}");
    }
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    for (classes, part) in [
        (&["Transformer", "Pooling", "Dense"][..], "Dense"),
        (&["Transformer", "Pooling", "Normalize", "LayerNorm"], "LayerNorm"),
        (&["Transformer", "Normalize", "Pooling"], "Normalize where Pooling"),
        (&["Transformer"], "without a Pooling"),
        (&["StaticEmbedding"], "StaticEmbedding"),
        (&["custom_st.Transformer", "Pooling"], "custom_st.Transformer"),
        (&["sentence_transformers.sparse_encoder.models.MLMTransformer", "Pooling"], "MLMTransformer"),
    ] {
        let directory = Directory::new();
        directory.modules(classes);
        directory.check_refused(&["modules.json", part]);
    }
    let config = |key: &str, value: Value| {
        let mut config = json!({"model_type": "bert", "hidden_size": 8});
        config[key] = value;
        config
    };
    check_refused_with("config.json", &config("model_type", json!("xlnet")), "xlnet");
    check_refused_with("config.json", &config("position_embedding_type", json!("relative_key")), "relative_key");
    check_refused_with("config.json", &config("is_decoder", json!(true)), "is_decoder");
    check_refused_with("config.json", &config("auto_map", json!({"AutoModel": "x.Y"})), "auto_map");
    check_refused_with("config.json", &config("quantization_config", json!({"bits": 4})), "quantization_config");
    check_refused_with("adapter_config.json", &json!({}), "adapter");
    for (key, mode) in [
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
        ("pooling_mode_lasttoken", "lasttoken"),
        ("pooling_mode_magic", "pooling_mode_magic"),
    ] {
        check_refused_with("1_Pooling/config.json", &json!({key: true}), mode);
    }
    let two = json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true});
    check_refused_with("1_Pooling/config.json", &two, "cls + mean");
    check_refused_with("1_Pooling/config.json", &json!({"pooling_mode": ["mean", "max"]}), "mean + max");
    let sparse = json!({"model_type": "SparseEncoder"});
    check_refused_with("config_sentence_transformers.json", &sparse, "SparseEncoder");
    for (key, value) in [
        ("transformer_task", json!("fill-mask")),
        ("query_expansion", json!({"a": 1})),
        ("model_args", json!({"attn": "x"})),
        ("tokenizer_args", json!({"add_prefix_space": true})),
        ("never_heard_of", json!(1)),
    ] {
        check_refused_with("sentence_bert_config.json", &json!({key: value}), key);
    }
    check_refused_with(
        "2_Normalize/config.json",
        &json!({"module_input_name": "token_embeddings"}),
        "token_embeddings",
    );
}

/// The reference library would pool each of these by the mean or the last token, and the vectors would mean nothing.
#[test]
fn without_modules_a_model_that_was_made_for_something_else_is_refused() {
    for class in ["BertForSequenceClassification", "HF_ColBERT", "BertLMHeadModel", "XForCausalLM"] {
        let directory = Directory::new();
        directory.json("config.json", &json!({"model_type": "bert", "hidden_size": 8, "architectures": [class]}));
        directory.read().unwrap();
        directory.remove("modules.json");
        directory.check_refused(&["config.json", class]);
    }
    let directory = Directory::new();
    directory.remove("modules.json");
    directory.write("artifact.metadata", "{}");
    directory.check_refused(&["artifact.metadata", "ColBERT"]);
}

#[test]
fn lower_casing_is_accepted_only_where_the_tokenizer_does_it_anyway() {
    let directory = Directory::new();
    directory.json("sentence_bert_config.json", &json!({"do_lower_case": true}));
    directory.read().unwrap();
    directory.json("tokenizer.json", &json!({"normalizer": {"type": "BertNormalizer", "lowercase": false}}));
    directory.check_refused(&["do_lower_case", "sentence_bert_config.json"]);
    directory.json("tokenizer.json", &json!({"normalizer": null}));
    directory.check_refused(&["do_lower_case"]);
}

#[test]
fn two_files_that_disagree_on_lower_case_are_refused() {
    let directory = Directory::new();
    directory.json("tokenizer_config.json", &json!({"do_lower_case": true}));
    directory.read().unwrap();
    directory.json("tokenizer_config.json", &json!({"do_lower_case": false}));
    directory.check_refused(&["tokenizer_config.json", "do_lower_case false"]);
}

#[test]
fn missing_and_broken_files_are_named() {
    for (name, part) in [
        ("config.json", "config.json is missing"),
        ("1_Pooling/config.json", "1_Pooling/config.json is missing"),
        ("tokenizer.json", "tokenizer.json is missing"),
        ("model.safetensors", "model.safetensors is missing"),
    ] {
        let directory = Directory::new();
        directory.remove(name);
        let error = directory.read().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    for name in ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json", "tokenizer_config.json"] {
        let directory = Directory::new();
        directory.write(name, "{\"a\": ");
        assert!(matches!(directory.read(), Err(SpecError::Json { path, .. }) if path.ends_with(name)), "{name}");
    }
    let directory = Directory::new();
    directory.json("1_Pooling/config.json", &json!({"word_embedding_dimension": 9}));
    assert!(directory.read().unwrap_err().to_string().contains("hidden_size"));
    directory.json("modules.json", &json!([{"path": "../x", "type": "sentence_transformers.models.Transformer"}]));
    assert!(directory.read().unwrap_err().to_string().contains("leaves the directory"));
}

#[test]
fn weights_are_one_file_or_the_shards_of_an_index_or_refused() {
    let directory = Directory::new();
    directory.remove("model.safetensors");
    directory.write("pytorch_model.bin", "");
    directory.check_refused(&["pytorch_model.bin", "safetensors"]);

    let index =
        json!({"weight_map": {"b": "model-2.safetensors", "a": "model-1.safetensors", "c": "model-2.safetensors"}});
    directory.json("model.safetensors.index.json", &index);
    directory.write("model-1.safetensors", "");
    let error = directory.read().unwrap_err();
    assert!(matches!(&error, SpecError::Missing { path, .. } if path.ends_with("model-2.safetensors")), "{error:?}");
    directory.write("model-2.safetensors", "");
    let names = ["model-1.safetensors", "model-2.safetensors"].map(|name| directory.0.path().join(name));
    assert_eq!(directory.read().unwrap().weights, names);

    directory.json("model.safetensors.index.json", &json!({"weight_map": {"a": "../x"}}));
    assert!(matches!(directory.read(), Err(SpecError::Invalid { .. })));
    directory.write("model.safetensors", "");
    assert_eq!(
        directory.read().unwrap().weights,
        [directory.0.path().join("model.safetensors")],
        "one file comes first"
    );
}

#[test]
fn the_prompt_is_the_one_asked_for_else_the_models_for_documents_else_its_default() {
    #[track_caller]
    fn check(library: &Value, choice: &PromptChoice, text: &str, origin: &PromptOrigin) {
        let directory = Directory::new();
        directory.json("config_sentence_transformers.json", library);
        let prompt = directory.read().unwrap().prompt(choice).unwrap();
        assert_eq!((prompt.text.as_str(), &prompt.origin), (text, origin), "{library}");
    }
    let model = |name: &str| PromptOrigin::Model(name.to_owned());
    let (default, named) = (PromptChoice::Default, |name: &str| PromptChoice::Named(name.to_owned()));
    let all = json!({"prompts": {"query": "q", "corpus": "c", "passage": "p", "document": "d"}, "default_prompt_name": "query"});
    check(&all, &default, "d", &model("document"));
    check(&all, &named("corpus"), "c", &PromptOrigin::Asked("corpus".to_owned()));
    check(&all, &PromptChoice::Text("x: ".to_owned()), "x: ", &PromptOrigin::Text);
    check(&all, &PromptChoice::Text(String::new()), "", &PromptOrigin::Text);
    let passage = json!({"prompts": {"corpus": "c", "passage": "p", "query": "q"}, "default_prompt_name": "query"});
    check(&passage, &default, "p", &model("passage"));
    check(&json!({"prompts": {"corpus": "c"}}), &default, "c", &model("corpus"));
    check(&json!({"prompts": {"query": "q"}, "default_prompt_name": "query"}), &default, "q", &model("query"));
    check(&json!({"prompts": {"query": "q"}, "default_prompt_name": null}), &default, "", &PromptOrigin::Nothing);
    check(&json!({"prompts": {"document": null}}), &default, "", &model("document"));
    check(&json!({"prompts": null, "default_prompt_name": "document"}), &default, "", &PromptOrigin::Nothing);
    check(&json!({}), &default, "", &PromptOrigin::Nothing);
}

#[test]
fn an_unknown_prompt_name_is_an_error_that_lists_the_names() {
    let error = fixture("bert-short").prompt(&PromptChoice::Named("Query".to_owned())).unwrap_err().to_string();
    assert!(error.contains("\"Query\"") && error.contains("passage, query"), "{error}");
    let error = fixture("bert-minilm").prompt(&PromptChoice::Named("query".to_owned())).unwrap_err().to_string();
    assert!(error.contains("--prompt TEXT"), "{error}");
    let directory = Directory::new();
    directory.json("config_sentence_transformers.json", &json!({"default_prompt_name": "x"}));
    assert!(matches!(directory.read(), Err(SpecError::Invalid { .. })));
}

#[test]
fn a_prompt_that_is_not_to_be_pooled_is_refused_but_none_is_fine() {
    let directory = Directory::new();
    directory.json("1_Pooling/config.json", &json!({"include_prompt": false}));
    let spec = directory.read().unwrap();
    assert_eq!(spec.prompt(&PromptChoice::Default).unwrap().text, "");
    let error = spec.prompt(&PromptChoice::Text("x".to_owned())).unwrap_err();
    assert!(matches!(error, SpecError::Unsupported { .. }), "{error:?}");
}
