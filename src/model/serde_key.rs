//! Which key of an object is not what it should be: errors of serde tell what was expected, and not where.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The first key without which the object would not be wrong in the same way. A key that is missing is named by the
/// error itself.
pub(crate) fn find<T: DeserializeOwned>(object: &Map<String, Value>) -> Option<String> {
    let fault_of =
        |object: Map<String, Value>| T::deserialize(Value::Object(object)).err().map(|error| error.to_string());
    let fault = fault_of(object.clone()).filter(|fault| !fault.starts_with("missing field"))?;
    let is_wrong = |key: &&String| {
        let mut others = object.clone();
        others.remove(*key);
        fault_of(others).is_none_or(|other| other != fault)
    };
    object.keys().find(is_wrong).cloned()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only whether it can be read matters")]
    struct Sizes {
        heads: u32,
        bias: bool,
        name: Option<String>,
    }

    #[track_caller]
    fn check(object: &Value, expected: Option<&str>) {
        assert_eq!(find::<Sizes>(object.as_object().unwrap()).as_deref(), expected);
    }

    #[test]
    fn the_key_with_the_wrong_value_is_found() {
        check(&json!({"heads": 1, "bias": true, "more": []}), None);
        check(&json!({"heads": 1, "bias": null}), Some("bias"));
        check(&json!({"heads": -1, "bias": true, "name": "x"}), Some("heads"));
        check(&json!({"heads": 1, "bias": true, "name": 7}), Some("name"));
        check(&json!({"heads": 1}), None);
    }
}
