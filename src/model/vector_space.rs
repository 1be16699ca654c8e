//! `vector_space`: one digest for everything that decides what a vector means.
//!
//! It stands in every manifest, so that vectors of two models, two revisions or two prompts are never mixed unnoticed:
//! they often have the same length and the same file names.
//!
//! The digest is SHA-256 over a list of fields, each written as the length of its name (u64, little-endian), the name,
//! the length of its value, the value. Lengths make the list unambiguous: no value can run into the next field. The
//! list opens with its own version; whoever changes the list changes the version.

mod tensors;

use serde_json::Value;

use self::tensors::{LanguageHead, meant};
use super::Profile;
use super::spec::{AfterPooling, Architecture, Dense, ModelSpec, MultiHead, SparseHead};
use super::weights::TensorDigests;
use crate::domain::{Digest, FieldDigest, VectorKind, Widths};

const VERSION: &str = "3";

/// The arithmetic in which vectors are computed; vectors of two classes differ in the third or fourth digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DtypeClass {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Brain floating point.
    Bf16,
    /// Eight-bit integers.
    Int8,
}

impl DtypeClass {
    /// The name used in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// How long written vectors are, as arrows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As pooling and what follows it leave them.
    AsIs,
    /// Of unit length.
    Unit,
    /// Cut from vectors of unit length.
    CutFromUnit,
}

impl Scale {
    /// Of vectors that may be of unit length, and may be cut then.
    pub fn new(normalized: bool, cut: bool) -> Self {
        match (normalized, cut) {
            (false, _) => Self::AsIs,
            (true, false) => Self::Unit,
            (true, true) => Self::CutFromUnit,
        }
    }
}

/// Digests of a model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDigests {
    /// Of the weights.
    pub tensors: TensorDigests,
    /// Of the tokenizer as it is used.
    pub tokenizer: Digest,
}

/// The digest of a vector space. It differs where the numbers of a tensor that is read, the configuration of the layers,
/// the tokenizer, the pooling and what follows it, the prompt's text, the limit, the dimension, the normalisation or the
/// class of arithmetic differ. It is the same however the tensors are stored (safetensors or files of `PyTorch`, one file
/// or several, any order, with a prefix or without) and whatever else is stored beside them, as far as that is known by
/// name; however `tokenizer.json` is written; and whatever the model, the prompt and the files are called.
///
/// Numbers stored in f16 are not the same as those in f32, even where they are equal. A key of `config.json` that is not
/// known, and a tensor, make another space, although perhaps nothing reads them.
pub fn vector_space(spec: &ModelSpec, digests: &ModelDigests, profile: &Profile, dtype: DtypeClass) -> Digest {
    let widths = profile.widths(spec);
    let Widths { dense, sparse, multi } = widths;
    let mut fields = FieldDigest::default();
    fields.add("vector_space", VERSION);
    fields.add("architecture", spec.architecture.as_str());
    fields.add("config", canonical_config(spec));
    let head = if sparse.is_some() { LanguageHead::Read } else { LanguageHead::Unread };
    for (name, digest) in meant(&digests.tensors.own, head) {
        fields.add("tensor", name);
        fields.add("numbers", digest.as_bytes());
    }
    for (kind, tensors) in digests.tensors.heads.iter().filter(|(kind, _)| widths.of(*kind).is_some()) {
        fields.add("layer", kind.as_str());
        for tensor in tensors {
            fields.add("tensor", &tensor.name);
            fields.add("numbers", tensor.digest.as_bytes());
        }
    }
    fields.add("tokenizer", digests.tokenizer.as_bytes());
    if dense.is_some() {
        for pooling in &spec.pooling {
            fields.add("pooling", pooling.as_str());
        }
        for step in &spec.after_pooling {
            fields.add("after_pooling", described(step));
        }
    }
    fields.add("prompt", &profile.prompt.text);
    // Without a prompt there is nothing to leave out.
    fields.add("include_prompt", flag(spec.include_prompt || profile.prompt.text.is_empty()));
    fields.add("max_length", profile.max_length.to_string());
    if let Some(dimension) = dense {
        fields.add("dimension", dimension.to_string());
        let scale: &[u8] = match profile.scale() {
            Scale::AsIs => b"as it is",
            Scale::Unit => b"unit length",
            Scale::CutFromUnit => b"cut from unit length",
        };
        fields.add("scale", scale);
    }
    fields.add("dtype", dtype.as_str());
    // Dense vectors alone have the fields that they always had.
    if let Some(head) = spec.sparse.as_ref().filter(|_| sparse.is_some()) {
        fields.add(VectorKind::Sparse.as_str(), described_sparse(head));
        // Of no meaning to the layers.
        fields.add("tied", flag(spec.config.get("tie_word_embeddings") != Some(&Value::Bool(false))));
    }
    if let Some(head) = spec.multi.as_ref().filter(|_| multi.is_some()) {
        fields.add(VectorKind::Multi.as_str(), described_multi(head));
        fields.add("role", format!("{:?}", profile.role));
    }
    fields.finish()
}

/// A step in words; its weights are among the digests.
fn described(step: &AfterPooling) -> String {
    match step {
        AfterPooling::Normalize => "normalize".to_owned(),
        AfterPooling::Dense(Dense { inputs, outputs, bias, activation, residual, .. }) => {
            let activation = activation.as_str();
            format!("dense {inputs} {outputs} bias {bias} activation {activation} residual {residual}")
        }
    }
}

/// The head in words; its weights are among the digests.
fn described_sparse(head: &SparseHead) -> String {
    match head {
        SparseHead::MaskedLm { pooling, vocabulary } => {
            let (strategy, activation) = pooling.names();
            format!("masked_lm {vocabulary} {strategy} {activation}")
        }
        SparseHead::TokenWeights { dropped, vocabulary, .. } => format!("token_weights {vocabulary} {dropped:?}"),
    }
}

/// Likewise.
fn described_multi(head: &MultiHead) -> String {
    let MultiHead { steps, left_out, skipped, skips_in_queries, markers, expansion, .. } = head;
    let steps: Vec<String> = steps.iter().map(described).collect();
    let expansion = expansion.map(|expansion| (expansion.token, expansion.length, expansion.seen));
    let in_queries = if *skips_in_queries { " in queries" } else { "" };
    format!("{steps:?} {left_out} {skipped:?}{in_queries} {markers:?} {expansion:?}")
}

fn flag(value: bool) -> &'static [u8] {
    if value { b"true" } else { b"false" }
}

/// Keys of `config.json` that say nothing about what the layers compute: where the file comes from, how it was
/// trained, what a program may return, heads that are not used, text that is generated. A key that is not listed counts,
/// so that an unknown one can separate two spaces but never merge them.
const NEUTRAL_KEYS: [&str; 60] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "attn_pdrop",
    "bos_token_id",
    "classifier_dropout",
    "classifier_dropout_prob",
    "deterministic_flash_attn",
    "directionality",
    "dropout",
    "dropout_rate",
    "dtype",
    "embd_pdrop",
    "embedding_dropout",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "mlp_dropout",
    "model_type",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pooler_dropout",
    "pooler_fc_size",
    "pooler_hidden_act",
    "pooler_hidden_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "problem_type",
    "qa_dropout",
    "reference_compile",
    "resid_pdrop",
    "return_dict",
    "seq_classif_dropout",
    "summary_activation",
    "summary_first_dropout",
    "summary_last_dropout",
    "summary_type",
    "summary_use_proj",
    "summary_proj_to_labels",
    "task_specific_params",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "use_bfloat16",
    "use_cache",
    "vocab_size",
];

/// Whether the number of the padding token decides where positions begin, in some tables of positions.
fn reads_padding(architecture: Architecture) -> bool {
    !matches!(
        architecture,
        Architecture::Bert
            | Architecture::DistilBert
            | Architecture::Electra
            | Architecture::Albert
            | Architecture::Mpnet
            | Architecture::Static
    )
}

/// `config.json` without what does not matter, its keys sorted.
fn canonical_config(spec: &ModelSpec) -> String {
    let mut kept: Vec<(&String, &Value)> = spec
        .config
        .iter()
        .filter(|(key, value)| !NEUTRAL_KEYS.contains(&key.as_str()) && !value.is_null())
        .filter(|(key, value)| key.as_str() != "position_embedding_type" || *value != "absolute")
        .filter(|(key, _)| key.as_str() != "pad_token_id" || reads_padding(spec.architecture))
        .collect();
    kept.sort_by_key(|(key, _)| *key);
    let mut text = String::new();
    for (key, value) in kept {
        text.push_str(&Value::String(key.clone()).to_string());
        text.push(':');
        text.push_str(&sorted(value).to_string());
        text.push('\n');
    }
    text
}

/// The value with the keys of all its objects in order, whatever order `serde_json` keeps.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Map, json};

    use super::*;
    use crate::model::spec::{DenseActivation, Pooling, Prompt, PromptOrigin};
    use crate::model::weights::TensorDigest;

    fn bert() -> ModelSpec {
        ModelSpec::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/bert-minilm")).unwrap()
    }

    fn tensor(name: &str, numbers: &str) -> TensorDigest {
        TensorDigest { name: name.to_owned(), digest: Digest::of(numbers.as_bytes()) }
    }

    fn prompt(text: &str) -> Prompt {
        Prompt { text: text.to_owned(), origin: PromptOrigin::Text }
    }

    /// What a test changes beside the model's directory.
    struct Asked {
        digests: ModelDigests,
        profile: Profile,
        dtype: DtypeClass,
    }

    /// The digest of a space that differs from the plain one by what `change` does.
    fn space_with(change: impl FnOnce(&mut ModelSpec, &mut Asked)) -> Digest {
        let mut spec = bert();
        let mut settings = Asked {
            digests: ModelDigests {
                tensors: TensorDigests {
                    own: vec![tensor("bert.a", "1"), tensor("bert.b", "2")],
                    heads: vec![(VectorKind::Dense, vec![tensor("linear.weight", "3")])],
                },
                tokenizer: Digest::of(b"tokenizer"),
            },
            profile: Profile { max_length: 80, normalize: true, ..Profile::new(&spec, prompt("p")) },
            dtype: DtypeClass::F32,
        };
        change(&mut spec, &mut settings);
        vector_space(&spec, &settings.digests, &settings.profile, settings.dtype)
    }

    #[track_caller]
    fn check_other(change: impl FnOnce(&mut ModelSpec, &mut Asked)) {
        assert_ne!(space_with(change), space_with(|_, _| {}));
    }

    #[track_caller]
    fn check_same(change: impl FnOnce(&mut ModelSpec, &mut Asked)) {
        assert_eq!(space_with(change), space_with(|_, _| {}));
    }

    #[test]
    fn every_part_of_the_meaning_makes_another_space() {
        check_other(|_, settings| settings.digests.tensors.own.truncate(1));
        check_other(|_, settings| settings.digests.tensors.own[0] = tensor("bert.a", "another"));
        check_other(|_, settings| settings.digests.tensors.own[0] = tensor("bert.c", "1"));
        check_other(|_, settings| settings.digests.tensors.heads[0].1[0] = tensor("linear.weight", "another"));
        check_other(|_, settings| settings.digests.tensors.heads.clear());
        check_other(|_, settings| settings.digests.tokenizer = Digest::of(b"another"));
        check_other(|_, settings| settings.profile.prompt = prompt(""));
        check_other(|_, settings| settings.profile.prompt = prompt("q"));
        check_other(|_, settings| settings.profile.max_length = 79);
        check_other(|_, settings| settings.profile.truncate_dim = Some(16));
        check_other(|_, settings| settings.profile.normalize = false);
        check_other(|_, settings| settings.profile.cut_last = Some(32));
        for dtype in [DtypeClass::F16, DtypeClass::Bf16, DtypeClass::Int8] {
            check_other(|_, settings| settings.dtype = dtype);
        }
        check_other(|spec, _| spec.pooling = vec![Pooling::Cls]);
        check_other(|spec, _| spec.pooling.push(Pooling::Max));
        check_other(|spec, _| spec.after_pooling.push(AfterPooling::Normalize));
        let dense = |activation| {
            AfterPooling::Dense(Dense {
                directory: "2_Dense".into(),
                weights: Vec::new(),
                inputs: 32,
                outputs: 16,
                bias: true,
                activation,
                residual: false,
            })
        };
        check_other(|spec, _| spec.after_pooling.push(dense(DenseActivation::Tanh)));
        let with = |activation| space_with(|spec, _| spec.after_pooling.push(dense(activation)));
        assert_ne!(with(DenseActivation::Tanh), with(DenseActivation::Identity));
        check_other(|spec, _| spec.include_prompt = false);
        for (key, value) in
            [("hidden_act", json!("relu")), ("num_attention_heads", json!(2)), ("layer_norm_eps", json!(1e-5))]
        {
            check_other(|spec, _| spec.config[key] = value);
        }
        check_other(|spec, _| _ = spec.config.insert("never_heard_of".to_owned(), json!(1)));
    }

    #[test]
    fn names_and_what_no_layer_computes_with_make_no_other_space() {
        check_same(|_, settings| settings.profile.prompt.origin = PromptOrigin::Asked("x".to_owned()));
        check_same(|_, settings| settings.digests.tensors.own = vec![tensor("b", "2"), tensor("0.auto_model.a", "1")]);
        check_same(|_, settings| settings.digests.tensors.own.push(tensor("bert.pooler.dense.weight", "4")));
        check_same(|_, settings| settings.digests.tensors.heads.push((VectorKind::Multi, vec![tensor("weight", "5")])));
        check_same(|spec, _| spec.directory = "elsewhere".into());
        check_same(|spec, _| spec.weights = vec!["model-00001-of-00001.safetensors".into()]);
        check_same(|spec, _| spec.config["transformers_version"] = json!("5.0.0"));
        for (key, value) in [
            ("_attn_implementation_autoset", json!(true)),
            ("attn_implementation", json!("eager")),
            ("directionality", json!("bidi")),
            ("bos_token_id", json!(7)),
            ("pad_token_id", json!(7)),
            ("pooler_fc_size", json!(768)),
        ] {
            check_same(|spec, _| _ = spec.config.insert(key.to_owned(), value));
        }
        let padding = |architecture, id: u32| {
            space_with(|spec, _| {
                spec.architecture = architecture;
                spec.config["pad_token_id"] = json!(id);
            })
        };
        assert_ne!(padding(Architecture::Roberta, 1), padding(Architecture::Roberta, 0), "positions begin behind it");
        check_same(|spec, _| _ = spec.config.remove("position_embedding_type"));
        check_same(|spec, _| _ = spec.config.insert("never_heard_of".to_owned(), Value::Null));
        check_same(|spec, _| {
            let reversed: Map<String, Value> =
                spec.config.iter().rev().map(|(key, value)| (key.clone(), value.clone())).collect();
            spec.config = reversed;
        });
        let without = |include_prompt| {
            space_with(|spec, settings| {
                spec.include_prompt = include_prompt;
                settings.profile.prompt = prompt("");
            })
        };
        assert_eq!(without(true), without(false), "there is no prompt to leave out");
    }

    #[test]
    fn the_digest_of_a_known_space_does_not_change_from_version_to_version() {
        let expected = "34a1200192c270dad66e284534515eff01e0506edb5c8dfae8abb7c683d0c98b";
        assert_eq!(space_with(|_, _| {}).to_string(), expected, "whoever changes the fields changes VERSION and this");
    }
}
