//! What is not implemented, and files that are missing, broken or at odds.

use super::*;

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
fn types_of_tokens_other_than_0_are_refused_where_layers_take_them() {
    let directory = Directory::new();
    let piece = json!({"Sequence": {"id": "A", "type_id": 1}});
    let template = json!({"type": "TemplateProcessing", "single": [piece], "pair": [], "special_tokens": {}});
    directory.json("tokenizer.json", &json!({"model": {"vocab": {"a": 0}}, "post_processor": template}));
    // The class has a template of its own.
    directory.read().unwrap();
    directory.json("tokenizer_config.json", &json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
    directory.check_refused(&["tokenizer.json", "type_id 1"]);
    let names = ["input_ids", "attention_mask"];
    let keys = json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names});
    directory.json("tokenizer_config.json", &keys);
    directory.read().unwrap();
}

#[test]
fn words_that_are_cut_at_random_are_refused() {
    let directory = Directory::new();
    directory.json("tokenizer_config.json", &json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
    directory.json("tokenizer.json", &json!({"model": {"type": "BPE", "dropout": 0.1, "vocab": {}, "merges": []}}));
    directory.check_refused(&["tokenizer.json", "dropout 0.1"]);
}

#[test]
fn settings_of_the_library_that_change_no_number_are_accepted_and_others_refused() {
    for settings in [
        json!({"model_args": {"attn_implementation": "eager", "low_cpu_mem_usage": true, "torch_dtype": "float32"}}),
        json!({"model_kwargs": {"add_pooling_layer": false, "trust_remote_code": true}}),
        json!({"tokenizer_args": {"padding_side": "left", "use_fast": true, "truncation_side": "right"}}),
        json!({"config_args": {"use_cache": false, "max_position_embeddings": 64}}),
    ] {
        let directory = Directory::new();
        directory.json("sentence_bert_config.json", &settings);
        directory.read().unwrap();
    }
    for (settings, part) in [
        (json!({"model_args": {"torch_dtype": "float16"}}), "model_args.torch_dtype \"float16\" (the weights would be"),
        (json!({"model_args": {"quantization_config": {"a": 1}}}), "model_args.quantization_config"),
        (
            json!({"config_args": {"num_hidden_layers": 1}}),
            "config_args.num_hidden_layers 1 (write it into config.json)",
        ),
        (json!({"config_kwargs": {"max_position_embeddings": 32}}), "config_kwargs.max_position_embeddings 32"),
        (json!({"tokenizer_args": {"truncation_side": "left"}}), "tokenizer_args.truncation_side"),
        (json!({"tokenizer_args": {"do_lower_case": true}}), "tokenizer_args.do_lower_case"),
    ] {
        check_refused_with("sentence_bert_config.json", &settings, part);
    }
}

#[test]
fn a_chat_template_is_refused_where_the_library_would_use_it() {
    let check = |name: &str, text: &str| {
        let directory = Directory::new();
        directory.write(name, text);
        directory.read().unwrap();
        directory.remove("modules.json");
        directory.check_refused(&[name, "a chat template without a modules.json", "remove it or add a modules.json"]);
    };
    check("tokenizer_config.json", "{\"chat_template\": \"{{ messages }}\"}");
    check("chat_template.jinja", "{{ messages }}");
    let directory = Directory::new();
    directory.remove("modules.json");
    directory.json("tokenizer_config.json", &json!({"chat_template": null}));
    directory.read().unwrap();
}

#[test]
fn a_model_type_that_is_null_is_refused() {
    check_refused_with("config_sentence_transformers.json", &json!({"model_type": null}), "model_type null");
}

#[test]
fn a_value_of_the_wrong_kind_is_named_by_its_key() {
    for (name, value, part) in [
        (
            "config_sentence_transformers.json",
            json!({"prompts": ["x"], "model_type": "SentenceTransformer"}),
            "prompts",
        ),
        ("config_sentence_transformers.json", json!({"truncate_dim": 0}), "truncate_dim"),
        ("config_sentence_transformers.json", json!({"truncate_dim": 1.5}), "truncate_dim"),
    ] {
        let directory = Directory::new();
        directory.json(name, &value);
        let error = directory.read().unwrap_err();
        let message = error.to_string();
        assert!(message.contains(name) && message.contains(&format!("the value of {part} ")), "{message}");
    }
}

#[test]
fn a_pointer_of_git_lfs_is_called_one() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for name in ["tokenizer.json", "config.json"] {
        let directory = Directory::new();
        directory.write(name, pointer);
        let message = directory.read().unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("git lfs pull"), "{message}");
    }
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
