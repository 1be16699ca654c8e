//! Text to tokens, with the model's own tokenizer.
//!
//! `tokenizer.json` says how to cut a text; how much of it a model sees is said by the model's limit alone. Truncation
//! and padding stored in the file are ignored, as sentence-transformers does. What the limit cuts off is counted.

use std::path::{Path, PathBuf};

use tokenizers::{Encoding, PostProcessor, TruncationParams};

use crate::domain::TokenSeq;

/// A tokenizer bound to one model's limit and prompt.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
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
        let truncation = TruncationParams { max_length, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(load_error)?;
        Ok(Self { inner, prompt })
    }

    /// Token ids of the prompt and the text together.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str) -> Result<TokenSeq, TokenizerError> {
        let encoding = if self.prompt.is_empty() {
            self.inner.encode_fast(text, true)
        } else {
            self.inner.encode_fast(format!("{}{text}", self.prompt), true)
        }
        .map_err(TokenizerError::Encode)?;
        // What did not fit comes as further encodings, each with special tokens of its own.
        let truncated = encoding.get_overflowing().iter().map(text_tokens).sum::<usize>();
        Ok(TokenSeq { ids: encoding.get_ids().to_vec(), truncated: u32::try_from(truncated).unwrap_or(u32::MAX) })
    }
}

/// Tokens that the template did not add.
fn text_tokens(encoding: &Encoding) -> usize {
    encoding.get_special_tokens_mask().iter().filter(|&&special| special == 0).count()
}
