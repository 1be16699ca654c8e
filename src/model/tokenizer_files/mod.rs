//! The tokenizer that a directory's files make together, as transformers builds it.
//!
//! `tokenizer.json` is not the whole of it, and often not what counts: the class that the directory names may take only
//! the vocabulary from it (`recipes`), other files may add tokens (`added`), and there need be no such file at all, where
//! a vocabulary and a class suffice. What comes out is one text in the format of `tokenizer.json`, tokens that are added
//! to it, and what that format cannot say.

mod added;
mod canonical;
mod class;
mod read;
mod recipes;
#[cfg(test)]
mod tests;
mod vocabulary;
mod written;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokenizers::normalizers::{Lowercase, NormalizerWrapper, Sequence};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PostProcessorWrapper};

use self::added::{Sources, Tokens, truthy};
use self::class::Class;
use self::read::{parse, read_bytes, read_json, text};
use self::recipes::{Frame, Origin, Recipe, Special};
pub use self::vocabulary::Vocabulary;
use super::spec::SpecError;
use crate::domain::Digest;

/// Whether texts are lower-cased before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InputCase {
    /// They stay as they are.
    #[default]
    AsIs,
    /// All letters become small.
    Lower,
}

/// What names special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NamedBy {
    /// Only the directory's files.
    Files,
    /// The files, and the class where they do not.
    Class,
}

/// What the files of a tokenizer make together.
#[derive(Clone, PartialEq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`, or the vocabulary that takes its place.
    pub path: PathBuf,
    /// In the format of `tokenizer.json`.
    json: Arc<str>,
    /// Tokens that are added to those in it, call by call.
    added: Vec<Vec<AddedToken>>,
    /// The special tokens around a text, where not the text says them.
    frame: Option<Frame>,
    case: InputCase,
    /// Whether special tokens in a text are cut like other words.
    split_special: bool,
    /// Whether texts that are too long lose their beginning.
    pub cut_left: bool,
    /// Whether a template gives some tokens of a single text another type than 0.
    pub second_types: bool,
    /// What special tokens are called, by what they are for.
    named: Vec<(String, String)>,
    named_by: NamedBy,
    /// What a user should know about how the files were understood.
    pub notes: Vec<String>,
}

/// `tokenizer.json`, its large parts as they stand.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    truncation: Option<Value>,
    #[serde(default)]
    padding: Option<Value>,
    #[serde(default)]
    added_tokens: Option<Vec<Value>>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct FileModel<'a> {
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(borrow, default)]
    vocab: Option<&'a RawValue>,
    #[serde(borrow, default)]
    merges: Option<&'a RawValue>,
}

/// The files beside `tokenizer.json`.
struct Beside {
    config: Map<String, Value>,
    tokenizer_config: Map<String, Value>,
    special_tokens_map: Option<Map<String, Value>>,
    added_tokens: Option<Map<String, Value>>,
}

impl Beside {
    fn read(directory: &Path) -> Result<Self, SpecError> {
        let read = |name: &str| read_json(&directory.join(name));
        Ok(Self {
            config: read("config.json")?.unwrap_or_default(),
            tokenizer_config: read("tokenizer_config.json")?.unwrap_or_default(),
            special_tokens_map: read("special_tokens_map.json")?,
            added_tokens: read("added_tokens.json")?,
        })
    }
}

impl TokenizerFiles {
    /// Reads what transformers would make of a directory, with the step that sentence-transformers puts before it.
    ///
    /// # Errors
    /// When a file is missing or broken, or asks for something that is not implemented.
    pub fn read(directory: &Path, case: InputCase) -> Result<Self, SpecError> {
        let beside = Beside::read(directory)?;
        let config_path = directory.join("tokenizer_config.json");
        refuse_other_files(&beside.tokenizer_config, &config_path)?;
        let path = directory.join("tokenizer.json");
        let bytes = read_bytes(&path)?;
        let byte_level = bytes.as_ref().is_some_and(|bytes| find(bytes, b"\"ByteLevel\""));
        let class = class::of(&beside.config, &beside.tokenizer_config, byte_level)
            .map_err(|what| SpecError::unsupported(&config_path, format!("a tokenizer of {what}")))?;
        let tokenizer = match bytes {
            Some(bytes) => Self::of_file(path, &bytes, class, &beside)?,
            None => Self::of_vocabulary(directory, class, &beside)?,
        };
        tokenizer.with_settings(&beside.tokenizer_config, &config_path, case)
    }

    /// A `tokenizer.json` as it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn as_it_is(path: &Path) -> Result<Self, SpecError> {
        let bytes = read_bytes(path)?.ok_or_else(|| missing(path))?;
        let file: File<'_> = parse(&bytes, path)?;
        let json = text(&bytes, path)?;
        Ok(Self { cut_left: cuts_left(&file), ..Self::new(path.to_owned(), json) })
    }

    fn new(path: PathBuf, json: Arc<str>) -> Self {
        Self {
            path,
            json,
            added: Vec::new(),
            frame: None,
            case: InputCase::AsIs,
            split_special: false,
            cut_left: false,
            second_types: false,
            named: Vec::new(),
            named_by: NamedBy::Files,
            notes: Vec::new(),
        }
    }

    fn of_file(path: PathBuf, bytes: &[u8], class: Class, beside: &Beside) -> Result<Self, SpecError> {
        let file: File<'_> = parse(bytes, &path)?;
        let model: FileModel<'_> = match file.model {
            Some(model) => parse(model.get().as_bytes(), &path)?,
            None => FileModel::default(),
        };
        // Without a vocabulary nothing can be built; whoever builds it says so.
        let class = model.vocab.map_or(Class::AsItIs, |_| class);
        let padding = file.padding.as_ref().and_then(|padding| padding["pad_token"].as_str());
        let tokens = tokens(class, beside, file.added_tokens.as_deref(), padding)
            .map_err(|what| SpecError::invalid(&path.with_file_name("tokenizer_config.json"), what))?;
        let charsmap = file.normalizer.as_ref().and_then(charsmap);
        let recipe = recipes::of(class, &beside.tokenizer_config, &tokens, Origin::File { charsmap })
            .map_err(|what| SpecError::invalid(&path.with_file_name("tokenizer_config.json"), what))?;
        let cut_left = cuts_left(&file);
        let Some(recipe) = recipe else {
            if let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0) {
                let what = format!("dropout {dropout}, which cuts words at random,");
                return Err(SpecError::unsupported(&path, what));
            }
            let known: Vec<AddedToken> =
                file.added_tokens.iter().flatten().filter_map(|token| AddedToken::deserialize(token).ok()).collect();
            let added = new_among(&known, tokens.to_add(&known));
            let has_types = beside
                .tokenizer_config
                .get("model_input_names")
                .and_then(Value::as_array)
                .is_none_or(|names| names.iter().any(|name| name == "token_type_ids"));
            let second_types = has_types && file.post_processor.as_ref().is_some_and(has_second_type);
            let json = text(bytes, &path)?;
            let new = Self { added, cut_left, second_types, ..Self::new(path, json) };
            return Ok(new.with_names(&tokens, NamedBy::Files));
        };
        let notes = note(&path, &file, &recipe, class);
        let post_processor = match recipe.special {
            Special::OfFile(_) => file.post_processor.unwrap_or_default(),
            Special::These(_) => Value::Null,
        };
        let merges = model.merges.map(RawValue::get);
        let new = Self::rebuilt(path, &recipe, &tokens, &post_processor, model.vocab, merges)?;
        Ok(Self { cut_left, notes, ..new })
    }

    fn of_vocabulary(directory: &Path, class: Class, beside: &Beside) -> Result<Self, SpecError> {
        let absent = missing(&directory.join("tokenizer.json"));
        let (path, vocabulary, merges) = match class {
            Class::Bert | Class::Mpnet => {
                let path = directory.join("vocab.txt");
                let Some(bytes) = read_bytes(&path)? else { return Err(absent) };
                let vocabulary = vocabulary::of_lines(&text(&bytes, &path)?);
                (path, vocabulary, None)
            }
            Class::Roberta | Class::Qwen2 => {
                let (path, merges_path) = (directory.join("vocab.json"), directory.join("merges.txt"));
                let (Some(bytes), Some(merges)) = (read_bytes(&path)?, read_bytes(&merges_path)?) else {
                    return Err(absent);
                };
                parse::<Map<String, Value>>(&bytes, &path)?;
                let merges = vocabulary::merges_of_lines(&text(&merges, &merges_path)?);
                let vocabulary = text(&bytes, &path)?.to_string();
                (path, vocabulary, Some(merges))
            }
            _ => return Err(absent),
        };
        let config_path = directory.join("tokenizer_config.json");
        let invalid = |what| SpecError::invalid(&config_path, what);
        let tokens = tokens(class, beside, None, None).map_err(invalid)?;
        let recipe = recipes::of(class, &beside.tokenizer_config, &tokens, Origin::Vocabulary).map_err(invalid)?;
        let Some(recipe) = recipe else { return Err(absent) };
        let vocabulary: &RawValue = parse(vocabulary.as_bytes(), &path)?;
        Self::rebuilt(path.clone(), &recipe, &tokens, &Value::Null, Some(vocabulary), merges.as_deref())
    }

    fn rebuilt(
        path: PathBuf,
        recipe: &Recipe,
        tokens: &Tokens,
        post_processor: &Value,
        vocabulary: Option<&RawValue>,
        merges: Option<&str>,
    ) -> Result<Self, SpecError> {
        let json = written::json(&path, recipe, post_processor, vocabulary, merges)?;
        let frame = match &recipe.special {
            Special::These(frame) => Some(frame),
            Special::OfFile(frame) => Some(frame).filter(|_| post_processor.is_null()),
        };
        let frame = frame.filter(|frame| frame.before.is_some() || frame.after.is_some()).cloned();
        let first = tokens.to_add(&[]);
        let last = new_among(&first, recipe.last.clone());
        let added = std::iter::once(first).chain(last).filter(|call| !call.is_empty()).collect();
        Ok(Self { added, frame, ..Self::new(path, json.into()) }.with_names(tokens, NamedBy::Class))
    }

    fn with_names(self, tokens: &Tokens, named_by: NamedBy) -> Self {
        let named = |purpose: &&str| Some(((*purpose).to_owned(), tokens.name(purpose)?.to_owned()));
        Self { named: added::NAMES.iter().filter_map(named).collect(), named_by, ..self }
    }

    /// What keys of `tokenizer_config.json` say that is true of every class.
    fn with_settings(self, keys: &Map<String, Value>, path: &Path, case: InputCase) -> Result<Self, SpecError> {
        let cut_left = match keys.get("truncation_side").map(|side| side.as_str().unwrap_or_default()) {
            None => self.cut_left,
            Some("left") => true,
            Some("right") => false,
            Some(_) => {
                let what = format!("truncation_side is {}, neither left nor right", keys["truncation_side"]);
                return Err(SpecError::invalid(path, what));
            }
        };
        let split_special = keys.get("split_special_tokens").is_some_and(truthy);
        if keys.get("fix_mistral_regex").is_some_and(truthy) {
            return Err(SpecError::unsupported(path, "fix_mistral_regex true"));
        }
        Ok(Self { case, split_special, cut_left, ..self })
    }

    /// Builds it.
    ///
    /// # Errors
    /// When the tokenizer library does not take it.
    pub fn build(&self) -> tokenizers::Result<tokenizers::Tokenizer> {
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(self.json.as_bytes())?;
        for call in &self.added {
            tokenizer.add_tokens(call.iter().cloned())?;
        }
        if let Some(frame) = &self.frame {
            let template = frame.template(&tokenizer)?;
            tokenizer.with_post_processor(Some(PostProcessorWrapper::Template(template)));
        }
        if self.case == InputCase::Lower && !tokenizer.get_normalizer().is_some_and(lowers_everything) {
            let mut steps = vec![NormalizerWrapper::Lowercase(Lowercase)];
            steps.extend(tokenizer.get_normalizer().cloned());
            tokenizer.with_normalizer(Some(NormalizerWrapper::Sequence(Sequence::new(steps))))?;
        }
        tokenizer.set_encode_special_tokens(self.split_special);
        Ok(tokenizer)
    }

    /// Digest of all that decides which tokens come out; how the files are written does not matter.
    ///
    /// # Errors
    /// When the text is not that of a tokenizer.
    pub fn digest(&self) -> Result<Digest, SpecError> {
        let Self { json, added, frame, case, split_special, cut_left, .. } = self;
        let file: Value = parse(json.as_bytes(), &self.path)?;
        let text =
            canonical::text(&file, added, frame.as_ref(), [*case == InputCase::Lower, *split_special, *cut_left]);
        Ok(Digest::of(text.as_bytes()))
    }
}

impl fmt::Debug for TokenizerFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenizerFiles")
            .field("path", &self.path)
            .field("bytes", &self.json.len())
            .finish_non_exhaustive()
    }
}

impl Frame {
    fn template(&self, tokenizer: &tokenizers::Tokenizer) -> tokenizers::Result<TemplateProcessing> {
        let id = |token: &String| {
            let found = tokenizer.token_to_id(token);
            found
                .or_else(|| tokenizer.token_to_id(self.unknown.as_ref()?))
                .ok_or_else(|| format!("the special token {token:?} is not in its vocabulary"))
        };
        let ids = [self.before.as_ref().map(id).transpose()?, self.after.as_ref().map(id).transpose()?];
        let single = match ids {
            [Some(_), Some(_)] => "before $A after",
            [Some(_), None] => "before $A",
            [None, Some(_)] => "$A after",
            [None, None] => "$A",
        };
        let tokens = ["before", "after"].into_iter().zip(ids).filter_map(|(name, id)| Some((name.to_owned(), id?)));
        let tokens: Vec<(String, u32)> = tokens.collect();
        let mut builder = TemplateProcessing::builder();
        Ok(builder.try_single(single)?.special_tokens(tokens).build()?)
    }
}

fn tokens(class: Class, beside: &Beside, file: Option<&[Value]>, padding: Option<&str>) -> Result<Tokens, String> {
    let sources = Sources {
        config: &beside.tokenizer_config,
        map: beside.special_tokens_map.as_ref(),
        numbers: beside.added_tokens.as_ref(),
        file,
    };
    let tokens = recipes::with_more(class, &beside.tokenizer_config, Tokens::read(&sources)?)?;
    let tokens = recipes::with_names(class, tokens);
    Ok(match padding {
        Some(padding) => tokens.with_defaults([("pad_token", padding)]),
        None => tokens,
    })
}

/// Those tokens that change something where some are known.
fn new_among(known: &[AddedToken], tokens: Vec<AddedToken>) -> Vec<Vec<AddedToken>> {
    let mut last = known.to_vec();
    let mut new = Vec::new();
    for token in tokens {
        if last.iter().rev().find(|known| known.content == token.content) != Some(&token) {
            last.push(token.clone());
            new.push(token);
        }
    }
    if new.is_empty() { Vec::new() } else { vec![new] }
}

/// What is said where a class does not cut texts as the file does.
fn note(path: &Path, file: &File<'_>, recipe: &Recipe, class: Class) -> Vec<String> {
    let parts = [
        (
            "normalizer",
            canonical::normalizer(file.normalizer.as_ref()),
            canonical::normalizer(Some(&recipe.normalizer)),
        ),
        (
            "pre_tokenizer",
            canonical::pre_tokenizer(file.pre_tokenizer.as_ref()),
            canonical::pre_tokenizer(Some(&recipe.pre_tokenizer)),
        ),
    ];
    let other: Vec<&str> = parts.into_iter().filter(|(_, file, own)| file != own).map(|(name, ..)| name).collect();
    if other.is_empty() {
        return Vec::new();
    }
    let what = other.join(" and ");
    vec![format!(
        "{}: its {what} do not count, for the class ({class:?}) has its own, as in transformers 5",
        path.display()
    )]
}

fn lowers_everything(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        // Lower-casing before it changes nothing.
        NormalizerWrapper::BertNormalizer(bert) => bert.lowercase,
        NormalizerWrapper::Lowercase(_) => true,
        // The reference library takes a Lowercase anywhere in a sequence for one.
        NormalizerWrapper::Sequence(steps) => {
            steps.as_ref().iter().any(|step| matches!(step, NormalizerWrapper::Lowercase(_)))
        }
        _ => false,
    }
}

/// The first table of characters among the steps of a normaliser.
fn charsmap(normalizer: &Value) -> Option<&str> {
    let one = std::slice::from_ref(normalizer);
    let steps = normalizer["normalizers"].as_array().map_or(one, Vec::as_slice);
    steps.iter().find(|step| step["type"] == "Precompiled")?["precompiled_charsmap"].as_str()
}

fn has_second_type(processor: &Value) -> bool {
    let pieces = processor["single"].as_array().into_iter().flatten();
    let mut types = pieces.flat_map(|piece| [&piece["SpecialToken"]["type_id"], &piece["Sequence"]["type_id"]]);
    types.any(|found| found.as_u64().is_some_and(|found| found != 0))
        || processor["processors"].as_array().is_some_and(|all| all.iter().any(has_second_type))
}

fn cuts_left(file: &File<'_>) -> bool {
    file.truncation.as_ref().is_some_and(|truncation| truncation["direction"] == "Left")
}

/// Refuses a directory that has several versions of `tokenizer.json` to choose from.
fn refuse_other_files(keys: &Map<String, Value>, path: &Path) -> Result<(), SpecError> {
    let files = keys.get("fast_tokenizer_files").and_then(Value::as_array).into_iter().flatten();
    match files.into_iter().find(|file| *file != "tokenizer.json") {
        Some(_) => Err(SpecError::unsupported(path, "fast_tokenizer_files, a choice of several,")),
        None => Ok(()),
    }
}

fn missing(path: &Path) -> SpecError {
    let directory = path.parent().unwrap_or(path).display();
    let what = format!(
        "nor is there a vocab.txt, or a vocab.json with merges.txt, that its class could be built from; a tokenizer of \
         SentencePiece becomes one with python -c \"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('{directory}').save_pretrained('{directory}')\""
    );
    SpecError::MissingTokenizer { path: path.to_owned(), what }
}

fn find(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
