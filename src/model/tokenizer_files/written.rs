//! The text of a tokenizer that its class builds anew, in the format of `tokenizer.json`.
//!
//! Vocabulary and merges go into it as they stand: they are large, and nothing in them changes.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::read::parse;
use super::recipes::{Model, Recipe, Unknown};
use super::vocabulary as other;
use crate::model::spec::SpecError;

/// Writes it. `path` is the file that vocabulary and merges are from.
pub(super) fn json(
    path: &Path,
    recipe: &Recipe,
    post_processor: &Value,
    vocabulary: Option<&RawValue>,
    merges: Option<&str>,
) -> Result<String, SpecError> {
    let none = || SpecError::invalid(path, "it has no vocabulary");
    let vocabulary = vocabulary.ok_or_else(none)?;
    let is_list = vocabulary.get().starts_with('[');
    let by_number = if is_list && !matches!(recipe.model, Model::Unigram { .. }) {
        Some(other::numbered(&parse::<Vec<Value>>(vocabulary.get().as_bytes(), path)?))
    } else {
        None
    };
    let vocab: &RawValue = match &by_number {
        Some(text) => parse(text.as_bytes(), path)?,
        None => vocabulary,
    };
    let merges: &RawValue = parse(merges.unwrap_or("[]").as_bytes(), path)?;
    let model = match &recipe.model {
        Model::WordPiece { unknown } => WrittenModel::WordPiece {
            unk_token: unknown,
            continuing_subword_prefix: "##",
            max_input_chars_per_word: 100,
            vocab,
        },
        Model::Bpe { unknown, fuse_unknown, byte_fallback } => WrittenModel::Bpe {
            dropout: None,
            unk_token: unknown.as_deref(),
            fuse_unk: *fuse_unknown,
            byte_fallback: *byte_fallback,
            ignore_merges: false,
            vocab,
            merges,
        },
        Model::Unigram { .. } if !is_list => {
            return Err(SpecError::invalid(path, "its vocabulary has no scores, which its class wants"));
        }
        Model::Unigram { unknown } => {
            WrittenModel::Unigram { unk_id: unknown_id(unknown, vocab, path)?, byte_fallback: false, vocab }
        }
    };
    let written = Written {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: [],
        normalizer: &recipe.normalizer,
        pre_tokenizer: &recipe.pre_tokenizer,
        post_processor,
        decoder: None,
        model,
    };
    serde_json::to_string(&written).map_err(|source| SpecError::Json { path: path.to_owned(), source })
}

/// A `tokenizer.json` to be written.
#[derive(Serialize)]
struct Written<'a> {
    version: &'a str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: [(); 0],
    normalizer: &'a Value,
    pre_tokenizer: &'a Value,
    post_processor: &'a Value,
    decoder: Option<()>,
    model: WrittenModel<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum WrittenModel<'a> {
    WordPiece {
        unk_token: &'a str,
        continuing_subword_prefix: &'a str,
        max_input_chars_per_word: usize,
        vocab: &'a RawValue,
    },
    #[serde(rename = "BPE")]
    Bpe {
        dropout: Option<()>,
        unk_token: Option<&'a str>,
        fuse_unk: bool,
        byte_fallback: bool,
        ignore_merges: bool,
        vocab: &'a RawValue,
        merges: &'a RawValue,
    },
    Unigram {
        unk_id: u64,
        byte_fallback: bool,
        vocab: &'a RawValue,
    },
}

fn unknown_id(unknown: &Unknown, vocabulary: &RawValue, path: &Path) -> Result<u64, SpecError> {
    let Unknown::Piece { piece, score, otherwise } = unknown else {
        let Unknown::Number(number) = unknown else { unreachable!("there is no third kind") };
        return Ok(*number);
    };
    let pieces: Vec<(String, f64)> = parse(vocabulary.get().as_bytes(), path)?;
    let is_it = |(name, found): &(String, f64)| name == piece && score.is_none_or(|score| (score - found).abs() == 0.0);
    Ok(pieces.iter().position(is_it).map_or(*otherwise, |place| place as u64))
}
