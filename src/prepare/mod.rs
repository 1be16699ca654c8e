//! Text to tokens, with the model's own tokenizer.
//!
//! The model's files say how to cut a text ([`TokenizerFiles`]); how much of it a model sees is said by the model's limit
//! alone. Lengths stored in `tokenizer.json` are ignored, as sentence-transformers does. What the limit cuts off is counted.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::models::bpe::BPE;
use tokenizers::{AddedToken, PostProcessor, TruncationDirection, TruncationParams};

use crate::domain::TokenSeq;
use crate::model::Profile;
use crate::model::spec::{Architecture, Expansion, ModelSpec, SpecError, TextRole};
use crate::model::tokenizer_files::TokenizerFiles;

/// A tokenizer bound to one model's limit and prompt.
pub struct Tokenizer {
    /// Cuts nothing off.
    whole: Arc<tokenizers::Tokenizer>,
    /// Cuts at the limit and adds special tokens; it has no vocabulary.
    cut: tokenizers::Tokenizer,
    /// Special tokens that every text gets.
    special: usize,
    /// Whether it gets them.
    add_special: bool,
    prompt: String,
    /// What fills texts up.
    expansion: Option<Expansion>,
    /// How many words the model has, where its configuration says so.
    words: Option<u32>,
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
    /// The files are missing or broken.
    #[error(transparent)]
    Files(#[from] SpecError),
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
    /// A text has a token that the model has no vector of.
    #[error(
        "it has the token {token:?}, which has the number {id}, but the model has only {words} words (vocab_size in \
         config.json); take such tokens out of the text, or fetch the model's own tokenizer"
    )]
    NoSuchWord {
        /// The token.
        token: String,
        /// Its number.
        id: u32,
        /// How many words there are.
        words: u32,
    },
}

/// What is said where the library says nothing.
const CONTRADICTION: &str = "its parts contradict each other, so that the tokenizer library gives up";

impl Tokenizer {
    /// Loads `tokenizer.json`. Every text gets `prompt` before it and at most `max_length` tokens, special tokens and
    /// prompt included.
    ///
    /// # Errors
    /// [`TokenizerError::Files`], [`TokenizerError::Load`], [`TokenizerError::NoRoom`].
    pub fn load(path: &Path, max_length: usize, prompt: String) -> Result<Self, TokenizerError> {
        Self::from_files(&TokenizerFiles::as_it_is(path)?, max_length, prompt)
    }

    /// The tokenizer of a directory's files, without a model's properties.
    ///
    /// # Errors
    /// [`TokenizerError::Load`], [`TokenizerError::NoRoom`].
    pub fn from_files(files: &TokenizerFiles, max_length: usize, prompt: String) -> Result<Self, TokenizerError> {
        Self::new(files, max_length, prompt, true, &[])
    }

    /// The tokenizer of a model for the texts of a profile, as [`Tokenizer::load`]; with special tokens only where the
    /// model wants them, and queries filled up where it wants that.
    ///
    /// # Errors
    /// [`TokenizerError::Load`], [`TokenizerError::NoRoom`].
    pub fn of(spec: &ModelSpec, profile: &Profile) -> Result<Self, TokenizerError> {
        let markers = spec.multi.as_ref().map_or(&[][..], |head| &head.markers);
        let (max_length, prompt) = (profile.max_length, profile.prompt.text.clone());
        let plain = Self::new(&spec.tokenizer, max_length, prompt, spec.special_tokens, markers)?;
        Ok(Self { expansion: expansion(spec, profile.role), words: words(spec), ..plain })
    }

    /// The same for another profile of the model. What is loaded is shared.
    ///
    /// # Errors
    /// [`TokenizerError::NoRoom`].
    pub fn with(&self, spec: &ModelSpec, profile: &Profile) -> Result<Self, TokenizerError> {
        let (whole, cut_left) = (Arc::clone(&self.whole), spec.tokenizer.cut_left);
        let view = Self::cutting(whole, cut_left, profile.max_length, self.add_special)
            .map_err(|source| TokenizerError::Load { path: spec.tokenizer.path.clone(), source })??;
        let prompt = profile.prompt.text.clone();
        Ok(Self { prompt, expansion: expansion(spec, profile.role), words: self.words, ..view })
    }

    fn new(
        files: &TokenizerFiles,
        max_length: usize,
        prompt: String,
        add_special: bool,
        markers: &[String],
    ) -> Result<Self, TokenizerError> {
        let load_error = |source| TokenizerError::Load { path: files.path.clone(), source };
        // Of some broken files the library makes a panic.
        let mut whole = catch_unwind(|| files.build())
            .unwrap_or_else(|_| Err("it cannot be understood".into()))
            .map_err(load_error)?;
        markers.iter().try_for_each(|marker| make_one_token(&mut whole, marker)).map_err(load_error)?;
        whole.with_padding(None);
        whole.with_truncation(None).map_err(load_error)?;
        let plain = Self::cutting(Arc::new(whole), files.cut_left, max_length, add_special).map_err(load_error)??;
        let tokenizer = Self { prompt, ..plain };
        match tokenizer.encode_whole("") {
            Err(TokenizerError::Encode(source)) => Err(load_error(source)),
            _ => Ok(tokenizer),
        }
    }

    /// Without prompt. The outer error is the library's.
    fn cutting(
        whole: Arc<tokenizers::Tokenizer>,
        cut_left: bool,
        max_length: usize,
        add_special: bool,
    ) -> tokenizers::Result<Result<Self, TokenizerError>> {
        let template = whole.get_post_processor();
        let special = template.filter(|_| add_special).map_or(0, |template| template.added_tokens(false));
        if max_length <= special {
            return Ok(Err(TokenizerError::NoRoom { max_length, special }));
        }
        let mut cut = tokenizers::Tokenizer::new(BPE::default());
        cut.with_post_processor(template.cloned());
        let direction = if cut_left { TruncationDirection::Left } else { TruncationDirection::Right };
        cut.with_truncation(Some(TruncationParams { max_length, direction, ..TruncationParams::default() }))?;
        Ok(Ok(Self { whole, cut, special, add_special, prompt: String::new(), expansion: None, words: None }))
    }

    /// Token ids of the prompt and the text together.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`], [`TokenizerError::NoSuchWord`].
    pub fn encode(&self, text: &str) -> Result<TokenSeq, TokenizerError> {
        let text = match self.prompt.as_str() {
            "" => Cow::Borrowed(text),
            prompt => Cow::Owned(format!("{prompt}{text}")),
        };
        let sequence = self.encode_whole(&text)?;
        match self.words.and_then(|words| Some((words, *sequence.ids.iter().find(|id| **id >= words)?))) {
            None => Ok(self.filled_up(sequence)),
            Some((words, id)) => {
                let token = self.whole.id_to_token(id).unwrap_or_default();
                Err(TokenizerError::NoSuchWord { token, id, words })
            }
        }
    }

    fn filled_up(&self, mut sequence: TokenSeq) -> TokenSeq {
        let Some(Expansion { token, length, seen, .. }) = self.expansion else { return sequence };
        let missing = length.saturating_sub(sequence.ids.len());
        sequence.ids.extend(std::iter::repeat_n(token, missing));
        sequence.unseen = if seen { 0 } else { u32::try_from(missing).unwrap_or(u32::MAX) };
        sequence
    }

    /// How many leading tokens of every text are the prompt's, for a model that reads the prompt and does not pool it.
    ///
    /// Counted as sentence-transformers counts them: as many as the prompt alone has, one less when its last is a
    /// special token. Where the prompt's last characters and the text's first make one token, that is one too many.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn prompt_tokens(&self) -> Result<usize, TokenizerError> {
        if self.prompt.is_empty() {
            return Ok(0);
        }
        let ids = self.encode_whole(&self.prompt)?.ids;
        let added = self.whole.get_added_tokens_decoder();
        let ends_specially = ids.last().is_some_and(|last| added.get(last).is_some_and(|token| token.special));
        Ok(ids.len() - usize::from(ends_specially))
    }

    /// The library panics where parts of a file contradict each other, such as a template and its special tokens.
    fn encode_whole(&self, text: &str) -> Result<TokenSeq, TokenizerError> {
        let work = AssertUnwindSafe(|| self.encode_by_library(text));
        catch_unwind(work).unwrap_or_else(|_| Err(TokenizerError::Encode(CONTRADICTION.into())))
    }

    fn encode_by_library(&self, text: &str) -> Result<TokenSeq, TokenizerError> {
        let whole = self.whole.encode_fast(text, false).map_err(TokenizerError::Encode)?;
        let tokens = whole.len() + self.special;
        let cut = self.cut.post_process(whole, None, self.add_special).map_err(TokenizerError::Encode)?;
        let truncated = u32::try_from(tokens.saturating_sub(cut.len())).unwrap_or(u32::MAX);
        Ok(TokenSeq { ids: cut.get_ids().to_vec(), truncated, unseen: 0 })
    }
}

/// What fills texts of this role up.
fn expansion(spec: &ModelSpec, role: TextRole) -> Option<Expansion> {
    spec.multi.as_ref().and_then(|head| head.expansion).filter(|_| role == TextRole::Query)
}

/// How many words a model has. Only where its configuration says so: what it is else is known to the layers.
fn words(spec: &ModelSpec) -> Option<u32> {
    let number = |key: &str| u32::try_from(spec.config.get(key)?.as_u64()?).ok();
    let words = number("vocab_size")?;
    Some(match spec.architecture {
        // It may have more rows than words.
        Architecture::NomicBert => words.next_multiple_of(number("pad_vocab_size_multiple").unwrap_or(1).max(1)),
        _ => words,
    })
}

/// Makes a prompt's first word one token, if it is known as one and its characters would be cut otherwise: models were
/// trained with its number, however it is spelled. A prompt that is known with the white space behind it is taken so.
fn make_one_token(tokenizer: &mut tokenizers::Tokenizer, marker: &str) -> tokenizers::Result<()> {
    let Some(word) = marker.split_whitespace().next() else { return Ok(()) };
    let Some((token, id)) = [marker, word].into_iter().find_map(|token| Some((token, tokenizer.token_to_id(token)?)))
    else {
        return Ok(());
    };
    let is_one = tokenizer.encode_fast(token, false).is_ok_and(|found| found.get_ids() == [id]);
    if !is_one {
        tokenizer.add_special_tokens([AddedToken::from(token, true)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_whose_parts_contradict_each_other_is_refused() {
        let text = std::fs::read_to_string("tests/fixtures/models/bert-minilm/tokenizer.json").unwrap();
        let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
        let special = file["post_processor"]["special_tokens"].as_object_mut().unwrap();
        let first = special.remove("[SEP]").unwrap();
        special.insert("[SEQ]".to_owned(), first);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        std::fs::write(&path, file.to_string()).unwrap();
        let Err(error) = Tokenizer::load(&path, 16, String::new()) else { panic!("it was taken") };
        assert!(error.to_string().contains("tokenizer.json") && error.to_string().contains("fetch"), "{error}");
    }

    #[test]
    fn a_word_that_the_model_does_not_have_fails_its_text_alone() {
        let directory = Path::new("tests/fixtures/models/bert-minilm");
        let mut spec = ModelSpec::read(directory).unwrap();
        let tokenizer =
            |spec: &ModelSpec| Tokenizer::of(spec, &Profile { max_length: 40, ..Profile::default() }).unwrap();
        let ids = tokenizer(&spec).encode("a harbour").unwrap().ids;
        let greatest = *ids.iter().max().unwrap();
        spec.config["vocab_size"] = greatest.into();
        let tokenizer = tokenizer(&spec);
        let error = tokenizer.encode("a harbour").unwrap_err().to_string();
        assert!(error.contains(&greatest.to_string()) && error.contains("vocab_size"), "{error}");
        tokenizer.encode("").unwrap();
    }

    #[test]
    fn texts_may_lose_their_beginning() {
        let path = Path::new("tests/fixtures/models/bert-minilm/tokenizer.json");
        let mut files = TokenizerFiles::as_it_is(path).unwrap();
        let text = "the tide and the harbour and the stones";
        let whole = Tokenizer::from_files(&files, 1000, String::new()).unwrap().encode(text).unwrap().ids;
        files.cut_left = true;
        let cut = Tokenizer::from_files(&files, 6, String::new()).unwrap().encode(text).unwrap();
        assert_eq!((cut.ids[0], &cut.ids[1..]), (whole[0], &whole[whole.len() - 5..]));
        assert_eq!(cut.truncated as usize, whole.len() - 6);
    }

    proptest! {
        #[test]
        fn a_text_is_cut_as_the_library_cuts_it(
            words in proptest::collection::vec("[a-zA-Zäß]{1,12}|[0-9.,!?]{1,3}|漢字|🙂|\\[SEP\\]", 0..60),
            max_length in 3_usize..40,
        ) {
            let path = Path::new("tests/fixtures/models/bert-minilm/tokenizer.json");
            let text = words.join(" ");
            let found = Tokenizer::load(path, max_length, String::new()).unwrap().encode(&text).unwrap();
            let mut library = tokenizers::Tokenizer::from_file(path).unwrap();
            library.with_padding(None);
            library.with_truncation(None).unwrap();
            let whole = library.encode(text.as_str(), true).unwrap().len();
            let truncation = TruncationParams { max_length, ..TruncationParams::default() };
            library.with_truncation(Some(truncation)).unwrap();
            let expected = library.encode(text.as_str(), true).unwrap();
            prop_assert_eq!(&found.ids, expected.get_ids());
            prop_assert_eq!(found.truncated as usize, whole - expected.len());
        }
    }
}
