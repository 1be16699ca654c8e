//! Values that are readable but make no sense.

use std::collections::BTreeMap;

use super::{ConfigError, Settings};

/// Checks ranges and contradictions. `provenance` names the layer of every key.
pub(super) fn validate(settings: &Settings, provenance: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let source = |key: &str| provenance.get(key).map_or("default", String::as_str);
    let out_of_range = |key: &str, rule: &str| {
        Err(ConfigError::Invalid { place: source(key).to_owned(), reason: format!("{key} must be {rule}") })
    };
    let positive = [
        ("shard_rows", Some(settings.shard_rows as usize)),
        ("batch_tokens", Some(settings.batch_tokens)),
        ("batch_size", settings.batch_size),
        ("threads", settings.threads),
        ("max_length", settings.max_length),
        ("truncate_dim", settings.truncate_dim),
    ];
    if let Some((key, _)) = positive.iter().find(|(_, value)| *value == Some(0)) {
        return out_of_range(key, "at least 1");
    }
    if settings.threads.is_some_and(|threads| threads > MOST_THREADS) {
        return out_of_range("threads", "at most 1024");
    }
    if settings.format.is_empty() {
        return out_of_range("format", "at least one of jsonl, parquet, arrow, npy");
    }
    if settings.model.trim().is_empty() {
        return out_of_range("model", "a registry name, a hub id or a directory");
    }
    let is_set = |key: &str| source(key) != "default";
    let wants_gpu = settings.devices.iter().any(|device| !device.starts_with("cpu"));
    let contradictions = [
        ("prompt", "prompt_name", settings.prompt.is_some() && settings.prompt_name.is_some()),
        ("force_cpu", "devices", settings.force_cpu && wants_gpu),
        ("overwrite", "resume", settings.overwrite && settings.resume && is_set("resume")),
    ];
    if let Some((one, other, _)) = contradictions.iter().find(|(.., contradict)| *contradict) {
        return Err(ConfigError::Invalid {
            place: format!("{} and {}", source(one), source(other)),
            reason: format!("{one} and {other} contradict each other; give one of them"),
        });
    }
    Ok(())
}

/// Far above any machine's cores; a larger number is a typing mistake that would exhaust the machine.
const MOST_THREADS: usize = 1024;
