//! One spelling for tokenizers that give the same tokens, as far as that can be told by their files.

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper};

use super::recipes::Frame;

/// All that decides which tokens come out: keys in order, no white space, nothing of cutting, filling and decoding.
pub(super) fn text(file: &Value, added: &[Vec<AddedToken>], frame: Option<&Frame>, flags: [bool; 3]) -> String {
    let properties = |token: &AddedToken| {
        let AddedToken { content, single_word, lstrip, rstrip, normalized, special } = token;
        json!([content, single_word, lstrip, rstrip, normalized, special])
    };
    let of_file = file["added_tokens"].as_array().into_iter().flatten();
    let of_file = of_file.filter_map(|token| serde_json::from_value(token.clone()).ok());
    let tokens: Vec<Value> =
        of_file.collect::<Vec<AddedToken>>().iter().chain(added.iter().flatten()).map(properties).collect();
    let whole = json!({
        "added": tokens,
        "flags": flags,
        "frame": frame.map(|frame| [&frame.before, &frame.after, &frame.unknown]),
        "model": model(&file["model"]),
        "normalizer": normalizer(file.get("normalizer")),
        "post_processor": file["post_processor"],
        "pre_tokenizer": pre_tokenizer(file.get("pre_tokenizer")),
    });
    let mut text = String::new();
    write(&whole, &mut text);
    text
}

/// Merges may be written in two ways.
fn model(model: &Value) -> Value {
    let mut model = model.clone();
    if let Some(merges) = model.get_mut("merges").and_then(Value::as_array_mut) {
        for merge in merges {
            if let Some((one, other)) = merge.as_str().and_then(|merge| merge.split_once(' ')) {
                *merge = json!([one, other]);
            }
        }
    }
    model
}

/// A normaliser as the tokenizer library would write it.
pub(super) fn normalizer(value: Option<&Value>) -> Value {
    respelled::<NormalizerWrapper>(value, "normalizers")
}

/// Likewise.
pub(super) fn pre_tokenizer(value: Option<&Value>) -> Value {
    respelled::<PreTokenizerWrapper>(value, "pretokenizers")
}

fn respelled<T: serde::Serialize + serde::de::DeserializeOwned>(value: Option<&Value>, steps: &str) -> Value {
    let value = value.cloned().unwrap_or_default();
    let read = serde_json::from_value::<T>(value.clone()).ok();
    let spelled = read.and_then(|part| serde_json::to_value(part).ok()).unwrap_or(value);
    match spelled.get(steps).and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => Value::Null,
        Some([one]) => one.clone(),
        _ => spelled,
    }
}

/// Writes keys in order, also where a map keeps another.
fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => write_object(map, text),
        Value::Array(list) => {
            text.push('[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(value, text);
            }
            text.push(']');
        }
        // A score that is whole may be written without its point.
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => text.push_str(&whole(float)),
            _ => text.push_str(&number.to_string()),
        },
        other => text.push_str(&other.to_string()),
    }
}

fn whole(float: f64) -> String {
    format!("{float:.0}")
}

fn write_object(map: &Map<String, Value>, text: &mut String) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_unstable();
    text.push('{');
    for (index, key) in keys.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&Value::from(key.as_str()).to_string());
        text.push(':');
        write(&map[key], text);
    }
    text.push('}');
}
