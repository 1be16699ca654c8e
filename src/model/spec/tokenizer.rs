//! The tokenizer's files, as far as they decide whether a model can be used. Reading text is another module's work.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::SpecError;
use super::files::read_json;

/// Finds `tokenizer.json` and checks that it does what the other files say.
pub(super) fn find(directory: &Path, do_lower_case: bool) -> Result<PathBuf, SpecError> {
    let path = directory.join("tokenizer.json");
    let Some(tokenizer) = read_json::<Map<String, Value>>(&path)? else {
        let what = "a tokenizer given only by its vocabulary is not supported; \
                    save the model once more with a current transformers, which writes the file";
        return Err(SpecError::Missing { path, what });
    };
    let normalizer = tokenizer.get("normalizer").unwrap_or(&Value::Null);
    let lowers = lowers_everything(normalizer);
    // sentence-transformers puts a lower-casing step before the tokenizer's own. Where the tokenizer's own does it
    // anyway, that changes nothing: BertNormalizer gives the same for every code point with and without it.
    if do_lower_case && !lowers {
        let what = "do_lower_case true with a tokenizer that keeps upper case";
        return Err(SpecError::unsupported(&directory.join("sentence_bert_config.json"), what));
    }
    // transformers lets tokenizer_config.json overrule the BertNormalizer in tokenizer.json.
    let config_path = directory.join("tokenizer_config.json");
    let config = read_json::<Map<String, Value>>(&config_path)?.unwrap_or_default();
    if let (Some(Value::Bool(asked)), Some("BertNormalizer")) = (config.get("do_lower_case"), kind(normalizer))
        && *asked != lowers
    {
        let what = format!("do_lower_case {asked} with a tokenizer.json that says otherwise");
        return Err(SpecError::unsupported(&config_path, what));
    }
    Ok(path)
}

/// The length at which `tokenizer.json` itself cuts a text. Of a static model, and of no other, the reference library
/// leaves that as it is.
pub(super) fn own_limit(path: &Path) -> Result<Option<usize>, SpecError> {
    let tokenizer = read_json::<Map<String, Value>>(path)?.unwrap_or_default();
    let Some(truncation) = tokenizer.get("truncation").filter(|truncation| !truncation.is_null()) else {
        return Ok(None);
    };
    if truncation["direction"] != "Right" {
        return Err(SpecError::unsupported(path, format!("truncation {truncation}")));
    }
    let limit = truncation["max_length"].as_u64().and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.ok_or_else(|| SpecError::invalid(path, "its truncation names no max_length"))?;
    Ok(Some(limit))
}

/// Whether a normaliser leaves no upper case.
fn lowers_everything(normalizer: &Value) -> bool {
    match kind(normalizer) {
        Some("BertNormalizer") => normalizer["lowercase"] == Value::Bool(true),
        Some("Lowercase") => true,
        // The reference library takes a Lowercase anywhere in a sequence for one.
        Some("Sequence") => {
            let steps = normalizer["normalizers"].as_array();
            steps.is_some_and(|steps| steps.iter().any(|step| kind(step) == Some("Lowercase")))
        }
        _ => false,
    }
}

fn kind(normalizer: &Value) -> Option<&str> {
    normalizer.get("type")?.as_str()
}

/// Numbers of tokens by their texts, and what special tokens are called.
pub(super) struct Vocabulary {
    tokenizer: Map<String, Value>,
    config: Map<String, Value>,
    specials: Map<String, Value>,
}

impl Vocabulary {
    pub(super) fn read(directory: &Path) -> Result<Self, SpecError> {
        let read = |name: &str| Ok(read_json::<Map<String, Value>>(&directory.join(name))?.unwrap_or_default());
        Ok(Self {
            tokenizer: read("tokenizer.json")?,
            config: read("tokenizer_config.json")?,
            specials: read("special_tokens_map.json")?,
        })
    }

    /// The number of a token.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let mut added = self.tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        if let Some(found) = added.find(|added| added["content"] == token) {
            return number(&found["id"]);
        }
        match &self.tokenizer.get("model")?["vocab"] {
            Value::Object(ids) => number(ids.get(token)?),
            // A list of pieces with their scores, as SentencePiece has it.
            Value::Array(pieces) => u32::try_from(pieces.iter().position(|piece| piece[0] == token)?).ok(),
            _ => None,
        }
    }

    /// The number of a special token by what it is for, such as `mask_token`.
    pub(super) fn special(&self, name: &str) -> Option<u32> {
        let named = |config: &Map<String, Value>| match config.get(name)? {
            Value::String(token) => Some(token.clone()),
            described => described["content"].as_str().map(str::to_owned),
        };
        let default = match name {
            "mask_token" => "[MASK]",
            "unk_token" => "[UNK]",
            _ => "",
        };
        self.id(&named(&self.config).or_else(|| named(&self.specials)).unwrap_or_else(|| default.to_owned()))
    }
}
