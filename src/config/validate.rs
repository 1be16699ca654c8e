//! Values that are readable but make no sense.

use std::collections::BTreeMap;

use super::ensemble::Provenance;
use super::{ConfigError, Ensemble, LeasePolicy, Settings};

/// Checks ranges and contradictions. `provenance` names the layer of every key.
pub(super) fn validate(
    settings: &Settings,
    ensemble: &Ensemble,
    provenance: &BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    let layers = Provenance(provenance);
    let source = |key: &str| layers.source(key);
    let out_of_range = |key: &str, rule: &str| Err(layers.invalid(key, format!("{key} must be {rule}")));
    let positive = [
        ("part_rows", Some(settings.part_rows as usize)),
        ("batch_tokens", Some(settings.batch_tokens)),
        ("batch_size", settings.batch_size.values().min()),
        ("threads", settings.threads),
        ("max_length", settings.max_length),
        ("truncate_dim", settings.truncate_dim.values().min()),
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
    if ensemble.models.iter().any(|model| model.trim().is_empty()) {
        let key = if settings.ensemble_models.is_empty() { "model" } else { "ensemble_models" };
        return out_of_range(key, "a registry name, a hub id or a directory");
    }
    let strangers = [
        ("ensemble_weights", settings.ensemble_weights.stranger(&ensemble.models)),
        ("batch_size", settings.batch_size.stranger(&ensemble.models)),
        ("truncate_dim", settings.truncate_dim.stranger(&ensemble.models)),
    ];
    if let Some((key, Some(stranger))) = strangers.iter().find(|(_, stranger)| stranger.is_some()) {
        let models = ensemble.models.join(", ");
        return Err(layers.invalid(key, format!("{key} names {stranger}, which is no model of this run ({models})")));
    }
    let amounts = [("soft_limit_gb", settings.soft_limit_gb), ("memory_buffer_gb", Some(settings.memory_buffer_gb))];
    let is_amount = |amount: f64| amount.is_finite() && amount >= 0.0;
    if let Some((key, _)) = amounts.iter().find(|(_, amount)| amount.is_some_and(|amount| !is_amount(amount))) {
        return out_of_range(key, "a number of GiB that is not negative");
    }
    if settings.soft_limit_gb == Some(0.0) {
        return out_of_range("soft_limit_gb", "more than 0");
    }
    let (warning, critical) = (settings.memory_warning, settings.memory_critical);
    if !(warning > 0.0 && warning <= critical && critical <= 1.0) {
        let key = if layers.is_set("memory_warning") { "memory_warning" } else { "memory_critical" };
        let rule = "parts above 0 and at most 1, the warning not above the critical one";
        return Err(layers.invalid(key, format!("memory_warning and memory_critical must be {rule}")));
    }
    let is_set = |key: &str| layers.is_set(key);
    let wants_gpu = settings.devices.iter().any(|device| !device.starts_with("cpu"));
    let contradictions = [
        ("prompt", "prompt_name", settings.prompt.is_some() && settings.prompt_name.is_some()),
        ("force_cpu", "devices", settings.force_cpu && wants_gpu),
        ("force_cpu", "rehearse", settings.force_cpu && settings.rehearse),
        (
            "lease_policy",
            "lease_wait",
            settings.lease_policy == Some(LeasePolicy::Fail) && settings.lease_wait.is_some(),
        ),
        ("shard", "overwrite", settings.shard.is_some() && settings.overwrite),
        ("shard", "incremental", settings.shard.is_some() && settings.incremental),
        ("incremental", "overwrite", settings.incremental && settings.overwrite),
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
