//! Directories as they are found, and each thing that is refused, by its name.

mod after;
mod colbert;
mod refused;
mod router;

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
    assert!(spec.tokenizer.path.ends_with("tokenizer.json") && spec.weights[0].ends_with("model.safetensors"));
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
        ("splade-router", "sparse", VectorKind::Sparse),
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
    let other = json!({"model_type": "nomic_bert", "hidden_size": 8, "architectures": ["NomicBertForMaskedLM"]});
    directory.json("config.json", &other);
    assert_eq!(directory.read().unwrap().widths().to_string(), "dense", "its head is not implemented");
}

#[test]
fn what_the_files_cut_is_the_width_of_what_is_written() {
    let widths = |truncate_dim: usize| {
        let directory = Directory::new();
        directory.json("config_sentence_transformers.json", &json!({"truncate_dim": truncate_dim}));
        let spec = directory.read().unwrap();
        (spec.dimension, spec.truncate_dim, spec.widths().dense, spec.normalize, spec.notes.len())
    };
    assert_eq!(widths(3), (8, Some(3), Some(3), true, 1));
    assert_eq!(widths(8), (8, None, Some(8), true, 0));
    assert_eq!(widths(9), (8, None, Some(8), true, 0));
}

#[test]
fn a_head_of_bge_m3_that_does_not_fit_is_named_by_its_file() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/xlmr-bin-heads");
    for name in ["colbert_linear.pt", "sparse_linear.pt"] {
        let directory = Directory::new();
        directory.json("config.json", &json!({"model_type": "bert", "hidden_size": 9}));
        std::fs::copy(fixture.join(name), directory.0.path().join(name)).unwrap();
        let message = directory.read().unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("hidden_size in config.json is 9"), "{message}");
    }
}
