//! Prompts, poolings and what follows them.

use super::*;

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
