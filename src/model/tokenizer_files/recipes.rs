//! What each class of transformers builds from a vocabulary, merges and the keys of `tokenizer_config.json`.
//!
//! Of `tokenizer.json` these classes take vocabulary, merges, the table of characters of `SentencePiece`, and some the
//! template of special tokens; its own normaliser and its own way of cutting words do not count.

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::added::{NAMES, Token, Tokens, truthy};
use super::class::Class;

/// A tokenizer without its vocabulary.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) model: Model,
    pub(super) special: Special,
    /// Added after all others.
    pub(super) last: Vec<AddedToken>,
}

/// The algorithm, and its settings.
#[derive(Debug)]
pub(super) enum Model {
    WordPiece { unknown: String },
    Bpe { unknown: Option<String>, fuse_unknown: bool, byte_fallback: bool },
    Unigram { unknown: Unknown },
}

/// Which piece stands for what is unknown.
#[derive(Debug)]
pub(super) enum Unknown {
    Number(u64),
    /// The first of this name, of this score if one is given; else that of a number.
    Piece {
        piece: String,
        score: Option<f64>,
        otherwise: u64,
    },
}

/// Where the special tokens around a text come from.
#[derive(Debug)]
pub(super) enum Special {
    /// `tokenizer.json`; else these.
    OfFile(Frame),
    These(Frame),
}

/// Where a vocabulary comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin<'a> {
    /// `tokenizer.json`, with its table of characters.
    File { charsmap: Option<&'a str> },
    /// Files that hold a vocabulary and nothing else.
    Vocabulary,
}

/// The special tokens around a text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    /// What a token is taken for that there is none of.
    pub(super) unknown: Option<String>,
}

/// What a class calls its special tokens where no file names them, in the order of [`NAMES`]; "" where it has none.
fn names(class: Class) -> [&'static str; NAMES.len()] {
    match class {
        Class::AsItIs => [""; NAMES.len()],
        Class::Albert => ["[CLS]", "[SEP]", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"],
        Class::Bert => ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"],
        Class::DebertaV2 => ["[CLS]", "[SEP]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"],
        Class::Gemma => ["<bos>", "<eos>", "<unk>", "", "<pad>", "", "<mask>"],
        Class::Llama => ["<s>", "</s>", "<unk>", "", "", "", ""],
        Class::Mpnet => ["<s>", "</s>", "[UNK]", "</s>", "<pad>", "<s>", "<mask>"],
        Class::Qwen2 => ["", END_OF_TEXT, END_OF_TEXT, "", END_OF_TEXT, "", ""],
        Class::T5 => ["", "</s>", "<unk>", "", "<pad>", "", ""],
        Class::Camembert | Class::Roberta | Class::XlmRoberta => {
            ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"]
        }
    }
}

const END_OF_TEXT: &str = "<|endoftext|>";

/// Adds the names of a class.
pub(super) fn with_names(class: Class, tokens: Tokens) -> Tokens {
    let named = NAMES.into_iter().zip(names(class)).filter(|(_, token)| !token.is_empty());
    let mut tokens = tokens.with_defaults(named);
    if matches!(class, Class::Mpnet | Class::Camembert)
        && let Some(Some(mask)) = tokens.named.get_mut("mask_token")
        && mask.is_bare()
    {
        // It takes the white space before it.
        *mask = Token::with_space_before(&mask.content);
    }
    tokens
}

/// Special tokens that a class adds of itself.
pub(super) fn with_more(class: Class, keys: &Map<String, Value>, mut tokens: Tokens) -> Result<Tokens, String> {
    match class {
        Class::Camembert if tokens.older_extra.is_none() => {
            let unused = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"];
            tokens.older_extra = Some(unused.map(Token::bare).to_vec());
        }
        Class::T5 => {
            let count = keys.get("extra_ids").map_or(Some(100), Value::as_u64).ok_or("extra_ids is no number")?;
            let mut all = tokens.older_extra.take().unwrap_or_default();
            let there = all.iter().filter(|token| token.content.contains("<extra_id_")).count() as u64;
            if there == 0 {
                all.extend((0..count).map(|number| Token::bare(&format!("<extra_id_{number}>"))));
            } else if count > 0 && count != there {
                return Err(format!("{there} tokens <extra_id_…> where extra_ids is {count}"));
            }
            tokens.older_extra = Some(all);
        }
        _ => {}
    }
    Ok(tokens)
}

/// The recipe of a class; `None` where it takes the file as it is.
#[expect(clippy::too_many_lines, reason = "one arm a class, and most of it data")]
pub(super) fn of(
    class: Class,
    keys: &Map<String, Value>,
    tokens: &Tokens,
    origin: Origin<'_>,
) -> Result<Option<Recipe>, String> {
    let keys = Keys(keys);
    let unknown = tokens.name("unk_token").map(str::to_owned);
    let needed = |purpose: &str| {
        let name = tokens.name(purpose).filter(|name| !name.is_empty());
        name.map(str::to_owned).ok_or_else(|| format!("{purpose} is null"))
    };
    let around = |before: &str, after: &str| -> Result<Special, String> {
        let frame = Frame { before: Some(needed(before)?), after: Some(needed(after)?), unknown: unknown.clone() };
        Ok(Special::These(frame))
    };
    let charsmap = match origin {
        Origin::File { charsmap } => charsmap,
        Origin::Vocabulary => None,
    };
    let precompiled = || charsmap.map(|charsmap| json!({"type": "Precompiled", "precompiled_charsmap": charsmap}));
    let pieces = |number: u64| Model::Unigram { unknown: Unknown::Number(number) };
    let recipe = |normalizer: Value, pre_tokenizer: Value, model: Model, special: Special| Recipe {
        normalizer,
        pre_tokenizer,
        model,
        special,
        last: Vec::new(),
    };
    Ok(Some(match class {
        Class::AsItIs => return Ok(None),
        Class::Bert | Class::Mpnet => {
            let normalizer = json!({
                "type": "BertNormalizer",
                "clean_text": true,
                "handle_chinese_chars": keys.flag("tokenize_chinese_chars", true)?,
                "strip_accents": keys.optional_flag("strip_accents")?,
                "lowercase": keys.flag("do_lower_case", true)?,
            });
            let model = Model::WordPiece { unknown: needed("unk_token")? };
            recipe(normalizer, json!({"type": "BertPreTokenizer"}), model, around("cls_token", "sep_token")?)
        }
        Class::Roberta => {
            let model = Model::Bpe { unknown: None, fuse_unknown: false, byte_fallback: false };
            let pre_tokenizer = byte_level(keys.flag("add_prefix_space", false)?, true);
            recipe(Value::Null, pre_tokenizer, model, around("cls_token", "sep_token")?)
        }
        Class::XlmRoberta | Class::Camembert => {
            let model = if class == Class::XlmRoberta {
                pieces(3)
            } else {
                let unknown = Unknown::Piece { piece: needed("unk_token")?, score: None, otherwise: 0 };
                Model::Unigram { unknown }
            };
            let special = around("bos_token", "eos_token")?;
            recipe(precompiled().unwrap_or_default(), words(keys.prepend("always", "never")), model, special)
        }
        Class::T5 => {
            let after = Some(needed("eos_token")?);
            let special = Special::These(Frame { after, unknown: unknown.clone(), before: None });
            recipe(precompiled().unwrap_or_default(), words("always"), pieces(2), special)
        }
        Class::Albert => {
            let mut steps = vec![replace(&json!({"String": "``"}), "\""), replace(&json!({"String": "''"}), "\"")];
            if !keys.truth("keep_accents", false) {
                steps.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
            }
            if keys.truth("do_lower_case", true) {
                steps.push(json!({"type": "Lowercase"}));
            }
            steps.extend(precompiled());
            let frame = Frame { before: Some(needed("cls_token")?), after: Some(needed("sep_token")?), unknown: None };
            let pre_tokenizer = words(keys.prepend("always", "never"));
            recipe(sequence(&steps), pre_tokenizer, pieces(1), Special::OfFile(frame))
        }
        Class::DebertaV2 => {
            let mut steps = Vec::new();
            if keys.truth("do_lower_case", false) {
                steps.push(json!({"type": "Lowercase"}));
            }
            steps.push(replace(&json!({"Regex": r"\s{2,}|[\n\r\t]"}), " "));
            steps.push(json!({"type": "NFC"}));
            steps.push(json!({"type": "Strip", "strip_left": false, "strip_right": true}));
            let mut cuts = Vec::new();
            if keys.truth("split_by_punct", false) {
                cuts.push(json!({"type": "Punctuation", "behavior": "Isolated"}));
            }
            cuts.push(metaspace(keys.prepend("always", "first"), true));
            let otherwise = keys.0.get("unk_id").map_or(Some(1), Value::as_u64).ok_or("unk_id is no number")?;
            let unknown = Unknown::Piece { piece: needed("unk_token")?, score: Some(0.0), otherwise };
            let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": cuts});
            recipe(sequence(&steps), pre_tokenizer, Model::Unigram { unknown }, around("cls_token", "sep_token")?)
        }
        Class::Llama => {
            let model = Model::Bpe { unknown: None, fuse_unknown: true, byte_fallback: true };
            let prefix = keys.0.get("add_prefix_space").is_none_or(|value| value.is_null() || truthy(value));
            let scheme = match (prefix, keys.truth("legacy", false)) {
                (false, _) => "never",
                (true, true) => "always",
                (true, false) => "first",
            };
            recipe(Value::Null, metaspace(scheme, false), model, Special::OfFile(Frame::default()))
        }
        Class::Gemma => {
            let model = Model::Bpe { unknown: Some(needed("unk_token")?), fuse_unknown: true, byte_fallback: true };
            let pre_tokenizer = split(&json!({"String": " "}), "MergedWithPrevious");
            recipe(replace(&json!({"String": " "}), "▁"), pre_tokenizer, model, Special::OfFile(Frame::default()))
        }
        Class::Qwen2 => {
            let model = Model::Bpe { unknown: None, fuse_unknown: false, byte_fallback: false };
            let prefix = keys.0.get("add_prefix_space").is_some_and(truthy);
            let cuts = [split(&json!({"Regex": QWEN2_WORDS}), "Isolated"), byte_level(prefix, false)];
            let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": cuts});
            let token = |flag: &str, name: &str| {
                let asked = origin == Origin::Vocabulary && keys.truth(flag, false);
                tokens.name(name).filter(|_| asked).map(str::to_owned)
            };
            let (before, after) = (token("add_bos_token", "bos_token"), token("add_eos_token", "eos_token"));
            let special = Special::OfFile(Frame { before, after, unknown: unknown.clone() });
            Recipe { last: tokens.all_special(), ..recipe(json!({"type": "NFC"}), pre_tokenizer, model, special) }
        }
    }))
}

/// Where Qwen2 cuts: short forms of English, words with a character before them, digits, signs, white space.
const QWEN2_WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// The keys of `tokenizer_config.json`.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        match self.0.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| format!("{key} is {value}, neither true nor false")),
        }
    }

    fn optional_flag(&self, key: &str) -> Result<Option<bool>, String> {
        if self.0.get(key).is_none_or(Value::is_null) { Ok(None) } else { self.flag(key, false).map(Some) }
    }

    /// As [`Keys::flag`], where any value will do.
    fn truth(&self, key: &str, default: bool) -> bool {
        self.0.get(key).map_or(default, truthy)
    }

    fn prepend(&self, with: &'static str, without: &'static str) -> &'static str {
        if self.truth("add_prefix_space", true) { with } else { without }
    }
}

fn replace(pattern: &Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

fn split(pattern: &Value, behavior: &str) -> Value {
    json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": false})
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex})
}

fn metaspace(prepend_scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend_scheme, "split": split})
}

fn words(prepend_scheme: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace(prepend_scheme, true)]})
}

fn sequence(normalizers: &[Value]) -> Value {
    json!({"type": "Sequence", "normalizers": normalizers})
}
