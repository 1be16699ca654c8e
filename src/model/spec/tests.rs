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
    assert_eq!((spec.pooling, spec.normalize, spec.dimension, spec.max_length), (vec![Pooling::Mean], true, 32, 80));
    assert_eq!((spec.prompts.len(), spec.default_prompt_name.as_deref()), (0, None));
    assert_eq!(spec.similarity.as_deref(), Some("cosine"));
    assert_eq!(spec.config["num_attention_heads"], 4);
    assert!(spec.tokenizer.ends_with("tokenizer.json") && spec.weights[0].ends_with("model.safetensors"));
    assert_eq!(spec.notes, [] as [String; 0]);

    let spec = fixture("bert-bge");
    assert_eq!((spec.pooling, spec.normalize), (vec![Pooling::Cls], true));
    assert_eq!(spec.prompts["query"], "Represent this sentence for searching relevant passages: ");

    let spec = fixture("bert-short");
    assert_eq!((spec.normalize, spec.max_length, spec.default_prompt_name.as_deref()), (false, 24, Some("query")));
}

#[test]
fn a_directory_without_modules_is_a_mean_without_normalisation_and_says_so() {
    let spec = fixture("bert-plain");
    assert_eq!((spec.pooling, spec.normalize, spec.max_length), (vec![Pooling::Mean], false, 77));
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
        assert_eq!((spec.pooling, spec.normalize, spec.max_length), (vec![Pooling::Cls], true, 33));
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
        (&["Transformer", "Pooling", "Normalize", "LayerNorm"][..], "LayerNorm"),
        (&["Transformer", "Pooling", "Pooling"], "Pooling where Dense or Normalize"),
        (&["Transformer", "Normalize", "Pooling"], "Normalize where Pooling"),
        (&["Transformer"], "without a Pooling"),
        (&["custom_st.Transformer", "Pooling"], "custom_st.Transformer"),
        (&["sentence_transformers.sparse_encoder.models.MLMTransformer", "Pooling"], "Pooling"),
        (&["sentence_transformers.sparse_encoder.models.MLMTransformer"], "without SpladePooling"),
        (&["sentence_transformers.sparse_encoder.models.SparseAutoEncoder"], "SparseAutoEncoder"),
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
    check_refused_with("1_Pooling/config.json", &json!({"pooling_mode_magic": true}), "pooling_mode_magic");
    check_refused_with("1_Pooling/config.json", &json!({"pooling_mode": ["mean", "first"]}), "pooling by first");
    let directory = Directory::new();
    directory.json("config_sentence_transformers.json", &json!({"model_type": "SparseEncoder"}));
    directory.check_refused(&["modules.json", "Pooling where SpladePooling is expected"]);
    check_refused_with("config_sentence_transformers.json", &json!({"model_type": "CrossEncoder"}), "CrossEncoder");
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
    for class in ["BertForSequenceClassification", "BertLMHeadModel", "XForCausalLM"] {
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
    directory.write("tf_model.h5", "");
    directory.check_refused(&["tf_model.h5", "safetensors"]);
    directory.json("pytorch_model.bin.index.json", &json!({"weight_map": {"a": "pytorch_model-1.bin"}}));
    directory.write("pytorch_model-1.bin", "");
    assert_eq!(directory.read().unwrap().weights, [directory.0.path().join("pytorch_model-1.bin")]);
    directory.write("pytorch_model.bin", "");
    assert_eq!(directory.read().unwrap().weights, [directory.0.path().join("pytorch_model.bin")]);

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
fn a_prompt_may_be_left_out_of_the_pooling() {
    let directory = Directory::new();
    directory.json("1_Pooling/config.json", &json!({"include_prompt": false}));
    assert!(!directory.read().unwrap().include_prompt);
    directory.json("1_Pooling/config.json", &json!({"include_prompt": "no"}));
    assert!(matches!(directory.read(), Err(SpecError::Invalid { .. })));
}

#[test]
fn poolings_are_joined_in_the_order_of_the_library_or_of_their_list() {
    let directory = Directory::new();
    let all = [
        "pooling_mode_lasttoken",
        "pooling_mode_mean_tokens",
        "pooling_mode_cls_token",
        "pooling_mode_weightedmean_tokens",
        "pooling_mode_max_tokens",
        "pooling_mode_mean_sqrt_len_tokens",
    ];
    let switches: Map<String, Value> = all.iter().map(|key| ((*key).to_owned(), json!(true))).collect();
    directory.json("1_Pooling/config.json", &Value::Object(switches));
    let spec = directory.read().unwrap();
    assert_eq!((spec.pooling.as_slice(), spec.dimension, spec.hidden_size), (&Pooling::ALL[..], 48, 8));
    directory.json("1_Pooling/config.json", &json!({"pooling_mode": ["mean", "cls"], "pooling_mode_max_tokens": true}));
    let spec = directory.read().unwrap();
    assert_eq!((spec.pooling_names(spec.widths()).as_str(), spec.dimension), ("mean + cls", 16));
    directory.json("1_Pooling/config.json", &json!({"pooling_mode_mean_tokens": 1}));
    assert!(matches!(directory.read(), Err(SpecError::Invalid { .. })));
}

/// A directory whose vectors pass through Dense modules with these configurations, and what comes of it.
fn with_dense(classes: &[&str], configs: &[(&str, Value)]) -> Result<ModelSpec, SpecError> {
    let directory = Directory::new();
    directory.modules(classes);
    for (name, config) in configs {
        directory.json(&format!("{name}/config.json"), config);
        directory.write(&format!("{name}/model.safetensors"), "");
    }
    directory.read()
}

#[test]
fn dense_layers_follow_each_other_and_only_the_last_scaling_waits_for_the_cut() {
    let identity = "torch.nn.modules.linear.Identity";
    let spec = with_dense(
        &["Transformer", "Pooling", "Dense", "Normalize", "Dense", "Dropout", "Normalize", "Normalize"],
        &[
            ("2_Dense", json!({"in_features": 8, "out_features": 16, "bias": false, "activation_function": identity})),
            ("4_Dense", json!({"in_features": 16, "out_features": 4, "use_residual": true, "unknown": 1})),
        ],
    )
    .unwrap();
    assert_eq!((spec.dimension, spec.hidden_size, spec.normalize), (4, 8, true));
    let [AfterPooling::Dense(first), AfterPooling::Normalize, AfterPooling::Dense(second)] = &spec.after_pooling[..]
    else {
        panic!("{:?}", spec.after_pooling);
    };
    assert_eq!((first.activation, first.bias, first.residual), (DenseActivation::Identity, false, false));
    assert_eq!((second.activation, second.bias, second.residual), (DenseActivation::Tanh, true, true));
    assert!(second.weights[0].ends_with("4_Dense/model.safetensors"));
}

#[test]
fn dense_layers_that_nobody_can_compute_are_refused() {
    #[track_caller]
    fn check(config: Value, parts: &[&str]) {
        let error = with_dense(&["Transformer", "Pooling", "Dense"], &[("2_Dense", config)]).unwrap_err().to_string();
        for part in ["2_Dense/config.json"].iter().chain(parts) {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
    let with = |key: &str, value: Value| {
        let mut config = json!({"in_features": 8, "out_features": 4});
        config[key] = value;
        config
    };
    check(with("activation_function", json!("torch.nn.modules.activation.Hardswish")), &["Hardswish", "Tanh"]);
    check(with("activation_function", json!("my.own.Tanh")), &["my.own.Tanh"]);
    check(with("activation_function", Value::Null), &["activation_function"]);
    check(with("module_input_name", json!("token_embeddings")), &["token_embeddings"]);
    check(with("in_features", json!(9)), &["9", "8"]);
    check(with("out_features", json!(0)), &["out_features"]);
    check(with("bias", json!("yes")), &["bias"]);
    let error = with_dense(&["Transformer", "Pooling", "Dense"], &[]).unwrap_err().to_string();
    assert!(error.contains("2_Dense/config.json is missing"), "{error}");
}

#[test]
fn every_architecture_gives_its_sizes_under_its_own_keys() {
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "each is made for its check")]
    fn check(config: Value, expected: (Architecture, usize, usize)) {
        let directory = Directory::new();
        directory.json("config.json", &config);
        let spec = directory.read().unwrap();
        assert_eq!((spec.architecture, spec.hidden_size, spec.max_length), expected, "{config}");
    }
    check(json!({"model_type": "bert"}), (Architecture::Bert, 768, 512));
    check(json!({"model_type": "distilbert", "dim": 12}), (Architecture::DistilBert, 12, 512));
    check(json!({"model_type": "xlm-roberta", "max_position_embeddings": 514}), (Architecture::Roberta, 768, 512));
    check(json!({"model_type": "camembert", "pad_token_id": 3}), (Architecture::Roberta, 768, 508));
    check(json!({"model_type": "mpnet", "max_position_embeddings": 34}), (Architecture::Mpnet, 768, 32));
    check(json!({"model_type": "electra"}), (Architecture::Electra, 256, 512));
    check(json!({"model_type": "nomic_bert", "n_embd": 12, "n_positions": 99}), (Architecture::NomicBert, 12, 99));
    check(json!({"model_type": "t5", "d_model": 12, "is_encoder_decoder": true}), (Architecture::T5, 12, 32_768));
    check(json!({"model_type": "qwen3", "hidden_size": 12}), (Architecture::Qwen3, 12, 32_768));
    let code = |class: &str| json!({"AutoModel": format!("someone/code--modeling.{class}"), "AutoConfig": "x"});
    check(json!({"model_type": "new", "auto_map": code("NewModel")}), (Architecture::Gte, 768, 8192));
    let alibi = json!({"model_type": "bert", "position_embedding_type": "alibi", "auto_map": code("JinaBertModel")});
    check(alibi, (Architecture::JinaBert, 768, 512));
    let rotary =
        json!({"model_type": "xlm-roberta", "position_embedding_type": "rotary", "auto_map": code("XLMRobertaLoRA")});
    check(rotary, (Architecture::JinaV3, 1024, 8194));
    for refused in [
        json!({"model_type": "qwen2", "auto_map": code("Qwen2Model")}),
        json!({"model_type": "bert", "auto_map": code("NewModel")}),
        json!({"model_type": "nomic_bert", "auto_map": code("OtherModel")}),
    ] {
        let directory = Directory::new();
        directory.json("config.json", &refused);
        directory.check_refused(&["config.json", "auto_map"]);
    }
    let directory = Directory::new();
    directory.json("config.json", &json!({"model_type": "distilbert", "dim": 12, "hidden_size": 13}));
    assert!(matches!(directory.read(), Err(SpecError::Invalid { .. })));
}

#[test]
fn only_a_table_of_positions_lowers_a_limit_that_the_files_name() {
    let limit = |model_type: &str| {
        let directory = Directory::new();
        directory.json("config.json", &json!({"model_type": model_type, "max_position_embeddings": 64}));
        directory.json("sentence_bert_config.json", &json!({"max_seq_length": 100}));
        let spec = directory.read().unwrap();
        (spec.max_length, spec.notes.len())
    };
    assert_eq!(limit("bert"), (64, 1));
    assert_eq!(limit("roberta"), (62, 1));
    assert_eq!(limit("qwen2"), (100, 0));
    assert_eq!(limit("modernbert"), (100, 0));
}

#[test]
fn a_directory_says_which_kinds_of_vectors_it_gives() {
    for (name, gives, default) in [
        ("bert-minilm", "dense", VectorKind::Dense),
        ("xlmr-bin-heads", "dense,sparse,multi", VectorKind::Dense),
        ("splade-mlm", "sparse", VectorKind::Sparse),
        ("splade-roberta", "sparse", VectorKind::Sparse),
        ("colbert-pylate", "multi", VectorKind::Multi),
        ("colbert-stanford", "multi", VectorKind::Multi),
    ] {
        let spec = fixture(name);
        assert_eq!((spec.widths().to_string().as_str(), spec.default_kind), (gives, default), "{name}");
    }
}

#[test]
fn queries_and_documents_of_a_colbert_have_their_own_lengths() {
    let spec = fixture("colbert-pylate");
    assert_eq!((spec.longest(TextRole::Document), spec.longest(TextRole::Query)), (30, 11));
    let role = |choice| spec.role(&spec.prompt(&choice).unwrap());
    assert_eq!(role(PromptChoice::Named("query".to_owned())), TextRole::Query);
    assert_eq!(role(PromptChoice::Default), TextRole::Document);
    assert_eq!(spec.prompt(&PromptChoice::Default).unwrap().text, "[D] ");
    let head = spec.multi.as_ref().unwrap();
    assert!(head.expansion.is_some_and(|expansion| !expansion.seen && expansion.length == 11), "{head:?}");
    assert!(!head.skipped.is_empty(), "punctuation has tokens");
}

#[test]
fn a_masked_language_model_without_modules_is_splade_if_it_is_called_so() {
    let directory = Directory::new();
    let class = json!(["BertForMaskedLM"]);
    directory.json("config.json", &json!({"model_type": "bert", "hidden_size": 8, "architectures": class}));
    directory.remove("modules.json");
    let spec = directory.read().unwrap();
    assert_eq!((spec.widths().to_string().as_str(), spec.default_kind), ("dense,sparse", VectorKind::Dense));
    assert!(spec.notes.iter().any(|note| note.contains("--emit sparse")), "{:?}", spec.notes);
    let named = json!({
        "model_type": "bert", "hidden_size": 8, "architectures": class, "_name_or_path": "naver/splade-v3"
    });
    directory.json("config.json", &named);
    assert_eq!(directory.read().unwrap().default_kind, VectorKind::Sparse);
    let other = json!({"model_type": "electra", "hidden_size": 8, "architectures": ["ElectraForMaskedLM"]});
    directory.json("config.json", &other);
    assert_eq!(directory.read().unwrap().widths().to_string(), "dense", "its head is not implemented");
}
