//! Which program of layers a `config.json` describes, and under which keys it gives its sizes.
//!
//! Most say it by `model_type`. Some checkpoints of other layers borrow the `model_type` of their ancestor and bring
//! code of their own (`auto_map`); those whose layers are implemented here are told by the class in that code, and all
//! others are refused, for nobody knows what their code does.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::SpecError;

/// Which program of layers the weights belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Absolute positions, post-norm, token types.
    Bert,
    /// BERT without token types, half as deep.
    DistilBert,
    /// BERT whose positions start after the padding's: `RoBERTa`, XLM-R, `CamemBERT`.
    Roberta,
    /// `RoBERTa` with a relative position bias.
    Mpnet,
    /// BERT with narrower embeddings.
    Electra,
    /// BERT whose layers share their weights.
    Albert,
    /// Disentangled attention.
    DebertaV2,
    /// BERT with rotary positions and a gate.
    NomicBert,
    /// Pre-norm, rotary positions, local and global layers.
    ModernBert,
    /// BERT with rotary positions, a gate and fused layers: `model_type` "gte" or "new".
    Gte,
    /// XLM-R with rotary positions.
    JinaV3,
    /// BERT with linear biases instead of positions, and a gate.
    JinaBert,
    /// Causal, rotary positions, biases on query, key and value.
    Qwen2,
    /// Causal, rotary positions, norms on query and key.
    Qwen3,
    /// Causal, rotary positions, a sliding window.
    Mistral,
    /// Causal, rotary positions.
    Llama,
    /// Norms before and after each half, local and global layers: `EmbeddingGemma`.
    Gemma3,
    /// The encoder half, with a relative position bias.
    T5,
    /// One vector a token and nothing more.
    Static,
}

impl Architecture {
    /// The `model_type` of `config.json` in its most common spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::DistilBert => "distilbert",
            Self::Roberta => "roberta",
            Self::Mpnet => "mpnet",
            Self::Electra => "electra",
            Self::Albert => "albert",
            Self::DebertaV2 => "deberta-v2",
            Self::NomicBert => "nomic_bert",
            Self::ModernBert => "modernbert",
            Self::Gte => "gte",
            Self::JinaV3 => "jina_embeddings_v3",
            Self::JinaBert => "jina_bert",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Mistral => "mistral",
            Self::Llama => "llama",
            Self::Gemma3 => "gemma3_text",
            Self::T5 => "t5",
            Self::Static => "static",
        }
    }

    /// The architecture that a `config.json` asks for.
    pub(super) fn of(config: &Map<String, Value>, path: &Path) -> Result<Self, SpecError> {
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let Some(model_type) = text("model_type") else {
            return Err(SpecError::invalid(path, "it names no model_type"));
        };
        let code = own_class(config);
        let architecture = match model_type {
            "bert" if code == Some("JinaBertModel") => {
                if code_of_model(config).is_some_and(|name| name.contains("qk-post-norm")) {
                    let what = "JinaBERT with norms of queries and keys (jina-bert-v2-qk-post-norm)";
                    return Err(SpecError::unsupported(path, what));
                }
                Self::JinaBert
            }
            "xlm-roberta" if code == Some("XLMRobertaLoRA") || text("position_embedding_type") == Some("rotary") => {
                Self::JinaV3
            }
            "bert" => Self::Bert,
            "distilbert" => Self::DistilBert,
            "roberta" | "xlm-roberta" | "camembert" => Self::Roberta,
            "mpnet" => Self::Mpnet,
            "electra" => Self::Electra,
            "albert" => Self::Albert,
            "deberta-v2" => Self::DebertaV2,
            "nomic_bert" => Self::NomicBert,
            "modernbert" => Self::ModernBert,
            "gte" | "new" => Self::Gte,
            "jina_embeddings_v3" => Self::JinaV3,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            "mistral" => Self::Mistral,
            "llama" => Self::Llama,
            "gemma3_text" => Self::Gemma3,
            "t5" => Self::T5,
            other => return Err(SpecError::unsupported(path, format!("model_type {other:?}"))),
        };
        // Code for anything but the model and its configuration is never asked for.
        let is_asked_for = |value: &&Value| {
            let names = value.as_object();
            !super::files::is_empty(value)
                && names.is_none_or(|names| ["AutoModel", "AutoConfig"].iter().any(|name| names.contains_key(*name)))
        };
        if let Some(value) = config.get("auto_map").filter(is_asked_for)
            && !code.is_some_and(|class| architecture.own_classes().contains(&class))
        {
            return Err(SpecError::unsupported(path, format!("code of the model's own (auto_map {value})")));
        }
        if let Some(kind) = text("position_embedding_type").filter(|kind| !architecture.positions_of_kind(kind)) {
            return Err(SpecError::unsupported(path, format!("position_embedding_type {kind:?}")));
        }
        Ok(architecture)
    }

    /// Classes of code beside checkpoints that compute the layers implemented here.
    fn own_classes(self) -> &'static [&'static str] {
        match self {
            Self::NomicBert => &["NomicBertModel"],
            Self::Gte => &["NewModel", "GteModel"],
            Self::JinaV3 => &["XLMRobertaLoRA", "XLMRobertaModel"],
            Self::JinaBert => &["JinaBertModel"],
            _ => &[],
        }
    }

    fn positions_of_kind(self, kind: &str) -> bool {
        match self {
            Self::JinaBert => kind == "alibi",
            Self::JinaV3 => kind == "rotary",
            Self::Gte => kind == "rope",
            // A leftover of its ancestor, which nothing reads.
            Self::ModernBert => true,
            _ => kind == "absolute",
        }
    }

    /// Where the width of a token vector stands, and what it is where nothing is said: the default of the
    /// configuration's class in transformers.
    pub(super) fn hidden_size(self) -> (&'static [&'static str], usize) {
        match self {
            Self::DistilBert => (&["dim", "hidden_size"], 768),
            Self::NomicBert => (&["hidden_size", "n_embd"], 768),
            Self::T5 => (&["d_model", "hidden_size"], 512),
            Self::Electra => (&["hidden_size"], 256),
            Self::DebertaV2 => (&["hidden_size"], 1536),
            Self::JinaV3 => (&["hidden_size"], 1024),
            Self::Gemma3 => (&["hidden_size"], 2304),
            Self::Albert | Self::Qwen2 | Self::Qwen3 | Self::Mistral | Self::Llama => (&["hidden_size"], 4096),
            _ => (&["hidden_size"], 768),
        }
    }

    /// Where the number of positions stands, and what it is where nothing is said; `None` where there is no number.
    pub(super) fn positions(self) -> Option<(&'static [&'static str], usize)> {
        match self {
            Self::T5 | Self::Static => None,
            // The code beside older checkpoints knows n_positions, and calls it max_position_embeddings as well.
            Self::NomicBert => Some((&["max_position_embeddings", "n_positions"], 2048)),
            Self::ModernBert | Self::Gte => Some((&["max_position_embeddings"], 8192)),
            Self::JinaV3 => Some((&["max_position_embeddings"], 8194)),
            Self::Qwen2 | Self::Qwen3 => Some((&["max_position_embeddings"], 32_768)),
            Self::Mistral | Self::Gemma3 => Some((&["max_position_embeddings"], 131_072)),
            Self::Llama => Some((&["max_position_embeddings"], 2048)),
            _ => Some((&["max_position_embeddings"], 512)),
        }
    }

    /// Whether the head of a masked language model is implemented for it.
    pub(super) fn has_masked_lm(self) -> bool {
        matches!(
            self,
            Self::Bert
                | Self::Roberta
                | Self::DistilBert
                | Self::Mpnet
                | Self::Electra
                | Self::Albert
                | Self::DebertaV2
                | Self::Gte
                | Self::ModernBert
        )
    }

    /// What its positions are made of.
    pub(super) fn position_table(self, config: &Map<String, Value>) -> PositionTable {
        match self {
            Self::Bert | Self::DistilBert | Self::Electra | Self::Albert => PositionTable::FromZero,
            Self::Roberta | Self::Mpnet => PositionTable::AfterPadding,
            // The key's default in transformers is true.
            Self::DebertaV2 if config.get("position_biased_input") != Some(&Value::Bool(false)) => {
                PositionTable::FromZero
            }
            _ => PositionTable::None,
        }
    }
}

/// Whether a checkpoint has a row for every position, so that no sequence can be longer than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PositionTable {
    /// Positions are computed: what `config.json` says is what the model was made for, not what it can do.
    None,
    /// The first token has row 0.
    FromZero,
    /// The first token has the row after the padding token's.
    AfterPadding,
}

/// What `auto_map` names for the plain model: repository, module and class.
fn code_of_model(config: &Map<String, Value>) -> Option<&str> {
    config.get("auto_map")?.get("AutoModel")?.as_str()
}

/// The class in it.
fn own_class(config: &Map<String, Value>) -> Option<&str> {
    code_of_model(config)?.rsplit('.').next()
}
