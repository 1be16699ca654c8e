//! The values that layers give, each with its layer.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use toml::Value;

use super::error::ConfigError;

/// The value of every key that a layer gives, with the name of the highest such layer.
#[derive(Debug, Default)]
pub(super) struct Layers(BTreeMap<&'static str, (String, Value)>);

impl Layers {
    /// Lays a value over those of earlier layers.
    pub(super) fn set(&mut self, layer: String, key: &'static str, value: Value) {
        self.0.insert(key, (layer, value));
    }

    /// The value of a key, `None` if no layer gives one.
    pub(super) fn value<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        let Some((layer, value)) = self.0.get(key) else { return Ok(None) };
        let value = value.clone().try_into().map_err(|error: toml::de::Error| ConfigError::Value {
            place: place(layer, key),
            reason: error.message().to_owned(),
        })?;
        Ok(Some(value))
    }

    /// The layer of a value.
    pub(super) fn layer(&self, key: &str) -> &str {
        self.0.get(key).map_or("default", |(layer, _)| layer)
    }
}

/// A flag or variable names its key already; a file does not.
pub(super) fn place(layer: &str, key: &str) -> String {
    if layer.starts_with("configuration file") { format!("{layer}: key {key}") } else { layer.to_owned() }
}
