//! The tokens that a directory adds to its vocabulary: special ones by what they are for, and any others.
//!
//! They stand in up to four files, which overrule each other in an order of their own. Where
//! `tokenizer_config.json` lists tokens by number (`added_tokens_decoder`), two of the files do not count.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

/// What special tokens may be for, in the order in which they are added.
pub(super) const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token on its way: whether it is normalised may depend on what it turns out to be for.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: Option<bool>,
    special: bool,
    /// Named by its text alone, so that nothing but its text is known.
    bare: bool,
}

impl Token {
    pub(super) fn bare(content: &str) -> Self {
        Self { bare: true, ..Self::described(content) }
    }

    /// One with properties, all of them at what they are by default.
    fn described(content: &str) -> Self {
        Self { content: content.to_owned(), ..Self::default() }
    }

    /// One that takes the white space before it.
    pub(super) fn with_space_before(content: &str) -> Self {
        Self { lstrip: true, ..Self::described(content) }
    }

    /// Whether nothing but its text is known.
    pub(super) fn is_bare(&self) -> bool {
        self.bare
    }

    fn of(map: &Map<String, Value>) -> Result<Self, String> {
        let Some(content) = map.get("content").and_then(Value::as_str) else {
            return Err(format!("a token without content: {}", Value::Object(map.clone())));
        };
        let flag = |key: &str| map.get(key).and_then(Value::as_bool);
        Ok(Self {
            single_word: flag("single_word").unwrap_or(false),
            lstrip: flag("lstrip").unwrap_or(false),
            rstrip: flag("rstrip").unwrap_or(false),
            normalized: flag("normalized"),
            special: flag("special").unwrap_or(false),
            ..Self::described(content)
        })
    }

    /// As the tokenizer library has it.
    fn finished(self) -> AddedToken {
        let special = self.special || self.bare;
        AddedToken {
            content: self.content,
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized.unwrap_or(!special),
            special,
        }
    }
}

/// What all files together say of tokens.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// By number, those of `tokenizer.json` among them where they count.
    numbered: BTreeMap<u64, Token>,
    /// By what they are for; `None` where a file says that there is none.
    pub(super) named: HashMap<String, Option<Token>>,
    /// The same under names of the model's own.
    own: Vec<(String, Token)>,
    /// The others that are special; `None` where no file says anything.
    pub(super) extra: Option<Vec<Token>>,
    /// Those under the older name of the same, where both are there or only an older file has them.
    pub(super) older_extra: Option<Vec<Token>>,
}

/// The files that tokens stand in.
pub(super) struct Sources<'a> {
    pub(super) config: &'a Map<String, Value>,
    /// `special_tokens_map.json`.
    pub(super) map: Option<&'a Map<String, Value>>,
    /// `added_tokens.json`.
    pub(super) numbers: Option<&'a Map<String, Value>>,
    /// `added_tokens` of `tokenizer.json`.
    pub(super) file: Option<&'a [Value]>,
}

impl Tokens {
    pub(super) fn read(sources: &Sources<'_>) -> Result<Self, String> {
        let Sources { config, map, numbers, file } = *sources;
        let mut tokens = Self::default();
        let mut older = config.get("additional_special_tokens");
        let mut extra = config.get("extra_special_tokens");
        if older.is_some() && !extra.is_some_and(truthy) {
            extra = older.take();
        }
        tokens.take_extra(extra)?;
        tokens.older_extra = older.map(list).transpose()?;
        for (key, value) in config {
            tokens.take_named(key, value, false)?;
        }
        if let Some(own) = config.get("model_specific_special_tokens").and_then(Value::as_object) {
            for (key, value) in own {
                tokens.take_own(key, value)?;
            }
        }
        if let Some(numbered) = config.get("added_tokens_decoder") {
            let entries = numbered.as_object().ok_or("added_tokens_decoder is no object")?;
            for (number, token) in entries {
                let number = number.parse().map_err(|_| format!("added_tokens_decoder has the key {number:?}"))?;
                let token = token.as_object().ok_or_else(|| format!("added_tokens_decoder has {token}"))?;
                tokens.numbered.insert(number, Token::of(token)?);
            }
        } else {
            tokens.read_older(map, numbers, file)?;
        }
        let by_content: HashMap<&str, &Token> =
            tokens.numbered.values().map(|token| (token.content.as_str(), token)).collect();
        for token in tokens.named.values_mut().flatten() {
            if let Some(known) = by_content.get(token.content.as_str()) {
                *token = (*known).clone();
            }
        }
        Ok(tokens)
    }

    fn read_older(
        &mut self,
        map: Option<&Map<String, Value>>,
        numbers: Option<&Map<String, Value>>,
        file: Option<&[Value]>,
    ) -> Result<(), String> {
        for (key, value) in map.into_iter().flatten() {
            match (key.as_str(), value) {
                ("extra_special_tokens", Value::Array(_)) => {
                    let mut all = self.extra.take().unwrap_or_default();
                    for token in list_of_special(value)? {
                        if !all.contains(&token) {
                            all.push(token);
                        }
                    }
                    self.extra = Some(all);
                }
                ("extra_special_tokens", _) => self.take_extra(Some(value))?,
                ("additional_special_tokens", _) => self.older_extra = Some(list(value)?),
                _ => self.take_named(key, value, true)?,
            }
        }
        let special: Vec<&str> = NAMES
            .iter()
            .filter_map(|name| self.named.get(*name)?.as_ref())
            .chain(self.extra.iter().flatten())
            .map(|token| token.content.as_str())
            .collect();
        let mut numbered = BTreeMap::new();
        for (content, number) in numbers.into_iter().flatten() {
            let number =
                number.as_u64().ok_or_else(|| format!("added_tokens.json gives {content:?} the number {number}"))?;
            let special = special.contains(&content.as_str());
            let token = Token { normalized: Some(!special), special, ..Token::described(content) };
            numbered.insert(number, token);
        }
        for token in file.into_iter().flatten() {
            let described = token.as_object().ok_or_else(|| format!("added_tokens has {token}"))?;
            let number = described.get("id").and_then(Value::as_u64).ok_or_else(|| format!("{token} has no number"))?;
            numbered.insert(number, Token::of(described)?);
        }
        self.numbered = numbered;
        Ok(())
    }

    fn take_extra(&mut self, value: Option<&Value>) -> Result<(), String> {
        match value {
            None => {}
            // Nothing is said, but the older name does not count any more.
            Some(Value::Null) => self.extra = Some(Vec::new()),
            Some(Value::Object(own)) if !own.contains_key("__type") => {
                for (key, value) in own {
                    self.take_own(key, value)?;
                }
            }
            Some(value) => self.extra = Some(list(value)?),
        }
        Ok(())
    }

    /// Takes a key of a file if it is that of a special token.
    fn take_named(&mut self, key: &str, value: &Value, any_object: bool) -> Result<(), String> {
        if NAMES.contains(&key) {
            let token = if value.is_null() { None } else { Some(token(key, value, any_object)?) };
            self.named.insert(key.to_owned(), token);
        } else if key.ends_with("_token") && (value.is_string() || value.is_object()) {
            match token(key, value, any_object) {
                Ok(token) => self.own.push((key.to_owned(), token)),
                // An object that describes no token is none.
                Err(_) if !any_object => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take_own(&mut self, key: &str, value: &Value) -> Result<(), String> {
        self.own.retain(|(known, _)| known != key);
        self.own.push((key.to_owned(), token(key, value, false)?));
        Ok(())
    }

    /// What is named, with a class's own names for what no file names.
    pub(super) fn with_defaults<'a>(mut self, defaults: impl IntoIterator<Item = (&'static str, &'a str)>) -> Self {
        for (name, token) in defaults {
            self.named.entry((*name).to_owned()).or_insert_with(|| Some(Token::bare(token)));
        }
        self
    }

    /// The text of the token for a purpose.
    pub(super) fn name(&self, purpose: &str) -> Option<&str> {
        Some(self.named.get(purpose)?.as_ref()?.content.as_str())
    }

    fn all_named(&self) -> impl Iterator<Item = &Token> {
        let named = NAMES.iter().filter_map(|name| self.named.get(*name)?.as_ref());
        named.chain(self.own.iter().map(|(_, token)| token))
    }

    fn others(&self) -> &[Token] {
        self.extra.as_deref().or(self.older_extra.as_deref()).unwrap_or_default()
    }

    /// What is added to a tokenizer that knows the tokens of `known` already, in order.
    pub(super) fn to_add(&self, known: &[AddedToken]) -> Vec<AddedToken> {
        let mut to_add: Vec<Token> = self.numbered.values().cloned().collect();
        let is_known = |token: &Token| {
            known.iter().any(|known| known.content == token.content)
                || self.numbered.values().any(|known| known.content == token.content)
        };
        for token in self.all_named().chain(self.others()) {
            if !is_known(token) && !to_add.contains(token) {
                to_add.push(token.clone());
            }
        }
        let named: Vec<&str> = self.all_named().map(|token| token.content.as_str()).collect();
        let finish = |token: Token| {
            let special = token.special || named.contains(&token.content.as_str());
            Token { special, ..token }.finished()
        };
        to_add.into_iter().map(finish).collect()
    }

    /// All special tokens, each once, as texts alone.
    pub(super) fn all_special(&self) -> Vec<AddedToken> {
        let mut all: Vec<AddedToken> = Vec::new();
        for token in self.all_named().chain(self.others()) {
            if all.iter().all(|known| known.content != token.content) {
                all.push(AddedToken::from(token.content.as_str(), true));
            }
        }
        all
    }
}

fn token(key: &str, value: &Value, any_object: bool) -> Result<Token, String> {
    match value {
        Value::String(content) => Ok(Token::bare(content)),
        Value::Object(map) if any_object => Ok(Token { special: true, ..Token::of(map)? }),
        Value::Object(map) if map.get("__type").is_some_and(|kind| kind == "AddedToken") => Token::of(map),
        other => Err(format!("{key} {other} is no token")),
    }
}

fn list(value: &Value) -> Result<Vec<Token>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(tokens) => tokens.iter().map(|value| token("a special token", value, false)).collect(),
        other => Err(format!("{other} is no list of special tokens")),
    }
}

fn list_of_special(value: &Value) -> Result<Vec<Token>, String> {
    value.as_array().into_iter().flatten().map(|value| token("a special token", value, true)).collect()
}

/// Whether Python takes a value for true.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}
