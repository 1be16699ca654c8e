//! Judges one entry: the text to embed, the id that it asks for, and everything else byte for byte.
//!
//! `serde_json` says whether the bytes are JSON, without building anything and without recursion, so that the depth
//! of metadata costs nothing. Only the text and the ids are ever decoded; numbers keep their digits, keys their
//! order, strings their escapes. Of a key that stands twice the last one counts, as in Python.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::piece::{EntryPiece, Place};
use super::scan::value_length;
use crate::domain::{ChunkText, RawJson};

/// What a `metadata` value that is a string means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetadataString {
    /// A string, as JSON says.
    Opaque,
    /// A JSON object in a string, as tables without nested columns store it; else still a string.
    MayHoldObject,
}

/// Reads an entry that begins at `start`; `None` for formats without lines.
pub(super) fn decode(bytes: &[u8], start: Option<Place>, metadata_string: MetadataString) -> EntryPiece {
    let json = match str::from_utf8(bytes) {
        Ok(json) => json,
        Err(error) => {
            let place = start.map(|start| start.after(&bytes[..error.valid_up_to()]));
            return EntryPiece::unusable(place, "invalid UTF-8");
        }
    };
    let value = match serde_json::from_str::<&RawValue>(json) {
        Ok(value) => value.get(),
        Err(error) => {
            let place = start.map(|start| start.within(error.line(), error.column()));
            return EntryPiece::unusable(place, syntax_reason(json, &error));
        }
    };
    match value.as_bytes().first() {
        Some(b'"') => EntryPiece { text: text_of(value), ..EntryPiece::unusable(start, String::new()) },
        Some(b'{') => object(value, start, metadata_string),
        _ => EntryPiece::unusable(start, format!("expected an object or a string, found {}", kind_of(value))),
    }
}

/// What `serde_json` says, without its place, and with the usual cause where it is known.
pub(super) fn syntax_reason(json: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let reason = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
    let line = json.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let from = line.as_bytes().get(error.column().saturating_sub(2)..).unwrap_or_default();
    let names_no_number = ["NaN", "Infinity", "-Infinity"].iter().any(|name| {
        from.starts_with(name.as_bytes()) || from.get(1..).is_some_and(|from| from.starts_with(name.as_bytes()))
    });
    let hint = if names_no_number { " (NaN and Infinity are not JSON: write null)" } else { "" };
    format!("invalid JSON: {reason}{hint}")
}

fn object(object: &str, start: Option<Place>, metadata_string: MetadataString) -> EntryPiece {
    let members = members(object);
    let last = |name: &str| members.iter().rev().find(|member| member.is(name)).map(|member| member.value);
    let text = match last("text") {
        Some(value) => text_of(value),
        None => ChunkText::Unusable { reason: missing_text(&members) },
    };
    let metadata = last("metadata").map(|metadata| match metadata_string {
        MetadataString::Opaque => Cow::Borrowed(metadata),
        MetadataString::MayHoldObject => object_in_string(metadata),
    });
    let rest = rest(&members);
    let mut refused_id = None;
    let id = metadata
        .as_deref()
        .filter(|metadata| metadata.starts_with('{'))
        .and_then(|metadata| {
            let members = self::members(metadata);
            let member = members.iter().rev().find(|member| member.is("chunk_id"))?;
            id_of("metadata.chunk_id", member.value, &mut refused_id)
        })
        .or_else(|| ["id", "chunk_id", "_id"].into_iter().find_map(|name| id_of(name, last(name)?, &mut refused_id)));
    let (metadata, extra) = match metadata {
        Some(metadata) => (Some(RawJson::compact(&metadata)), rest),
        None => (rest, None),
    };
    EntryPiece { place: start, text, id, refused_id, metadata, extra }
}

/// A key and its value as they stand in the input.
struct Member<'a> {
    /// With its quotes and escapes.
    key: &'a str,
    value: &'a str,
}

impl Member<'_> {
    fn is(&self, name: &str) -> bool {
        let key = &self.key[1..self.key.len() - 1];
        key == name || (key.contains('\\') && serde_json::from_str::<String>(self.key).is_ok_and(|key| key == name))
    }
}

/// The members of a valid JSON object that begins with its brace.
fn members(valid_object: &str) -> Vec<Member<'_>> {
    let mut members = Vec::new();
    let mut rest = &valid_object[1..];
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', ',', ':']);
        if !rest.starts_with('"') {
            return members;
        }
        let (key, tail) = rest.split_at(value_length(rest));
        let tail = tail.trim_start_matches([' ', '\t', '\n', '\r', ':']);
        let (value, tail) = tail.split_at(value_length(tail));
        members.push(Member { key, value });
        rest = tail;
    }
}

/// An object of all members but `text` and `metadata`; `None` when there are none.
fn rest(members: &[Member]) -> Option<RawJson> {
    let mut json = String::new();
    for member in members.iter().filter(|member| !member.is("text") && !member.is("metadata")) {
        json.push(if json.is_empty() { '{' } else { ',' });
        json.push_str(member.key);
        json.push(':');
        json.push_str(member.value);
    }
    (!json.is_empty()).then(|| {
        json.push('}');
        RawJson::compact(&json)
    })
}

fn text_of(value: &str) -> ChunkText {
    if !value.starts_with('"') {
        return ChunkText::Unusable { reason: format!("text is {}, not a string", kind_of(value)) };
    }
    match serde_json::from_str(value) {
        Ok(text) => ChunkText::Present(text),
        Err(error) => ChunkText::Unusable {
            reason: match lone_surrogate(value) {
                Some((escape, offset)) => {
                    format!("text has the lone surrogate {escape} at byte {offset}, which is not Unicode")
                }
                None => format!("text cannot be decoded: {error}"),
            },
        },
    }
}

/// The id in `value`, a number by its digits as written. Null and the empty string are no id; other types are
/// refused.
fn id_of(name: &str, value: &str, refused: &mut Option<String>) -> Option<String> {
    let id = match value.as_bytes().first() {
        Some(b'"') => {
            let Ok(id) = serde_json::from_str::<String>(value) else {
                *refused = Some(format!("{name} is not used as an id: it is not Unicode"));
                return None;
            };
            id
        }
        Some(b'-' | b'0'..=b'9') => value.to_owned(),
        Some(b'n') => return None,
        _ => {
            *refused = Some(format!("{name} is not used as an id: it is {}", kind_of(value)));
            return None;
        }
    };
    (!id.is_empty()).then_some(id)
}

fn object_in_string(value: &str) -> Cow<'_, str> {
    let object = || {
        let inner: String = serde_json::from_str(value).ok()?;
        let object = serde_json::from_str::<&RawValue>(&inner).ok()?.get();
        object.starts_with('{').then(|| object.to_owned())
    };
    if value.starts_with('"') { object().map_or(Cow::Borrowed(value), Cow::Owned) } else { Cow::Borrowed(value) }
}

fn missing_text(members: &[Member]) -> String {
    const SHOWN: usize = 8;
    if members.is_empty() {
        return "no text: the object is empty".to_owned();
    }
    let mut keys: Vec<_> = members.iter().take(SHOWN).map(|member| member.key).collect();
    if members.len() > SHOWN {
        keys.push("…");
    }
    format!("no text: the keys are {}", keys.join(", "))
}

/// The first surrogate escape of a JSON string that has no partner, and its byte offset behind the quote.
fn lone_surrogate(string: &str) -> Option<(&str, usize)> {
    let unit = |at: usize| {
        let digits = string.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut at = 1;
    while let Some(escape) = string[at..].find('\\').map(|offset| at + offset) {
        at = match unit(escape) {
            Some(0xd800..=0xdbff) if unit(escape + 6).is_some_and(|low| (0xdc00..=0xdfff).contains(&low)) => {
                escape + 12
            }
            Some(0xd800..=0xdfff) => return Some((&string[escape..escape + 6], escape - 1)),
            Some(_) => escape + 6,
            None => escape + 2,
        };
    }
    None
}

fn kind_of(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> EntryPiece {
        decode(json.as_bytes(), Some(Place { line: 7, column: 3 }), MetadataString::Opaque)
    }

    fn raw(json: Option<&RawJson>) -> Option<&str> {
        json.map(RawJson::as_str)
    }

    #[track_caller]
    fn check_text(json: &str, expected: &str) {
        assert_eq!(entry(json).text, ChunkText::Present(expected.to_owned()), "{json}");
    }

    #[track_caller]
    fn check_unusable(json: &[u8], reason: &str, place: (u64, u64)) {
        let entry = decode(json, Some(Place { line: 7, column: 3 }), MetadataString::Opaque);
        let found = entry.place.map(|place| (place.line, place.column));
        let expected = ChunkText::Unusable { reason: reason.to_owned() };
        assert_eq!((entry.text, found), (expected, Some(place)), "{}", String::from_utf8_lossy(json));
    }

    #[track_caller]
    fn check_rest(json: &str, metadata: Option<&str>, extra: Option<&str>) {
        let entry = entry(json);
        assert_eq!((raw(entry.metadata.as_ref()), raw(entry.extra.as_ref())), (metadata, extra), "{json}");
    }

    #[track_caller]
    fn check_id(json: &str, id: Option<&str>, refused: Option<&str>) {
        let entry = entry(json);
        assert_eq!((entry.id.as_deref(), entry.refused_id.as_deref()), (id, refused), "{json}");
    }

    #[test]
    fn a_text_is_decoded_and_nothing_else_is_done_to_it() {
        check_text(r#""bare""#, "bare");
        check_text(r#"{"text": ""}"#, "");
        check_text(r#"{"text": "  A\tb\u0000\ud83d\ude00é\n "}"#, "  A\tb\0😀é\n ");
        check_text(r#"{"text": "first", "text": "last"}"#, "last");
        check_text(r#"{"t\u0065xt": "escaped key"}"#, "escaped key");
        check_text(r#"{"metadata": {"text": "inner"}, "text": "outer"}"#, "outer");
    }

    #[test]
    fn what_cannot_be_embedded_says_why_and_where() {
        check_unusable(b"12", "expected an object or a string, found a number", (7, 3));
        check_unusable(b"null", "expected an object or a string, found null", (7, 3));
        check_unusable(b"[]", "expected an object or a string, found an array", (7, 3));
        check_unusable(b"{}", "no text: the object is empty", (7, 3));
        check_unusable(br#"{"a":1,"b":2}"#, r#"no text: the keys are "a", "b""#, (7, 3));
        check_unusable(br#"{"text": null}"#, "text is null, not a string", (7, 3));
        check_unusable(br#"{"text": ["a"]}"#, "text is an array, not a string", (7, 3));
        check_unusable(br#"{"text": nope}"#, "invalid JSON: expected ident", (7, 13));
        check_unusable(b"{\"text\": \"a\",\n \"b\" 2}", "invalid JSON: expected `:`", (8, 6));
        check_unusable(b"{\"text\": \"a\xff\"}", "invalid UTF-8", (7, 14));
        let nan = "invalid JSON: expected value (NaN and Infinity are not JSON: write null)";
        check_unusable(br#"{"text": "a", "metadata": {"score": NaN}}"#, nan, (7, 39));
        check_unusable(
            b"{\"text\": \"a\nb\"}",
            "invalid JSON: control character (\\u0000-\\u001F) found while parsing a string",
            (7, 13),
        );
    }

    #[test]
    fn a_lone_surrogate_fails_a_text_and_is_kept_in_metadata() {
        let reason = |escape: &str, at: usize| {
            format!("text has the lone surrogate {escape} at byte {at}, which is not Unicode")
        };
        check_unusable(br#"{"text": "ab\ud800"}"#, &reason("\\ud800", 2), (7, 3));
        check_unusable(br#""\ud83d\ude00 \uDE00""#, &reason("\\uDE00", 13), (7, 3));
        check_unusable(br#""\\\ud800\n""#, &reason("\\ud800", 2), (7, 3));
        check_rest(r#"{"text":"a","metadata":{"k\udfff": "\ud800"}}"#, Some(r#"{"k\udfff":"\ud800"}"#), None);
        check_rest(r#"{"text":"a","k\udfff": 1}"#, Some(r#"{"k\udfff":1}"#), None);
    }

    #[test]
    fn metadata_is_kept_byte_for_byte() {
        check_rest(r#""bare""#, None, None);
        check_rest(r#"{"text": "a"}"#, None, None);
        check_rest(
            "{\"metadata\": {\"z\": 0.7999999999999998, \"a\": 1.10e+02,\n \"p\": \"D\\\\x \\u00e9\"}, \"text\": \"a\"}",
            Some(r#"{"z":0.7999999999999998,"a":1.10e+02,"p":"D\\x \u00e9"}"#),
            None,
        );
        check_rest(r#"{"text":"a","metadata":null,"s": 1}"#, Some("null"), Some(r#"{"s":1}"#));
        check_rest(
            r#"{"_id":"d","title":"T, t","text":"a","n":[1, {"x" : "]"}]}"#,
            Some(r#"{"_id":"d","title":"T, t","n":[1,{"x":"]"}]}"#),
            None,
        );
        check_rest(
            r#"{"id":12345678901234567890,"text":"a","metadata":{"m":1},"k":0.10,"k":2}"#,
            Some(r#"{"m":1}"#),
            Some(r#"{"id":12345678901234567890,"k":0.10,"k":2}"#),
        );
    }

    #[test]
    fn ids_are_looked_for_in_their_order() {
        check_id(r#"{"text":"a","_id":"u","chunk_id":"c","id":"i","metadata":{"chunk_id":"m"}}"#, Some("m"), None);
        check_id(r#"{"text":"a","_id":"u","chunk_id":"c","id":"i","metadata":{}}"#, Some("i"), None);
        check_id(r#"{"text":"a","_id":"u","chunk_id":"c","id":"","metadata":"s"}"#, Some("c"), None);
        check_id(r#"{"text":"a","_id":"u","metadata":{"chunk_id":null}}"#, Some("u"), None);
        check_id(r#"{"text":"a","id":1.50}"#, Some("1.50"), None);
        check_id(r#"{"text":"a","id":12345678901234567890123}"#, Some("12345678901234567890123"), None);
        check_id(r#"{"text":null,"id":"kept"}"#, Some("kept"), None);
        check_id(r#"{"text":"a"}"#, None, None);
        check_id(r#"{"text":"a","metadata":{"id":"not this one"}}"#, None, None);
        check_id(r#"{"text":"a","id":true}"#, None, Some("id is not used as an id: it is a boolean"));
        check_id(
            r#"{"text":"a","_id":"u","metadata":{"chunk_id":[1]}}"#,
            Some("u"),
            Some("metadata.chunk_id is not used as an id: it is an array"),
        );
        check_id(r#"{"text":"a","id":"\ud800"}"#, None, Some("id is not used as an id: it is not Unicode"));
    }

    #[test]
    fn a_table_may_hold_its_metadata_as_a_string() {
        let json = br#"{"text":"a","metadata":"{\"chunk_id\": \"c\", \"n\": 1.0}"}"#;
        let table = decode(json, None, MetadataString::MayHoldObject);
        assert_eq!(
            (table.id.as_deref(), raw(table.metadata.as_ref())),
            (Some("c"), Some(r#"{"chunk_id":"c","n":1.0}"#))
        );
        let document = decode(json, None, MetadataString::Opaque);
        assert_eq!(
            (document.id, raw(document.metadata.as_ref())),
            (None, Some(r#""{\"chunk_id\": \"c\", \"n\": 1.0}""#))
        );
        let plain = decode(br#"{"text":"a","metadata":"{plain"}"#, None, MetadataString::MayHoldObject);
        assert_eq!(raw(plain.metadata.as_ref()), Some(r#""{plain""#));
    }

    #[test]
    fn deep_metadata_costs_no_stack() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let entry = entry(&format!(r#"{{"text":"a","metadata":{{"deep":{deep}}},"x":{deep}}}"#));
        assert_eq!(entry.text, ChunkText::Present("a".to_owned()));
        assert_eq!(raw(entry.extra.as_ref()).unwrap().len(), 200_006);
    }
}
