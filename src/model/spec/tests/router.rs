//! Models in which documents and queries take different ways.

use super::*;

const MODULES: &str = "sentence_transformers.models.";

/// A directory with a router in it; `parameters` as in its file, `routes` by name with their modules.
fn routed(routes: &Value, parameters: &Value) -> Directory {
    let directory = Directory::new();
    directory.json("modules.json", &json!([{"path": "", "type": format!("{MODULES}Router")}]));
    let types = json!({
        "": format!("{MODULES}Transformer"),
        "mean": format!("{MODULES}Pooling"),
        "first": format!("{MODULES}Pooling"),
        "strange": "of_nobody.Layer",
    });
    directory.json("mean/config.json", &json!({"pooling_mode_mean_tokens": true}));
    directory.json("first/config.json", &json!({"pooling_mode_cls_token": true}));
    directory.json("router_config.json", &json!({"types": types, "structure": routes, "parameters": parameters}));
    directory
}

#[track_caller]
fn check(routes: &Value, parameters: &Value, expected: Pooling, [document, query]: [&str; 2]) {
    let spec = routed(routes, parameters).read().unwrap();
    assert_eq!(spec.pooling, [expected]);
    let route = spec.route.as_ref().unwrap();
    let found = [route.document.as_str(), route.query.as_deref().unwrap_or("")];
    assert_eq!(found, [document, query]);
    let asked = spec.prompt(&PromptChoice::Named("query".to_owned())).unwrap_err().to_string();
    assert_eq!(asked.contains("the way of queries"), !query.is_empty(), "{asked}");
    assert_eq!(spec.notes.len(), usize::from(!query.is_empty()), "{:?}", spec.notes);
    spec.prompt(&PromptChoice::Text("query: ".to_owned())).unwrap();
}

#[test]
fn documents_take_the_way_that_the_reference_library_finds_for_them() {
    let two = json!({"document": ["", "mean"], "query": ["", "first"]});
    check(&two, &json!({}), Pooling::Mean, ["document", "query"]);
    check(&two, &json!({"default_route": "query"}), Pooling::Mean, ["document", "query"]);
    let named = json!({"passage": ["", "first"], "other": ["", "mean"]});
    check(&named, &json!({"default_route": "other"}), Pooling::Mean, ["other", ""]);
    let mapped = |key: &str| json!({"route_mappings": {key: "passage"}, "default_route": "other"});
    check(&named, &mapped("('document', 'text')"), Pooling::Cls, ["passage", ""]);
    check(&named, &mapped("('document', None)"), Pooling::Cls, ["passage", ""]);
    check(&named, &mapped("(None, 'text')"), Pooling::Cls, ["passage", ""]);
    check(&named, &mapped("(None, 'image')"), Pooling::Mean, ["other", ""]);
    check(&named, &mapped("('query', 'text')"), Pooling::Mean, ["other", "passage"]);
    check(&json!({"x": ["", "first"]}), &json!({"default_route": null}), Pooling::Cls, ["x", ""]);
    check(&json!({"text": ["", "first"], "image": []}), &json!({}), Pooling::Cls, ["text", ""]);
}

#[test]
fn modules_may_follow_the_router() {
    let directory = routed(&json!({"document": ["", "mean"]}), &json!({}));
    let router = json!({"path": "", "type": format!("{MODULES}Asym")});
    directory.json("modules.json", &json!([router, {"path": "1_Normalize", "type": format!("{MODULES}Normalize")}]));
    assert!(directory.read().unwrap().normalize);
}

#[test]
fn a_router_in_a_directory_of_its_own_is_read_there() {
    let directory = Directory::new();
    directory.json("modules.json", &json!([{"path": "0_Asym", "type": format!("{MODULES}Asym")}]));
    let types = json!({"d_0_Transformer": format!("{MODULES}Transformer"), "d_1_Pooling": format!("{MODULES}Pooling")});
    let routes = json!({"document": ["d_0_Transformer", "d_1_Pooling"]});
    // Under the name that the file had once.
    directory.json("0_Asym/config.json", &json!({"types": types, "structure": routes, "parameters": {}}));
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let bytes = std::fs::read_to_string(directory.0.path().join(name)).unwrap();
        directory.write(&format!("0_Asym/d_0_Transformer/{name}"), &bytes);
    }
    directory.json("0_Asym/d_1_Pooling/config.json", &json!({"pooling_mode": "cls"}));
    let spec = directory.read().unwrap();
    assert_eq!(spec.pooling, [Pooling::Cls]);
    assert!(spec.tokenizer.path.ends_with("0_Asym/d_0_Transformer/tokenizer.json"), "{:?}", spec.tokenizer.path);
}

#[test]
fn routers_that_lead_nowhere_are_refused() {
    let two = json!({"a": ["", "mean"], "b": ["", "first"]});
    routed(&two, &json!({})).check_refused(&["router_config.json", "a, b", "default_route"]);
    routed(&json!({"document": ["strange"]}), &json!({})).check_refused(&["modules.json", "of_nobody.Layer"]);
    let message = |directory: &Directory| directory.read().unwrap_err().to_string();
    let unknown = message(&routed(&json!({"document": ["nowhere"]}), &json!({})));
    assert!(unknown.contains("\"nowhere\""), "{unknown}");
    let dangling = message(&routed(&two, &json!({"default_route": "c"})));
    assert!(dangling.contains("\"c\"") && dangling.contains("a, b"), "{dangling}");
    let directory = routed(&two, &json!({}));
    directory.remove("router_config.json");
    directory.write("config.json", "{}");
    let nothing = message(&directory);
    assert!(nothing.contains("config.json"), "{nothing}");
    let empty = message(&routed(&json!({"document": []}), &json!({})));
    assert!(empty.contains("it lists no module"), "{empty}");
}
