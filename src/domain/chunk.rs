//! A chunk: one text of a collection with the identity and the metadata that its author gave it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Running number of a chunk in its collection, from 0, in reading order. One output row per input chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub u64);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a chunk is called in every output; unique within its collection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChunkId(String);

impl ChunkId {
    /// An id that the input gave.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id of a chunk that has none of its own: `<relative path>#<index>`.
    pub fn from_place(source: &Source) -> Self {
        Self(format!("{}#{}", source.file, source.index))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a collection: that of its directory, and of its directory in the output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CollectionName(Arc<str>);

impl CollectionName {
    /// Takes the name of a directory; `None` when it cannot be one path component of the output
    /// (empty, `.`, `..`, with a separator or a NUL).
    pub fn new(name: &str) -> Option<Self> {
        let mut components = Path::new(name).components();
        let only_component = matches!(
            (components.next(), components.next()),
            (Some(std::path::Component::Normal(component)), None) if component == name
        );
        (only_component && !name.contains(['\0', '\\'])).then(|| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a chunk was read: its file and its place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Path relative to the collection's directory, with `/` between components on every platform.
    pub file: Arc<str>,
    /// Number of the chunk among the entries of the file, from 0, broken entries counted.
    pub index: u64,
}

/// One JSON value exactly as it stood in the input, less the white space between its tokens: numbers keep their
/// digits, strings their escapes, objects the order (and the repetition) of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawJson(Box<str>);

impl RawJson {
    /// Takes JSON that a parser has already accepted, and drops white space outside strings, so that the value
    /// fits on one line of JSON Lines.
    pub fn compact(valid_json: &str) -> Self {
        let mut compact = String::with_capacity(valid_json.len());
        let (mut in_string, mut escaped) = (false, false);
        for character in valid_json.chars() {
            if in_string {
                match character {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    '"' => in_string = false,
                    _ => {}
                }
            } else if character == '"' {
                in_string = true;
            } else if matches!(character, ' ' | '\t' | '\n' | '\r') {
                continue;
            }
            compact.push(character);
        }
        Self(compact.into_boxed_str())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text of a chunk, or why there is none to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkText {
    /// The text as the input gave it, decoded but otherwise untouched; may be empty.
    Present(String),
    /// The entry keeps its row, with a null vector; the reason goes into the ledger.
    Unusable {
        /// What is wrong, in lower case, without the place.
        reason: String,
    },
}

/// Something in the input that could not be read as it should, with its place. Never ends a run: it is reported,
/// counted, and changes the exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadingError {
    /// Path as a person would look for it: the input root as given, joined with the rest.
    pub path: String,
    /// Line from 1, where it is known.
    pub line: Option<u64>,
    /// Column from 1 in bytes, where it is known.
    pub column: Option<u64>,
    /// Number of the entry in its file from 0, where the fault belongs to one.
    pub index: Option<u64>,
    /// What is wrong, in lower case, without the place.
    pub reason: String,
}

impl fmt::Display for LoadingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let (Some(_), Some(column)) = (self.line, self.column) {
            write!(f, ":{column}")?;
        }
        if let Some(index) = self.index {
            write!(f, " (entry {index})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// One entry of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Running number in the collection.
    pub row: Row,
    /// Unique in the collection.
    pub id: ChunkId,
    /// Where it was read.
    pub source: Source,
    /// What to embed.
    pub text: ChunkText,
    /// The value of `metadata`, or for formats without that key an object of the remaining columns or keys.
    pub metadata: Option<RawJson>,
    /// Top-level keys other than text and metadata, as one object.
    pub extra: Option<RawJson>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_compact(json: &str, expected: &str) {
        assert_eq!(RawJson::compact(json).as_str(), expected);
    }

    #[test]
    fn compacting_keeps_digits_escapes_and_key_order() {
        check_compact("{ \"b\" : 1.10 ,\n \"a\":[ 1e+2 , -0 ] }", r#"{"b":1.10,"a":[1e+2,-0]}"#);
        check_compact(r#"{"k": "a \" b \\" }"#, r#"{"k":"a \" b \\"}"#);
        check_compact(r#"  "\ud800 x"  "#, r#""\ud800 x""#);
    }

    #[test]
    fn a_collection_name_is_one_path_component() {
        for name in ["", ".", "..", "a/b", "/a", "a/", "a\\b", "a\0"] {
            assert_eq!(CollectionName::new(name), None, "{name:?}");
        }
        assert_eq!(CollectionName::new("FAST DOCS é").unwrap().as_str(), "FAST DOCS é");
    }
}
