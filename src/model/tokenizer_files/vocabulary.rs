//! Vocabularies: as other files than `tokenizer.json` have them, and what number a token has.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use super::read::parse;
use super::{NamedBy, TokenizerFiles};
use crate::model::spec::SpecError;

/// Numbers of tokens by their texts, and what special tokens are called.
pub struct Vocabulary {
    ids: HashMap<String, u32>,
    named: Vec<(String, String)>,
    named_by: NamedBy,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Option<Vec<AddedToken>>,
    #[serde(default)]
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: Option<Words>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Numbers(HashMap<String, u32>),
    /// With their scores, as `SentencePiece` has it.
    Pieces(Vec<(String, f64)>),
}

impl Vocabulary {
    /// The vocabulary of a tokenizer, added tokens included.
    ///
    /// # Errors
    /// When it is broken.
    pub fn of(files: &TokenizerFiles) -> Result<Self, SpecError> {
        let file: File = parse(files.json.as_bytes(), &files.path)?;
        let mut ids = match file.model.and_then(|model| model.vocab) {
            Some(Words::Numbers(ids)) => ids,
            Some(Words::Pieces(pieces)) => (0..).zip(pieces).map(|(number, (piece, _))| (piece, number)).collect(),
            None => HashMap::new(),
        };
        let (size, mut greatest) = (u32::try_from(ids.len()).unwrap_or(u32::MAX), None);
        let of_file = file.added_tokens.unwrap_or_default();
        for call in std::iter::once(&of_file).chain(&files.added) {
            // As the tokenizer library numbers them.
            let mut next =
                greatest.filter(|greatest| *greatest >= size || size == 0).map_or(size, |greatest| greatest + 1);
            for token in call.iter().filter(|token| !token.content.is_empty()) {
                let id = *ids.entry(token.content.clone()).or_insert_with(|| {
                    next += 1;
                    next - 1
                });
                greatest = greatest.max(Some(id));
            }
        }
        Ok(Self { ids, named: files.named.clone(), named_by: files.named_by })
    }

    /// The number of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// The number of a special token by what it is for, such as `mask_token`.
    pub fn special(&self, name: &str) -> Option<u32> {
        let named = self.named.iter().find(|(purpose, _)| purpose == name).map(|(_, token)| token.as_str());
        // Where neither a file nor a class names them.
        let usual = match name {
            "mask_token" if self.named_by == NamedBy::Files => Some("[MASK]"),
            "unk_token" if self.named_by == NamedBy::Files => Some("[UNK]"),
            _ => None,
        };
        self.id(named.or(usual)?)
    }
}

/// `vocab.txt`: a token a line.
pub(super) fn of_lines(text: &str) -> String {
    let numbered: BTreeMap<&str, usize> =
        text.lines().map(str::trim_end).enumerate().map(|(number, token)| (token, number)).collect();
    serde_json::json!(numbered).to_string()
}

/// `merges.txt`: two parts a line.
pub(super) fn merges_of_lines(text: &str) -> String {
    let merges: Vec<&str> = text.lines().filter(|line| !line.starts_with("#version")).collect();
    serde_json::json!(merges).to_string()
}

/// A list of tokens, or of tokens with scores, by number.
pub(super) fn numbered(list: &[Value]) -> String {
    let token = |entry: &Value| entry.as_str().or_else(|| entry[0].as_str()).unwrap_or_default().to_owned();
    let numbered: BTreeMap<String, usize> =
        list.iter().enumerate().map(|(number, entry)| (token(entry), number)).collect();
    serde_json::json!(numbered).to_string()
}
