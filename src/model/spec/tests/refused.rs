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
