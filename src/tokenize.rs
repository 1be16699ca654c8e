//! Text to tokens, with the model's own tokenizer.
//!
//! `tokenizer.json` says how to cut a text; how much of it a model sees is said by the model's limit alone. Truncation
//! and padding stored in the file are ignored, as sentence-transformers does. What the limit cuts off is counted.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use tokenizers::{PostProcessor, TruncationParams};

use crate::domain::TokenSeq;

/// A tokenizer bound to one model's limit and prompt.
pub struct Tokenizer {
    /// Cuts nothing off.
    whole: tokenizers::Tokenizer,
    /// Cuts at the limit, and stops reading there, so that it cannot tell how much it has cut off.
    cut: tokenizers::Tokenizer,
    max_length: usize,
    prompt: String,
}

/// A tokenizer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is missing or unreadable.
    #[error("tokenizer {}: {source}; fetch the model anew", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The tokenizer library's own words.
        source: tokenizers::Error,
    },
    /// The limit leaves no room for text beside the special tokens.
    #[error(
        "a limit of {max_length} tokens leaves no room for text: the tokenizer adds {special} special tokens; raise --max-length"
    )]
    NoRoom {
        /// The limit.
        max_length: usize,
        /// Special tokens that every text gets.
        special: usize,
    },
    /// A text cannot be tokenised.
    #[error("cannot be tokenised: {0}")]
    Encode(tokenizers::Error),
}

impl Tokenizer {
    /// Loads `tokenizer.json`. Every text gets `prompt` before it and at most `max_length` tokens, special tokens and
    /// prompt included.
    ///
    /// # Errors
    /// [`TokenizerError::Load`], [`TokenizerError::NoRoom`].
    pub fn load(path: &Path, max_length: usize, prompt: String) -> Result<Self, TokenizerError> {
        let load_error = |source| TokenizerError::Load { path: path.into(), source };
        let mut inner = tokenizers::Tokenizer::from_file(path).map_err(load_error)?;
        let special = inner.get_post_processor().map_or(0, |template| template.added_tokens(false));
        if max_length <= special {
            return Err(TokenizerError::NoRoom { max_length, special });
        }
        inner.with_padding(None);
        inner.with_truncation(None).map_err(load_error)?;
        let mut cut = inner.clone();
        let truncation = TruncationParams { max_length, ..TruncationParams::default() };
        cut.with_truncation(Some(truncation)).map_err(load_error)?;
        Ok(Self { whole: inner, cut, max_length, prompt })
    }

    /// Token ids of the prompt and the text together.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str) -> Result<TokenSeq, TokenizerError> {
        let text = match self.prompt.as_str() {
            "" => Cow::Borrowed(text),
            prompt => Cow::Owned(format!("{prompt}{text}")),
        };
        let encode = |tokenizer: &tokenizers::Tokenizer| {
            tokenizer.encode_fast(text.as_ref(), true).map_err(TokenizerError::Encode)
        };
        let whole = encode(&self.whole)?;
        if whole.len() <= self.max_length {
            return Ok(TokenSeq { ids: whole.get_ids().to_vec(), truncated: 0 });
        }
        let ids = encode(&self.cut)?.get_ids().to_vec();
        let truncated = u32::try_from(whole.len() - ids.len()).unwrap_or(u32::MAX);
        Ok(TokenSeq { ids, truncated })
    }
}
