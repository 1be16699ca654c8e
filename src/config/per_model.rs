//! A value for all models or for some of them: `64`, or `bge-m3=16 qwen3-embedding-0.6b=8`, or both.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What holds for every model, and what holds for single ones instead.
#[derive(Debug, Clone, PartialEq)]
pub struct PerModel<T> {
    /// For every model that has no value of its own.
    pub all: Option<T>,
    /// By the model's name.
    pub models: BTreeMap<String, T>,
}

impl<T> Default for PerModel<T> {
    fn default() -> Self {
        Self { all: None, models: BTreeMap::new() }
    }
}

impl<T: Copy> PerModel<T> {
    /// The value for one model.
    pub fn of(&self, model: &str) -> Option<T> {
        self.models.iter().find(|(name, _)| is_named(model, name)).map(|(_, value)| *value).or(self.all)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = T> {
        self.all.iter().chain(self.models.values()).copied()
    }

    /// The first name that is none of these models.
    pub fn stranger(&self, models: &[String]) -> Option<&str> {
        self.models.keys().find(|name| !models.iter().any(|model| is_named(model, name))).map(String::as_str)
    }
}

impl<T> From<T> for PerModel<T> {
    fn from(value: T) -> Self {
        Self { all: Some(value), models: BTreeMap::new() }
    }
}

/// A model is named as it was asked for, or by the last part of that, as its output directory is.
fn is_named(model: &str, name: &str) -> bool {
    let last_part = |text: &str| text.trim_end_matches('/').rsplit('/').next().map(str::to_owned);
    model == name || last_part(model) == last_part(name)
}

impl<T: FromStr> PerModel<T> {
    /// Reads `64` and `MODEL=64`, in any number and order.
    fn read(entries: &[String]) -> Result<Self, String> {
        let mut values = Self::default();
        for entry in entries {
            let (model, text) =
                entry.rsplit_once('=').map_or((None, entry.as_str()), |(model, text)| (Some(model), text));
            let value: T = text
                .trim()
                .parse()
                .map_err(|_| format!("{entry:?} is no number, and no number for a model (such as 64, or bge-m3=64)"))?;
            let earlier = match model.map(str::trim) {
                Some("") => return Err(format!("{entry:?} names no model")),
                Some(model) => values.models.insert(model.to_owned(), value),
                None => values.all.replace(value),
            };
            if earlier.is_some() {
                return Err(format!("{entry:?} says again what another entry said"));
            }
        }
        Ok(values)
    }
}

impl<'de, T: DeserializeOwned + FromStr> Deserialize<'de> for PerModel<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number, or MODEL=NUMBER for each model, or a table of models with numbers")]
        enum Form<T> {
            One(T),
            List(Vec<String>),
            Table(BTreeMap<String, T>),
        }
        match Option::<Form<T>>::deserialize(deserializer)? {
            None => Ok(Self::default()),
            Some(Form::One(value)) => Ok(value.into()),
            Some(Form::List(entries)) => Self::read(&entries).map_err(D::Error::custom),
            Some(Form::Table(models)) => Ok(Self { all: None, models }),
        }
    }
}

impl<T: Serialize + Display> Serialize for PerModel<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.all {
            None if self.models.is_empty() => serializer.serialize_none(),
            Some(value) if self.models.is_empty() => value.serialize(serializer),
            _ => {
                let own = self.models.iter().map(|(model, value)| format!("{model}={value}"));
                serializer.collect_seq(self.all.iter().map(T::to_string).chain(own))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: Result<&[(&str, Option<u32>)], &str>) {
        match (serde_json::from_str::<PerModel<u32>>(json), expected) {
            (Ok(values), Ok(expected)) => {
                for (model, value) in expected {
                    assert_eq!(values.of(model), *value, "{model} in {json}");
                }
                let again = serde_json::to_string(&values).unwrap();
                assert_eq!(serde_json::from_str::<PerModel<u32>>(&again).unwrap(), values, "{again}");
            }
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, _) => panic!("{json}: {found:?}"),
        }
    }

    #[test]
    fn a_value_is_for_all_models_or_for_one() {
        check("null", Ok(&[("a", None)]));
        check("64", Ok(&[("a", Some(64)), ("b", Some(64))]));
        check(r#"["64", "a=7"]"#, Ok(&[("a", Some(7)), ("b", Some(64))]));
        check(r#"["owner/a=7"]"#, Ok(&[("a", Some(7)), ("owner/a", Some(7)), ("models/a/", Some(7)), ("b", None)]));
        check(r#"{"a": 7}"#, Ok(&[("a", Some(7)), ("b", None)]));
        check(r#"["x"]"#, Err("is no number"));
        check(r#"["a=-1"]"#, Err("is no number"));
        check(r#"["=1"]"#, Err("names no model"));
        check(r#"["1", "2"]"#, Err("says again"));
        check("true", Err("a number, or MODEL=NUMBER"));
    }

    #[test]
    fn names_of_no_model_are_found() {
        let values: PerModel<u32> = serde_json::from_str(r#"["a=1", "z=2"]"#).unwrap();
        assert_eq!(values.stranger(&["x/a".to_owned(), "b".to_owned()]), Some("z"));
        assert_eq!(values.stranger(&["a".to_owned(), "z".to_owned()]), None);
    }
}
