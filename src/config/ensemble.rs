//! What of the settings makes an ensemble: which models, in which turns, with which weights.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ConfigError, Settings, Strategy};

/// The models of an ensemble that is asked for without naming any.
pub const DEFAULT_ENSEMBLE: [&str; 3] = ["jina-code-embeddings-1.5b", "bge-m3", "qwen3-embedding-0.6b"];

/// How the models of a run take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// There is only one model.
    Single,
    /// All models are loaded, and every batch of texts goes through each of them.
    Rotate,
    /// One model after the other; the devices are held throughout.
    Sequential,
    /// One model after the other, each with a lease of its own on all devices.
    Exclusive,
}

impl Mode {
    /// For people.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Single => "alone",
            Self::Rotate => "every batch through each of them",
            Self::Sequential => "one after the other",
            Self::Exclusive => "one after the other, each with all devices for itself",
        }
    }

    /// The word for it under `ensemble_mode` in the summary, which knows no difference between the two sequential ones.
    pub const fn summary_name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Rotate | Self::Sequential => "sequential",
            Self::Exclusive => "exclusive",
        }
    }
}

/// The models of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Ensemble {
    /// As asked for, each once; the first is the primary one.
    pub models: Vec<String>,
    /// One a model; their sum is 1.
    pub weights: Vec<f64>,
    /// How they take turns.
    pub mode: Mode,
}

/// Makes sense of the settings that bear on the ensemble. `provenance` names the layer of every key: where two keys
/// contradict each other, the higher layer wins, and within one layer it is an error.
pub(super) fn ensemble(settings: &Settings, provenance: &BTreeMap<String, String>) -> Result<Ensemble, ConfigError> {
    let layers = Provenance(provenance);
    let exclusive = exclusive(settings, layers)?;
    let models = models(settings, exclusive, layers)?;
    let weights = weights(settings, &models, layers)?;
    let sequential = settings.sequential_ensemble;
    if sequential == Some(true) && settings.strategy == Some(Strategy::Rotate) {
        let reason = "rotate takes every batch through all models, and sequential passes do not; leave one of them out";
        return Err(layers.contradiction("strategy", "sequential_ensemble", reason));
    }
    let mode = match (exclusive, models.len(), sequential) {
        (true, ..) => Mode::Exclusive,
        (false, 1, _) => Mode::Single,
        (false, _, Some(true)) => Mode::Sequential,
        (false, ..) => Mode::Rotate,
    };
    Ok(Ensemble { models, weights, mode })
}

fn exclusive(settings: &Settings, layers: Provenance<'_>) -> Result<bool, ConfigError> {
    let by_switch = settings.exclusive_ensemble;
    let by_strategy = settings.strategy.map(|strategy| strategy == Strategy::Exclusive);
    let exclusive = match (by_switch, by_strategy) {
        (Some(switch), Some(strategy)) if switch != strategy => {
            match layers.rank("exclusive_ensemble").cmp(&layers.rank("strategy")) {
                std::cmp::Ordering::Greater => switch,
                std::cmp::Ordering::Less => strategy,
                std::cmp::Ordering::Equal => {
                    let reason = "the exclusive ensemble is a strategy of its own; leave one of them out";
                    return Err(layers.contradiction("exclusive_ensemble", "strategy", reason));
                }
            }
        }
        (switch, strategy) => switch.or(strategy).unwrap_or(false),
    };
    if exclusive && settings.sequential_ensemble == Some(false) {
        let key = if by_switch == Some(true) { "exclusive_ensemble" } else { "strategy" };
        let reason = "exclusive passes are sequential; leave EMBEDDER_SEQUENTIAL_ENSEMBLE unset, or set it to 1";
        return Err(layers.contradiction(key, "sequential_ensemble", reason));
    }
    Ok(exclusive)
}

fn models(settings: &Settings, exclusive: bool, layers: Provenance<'_>) -> Result<Vec<String>, ConfigError> {
    let listed = &settings.ensemble_models;
    if settings.ensemble == Some(false) && (!listed.is_empty() || exclusive && layers.is_set("exclusive_ensemble")) {
        let key = if listed.is_empty() { "exclusive_ensemble" } else { "ensemble_models" };
        return Err(layers.contradiction("ensemble", key, "an ensemble is switched off and asked for; decide for one"));
    }
    if !listed.is_empty() {
        return match layers.rank("model").cmp(&layers.rank("ensemble_models")) {
            std::cmp::Ordering::Greater => Ok(vec![settings.model.clone()]),
            std::cmp::Ordering::Equal if layers.is_set("model") => {
                Err(layers.contradiction("model", "ensemble_models", "name one model or an ensemble, not both"))
            }
            _ => Ok(each_once(listed)),
        };
    }
    // On some machines exclusive passes are the default; that alone is no wish for several models.
    let asked_for = exclusive && (layers.is_set("exclusive_ensemble") || layers.is_set("strategy"))
        || settings.strategy.is_some()
        || settings.ensemble == Some(true)
        || settings.sequential_ensemble == Some(true);
    if asked_for && !layers.is_set("model") {
        return Ok(DEFAULT_ENSEMBLE.map(str::to_owned).to_vec());
    }
    Ok(vec![settings.model.clone()])
}

fn each_once(models: &[String]) -> Vec<String> {
    let mut once: Vec<String> = Vec::new();
    for model in models {
        if !once.contains(model) {
            once.push(model.clone());
        }
    }
    once
}

fn weights(settings: &Settings, models: &[String], layers: Provenance<'_>) -> Result<Vec<f64>, ConfigError> {
    let key = "ensemble_weights";
    let given = &settings.ensemble_weights;
    if given.all.is_none() && given.models.is_empty() {
        return Ok(vec![1.0 / models.len() as f64; models.len()]);
    }
    let invalid = |reason: String| Err(layers.invalid(key, reason));
    if given.all.is_some() {
        return invalid(format!("{key} must name the model of each weight, as in bge-m3=0.7"));
    }
    let missing: Vec<&str> = models.iter().filter(|model| given.of(model).is_none()).map(String::as_str).collect();
    if !missing.is_empty() {
        return invalid(format!(
            "{key} must give every model of the ensemble a weight; there is none for {}",
            missing.join(", ")
        ));
    }
    let weights: Vec<f64> = models.iter().filter_map(|model| given.of(model)).collect();
    if !weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0) {
        return invalid(format!("{key} must be finite numbers that are not negative"));
    }
    let sum: f64 = weights.iter().sum();
    if sum <= 0.0 || !sum.is_finite() {
        return invalid(format!("{key} must not all be zero, and their sum must be finite"));
    }
    Ok(weights.iter().map(|weight| weight / sum).collect())
}

/// The layer of every key.
#[derive(Clone, Copy)]
pub(super) struct Provenance<'a>(pub(super) &'a BTreeMap<String, String>);

impl<'a> Provenance<'a> {
    pub(super) fn source(self, key: &str) -> &'a str {
        self.0.get(key).map_or("default", String::as_str)
    }

    /// Whether anybody but the program chose the value.
    pub(super) fn is_set(self, key: &str) -> bool {
        self.rank(key) > 0
    }

    fn rank(self, key: &str) -> u8 {
        match self.source(key) {
            source if source.starts_with("default") => 0,
            source if source.starts_with("configuration file") => 1,
            source if source.starts_with("environment") => 2,
            _ => 3,
        }
    }

    pub(super) fn invalid(self, key: &str, reason: String) -> ConfigError {
        ConfigError::Invalid { place: self.source(key).to_owned(), reason }
    }

    fn contradiction(self, one: &str, other: &str, reason: &str) -> ConfigError {
        let place = format!("{} and {}", self.source(one), self.source(other));
        ConfigError::Invalid { place, reason: format!("{one} and {other} contradict each other: {reason}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(layers: &[(&str, &str)], change: impl FnOnce(&mut Settings)) -> Result<Ensemble, ConfigError> {
        let mut settings = Settings::default();
        change(&mut settings);
        let provenance = layers.iter().map(|(key, layer)| ((*key).to_owned(), (*layer).to_owned())).collect();
        ensemble(&settings, &provenance)
    }

    #[track_caller]
    fn check(layers: &[(&str, &str)], change: impl FnOnce(&mut Settings), mode: Mode, models: &[&str]) {
        let found = outcome(layers, change).unwrap();
        assert_eq!((found.mode, found.models.iter().map(String::as_str).collect::<Vec<_>>()), (mode, models.to_vec()));
        assert!((found.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[track_caller]
    fn check_error(layers: &[(&str, &str)], change: impl FnOnce(&mut Settings), expected: &str) {
        let error = outcome(layers, change).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    const DEFAULT: &str = "all-MiniLM-L6-v2";

    fn list(models: &[&str]) -> Vec<String> {
        models.iter().map(|model| (*model).to_owned()).collect()
    }

    #[test]
    fn an_ensemble_is_one_when_it_is_asked_for() {
        check(&[], |_| {}, Mode::Single, &[DEFAULT]);
        check(&[], |s| s.ensemble_models = list(&["a", "b", "a"]), Mode::Rotate, &["a", "b"]);
        check(&[], |s| s.ensemble = Some(true), Mode::Rotate, &DEFAULT_ENSEMBLE);
        check(&[], |s| s.strategy = Some(Strategy::Rotate), Mode::Rotate, &DEFAULT_ENSEMBLE);
        let flag = [("exclusive_ensemble", "command line --exclusive-ensemble")];
        check(&flag, |s| s.exclusive_ensemble = Some(true), Mode::Exclusive, &DEFAULT_ENSEMBLE);
        // A machine where exclusive passes are the default does not ask for several models.
        let machine = [("exclusive_ensemble", "default on Kaggle")];
        check(&machine, |s| s.exclusive_ensemble = Some(true), Mode::Exclusive, &[DEFAULT]);
        check(
            &[],
            |s| (s.sequential_ensemble, s.ensemble_models) = (Some(true), list(&["a", "b"])),
            Mode::Sequential,
            &["a", "b"],
        );
        let one = [("model", "environment EMBEDDER_MODEL"), flag[0]];
        check(&one, |s| (s.exclusive_ensemble, s.model) = (Some(true), "m".into()), Mode::Exclusive, &["m"]);
    }

    #[test]
    fn the_higher_layer_wins_and_one_layer_cannot_contradict_itself() {
        let (line, variable) = ("command line --x", "environment X");
        let both = |s: &mut Settings| (s.exclusive_ensemble, s.strategy) = (Some(true), Some(Strategy::Rotate));
        check(&[("exclusive_ensemble", variable), ("strategy", line)], both, Mode::Rotate, &DEFAULT_ENSEMBLE);
        check(&[("exclusive_ensemble", line), ("strategy", variable)], both, Mode::Exclusive, &DEFAULT_ENSEMBLE);
        check_error(&[("exclusive_ensemble", line), ("strategy", line)], both, "leave one of them out");
        let models = |s: &mut Settings| (s.ensemble_models, s.model) = (list(&["a", "b"]), "m".into());
        check(&[("model", line), ("ensemble_models", variable)], models, Mode::Single, &["m"]);
        check(&[("model", variable), ("ensemble_models", line)], models, Mode::Rotate, &["a", "b"]);
        check_error(&[("model", line), ("ensemble_models", line)], models, "name one model or an ensemble");
        let parallel = |s: &mut Settings| (s.exclusive_ensemble, s.sequential_ensemble) = (Some(true), Some(false));
        check_error(
            &[("exclusive_ensemble", line), ("sequential_ensemble", variable)],
            parallel,
            "exclusive passes are sequential",
        );
        let off = |s: &mut Settings| (s.ensemble, s.ensemble_models) = (Some(false), list(&["a"]));
        check_error(&[], off, "switched off and asked for");
    }

    #[test]
    fn weights_belong_to_models_and_sum_to_one() {
        let weights = |entries: &str| {
            let entries = serde_json::from_str(entries).unwrap();
            outcome(&[], |s| (s.ensemble_models, s.ensemble_weights) = (list(&["x/a", "b"]), entries))
        };
        assert_eq!(weights(r#"["a=1", "b=3"]"#).unwrap().weights, [0.25, 0.75]);
        assert_eq!(weights(r#"["a=0", "b=2"]"#).unwrap().weights, [0.0, 1.0]);
        for (entries, expected) in [
            (r#"["a=1"]"#, "there is none for b"),
            (r#"["a=0", "b=0"]"#, "must not all be zero"),
            (r#"["a=-1", "b=2"]"#, "not negative"),
            (r#"["a=inf", "b=2"]"#, "finite"),
            (r#"["a=NaN", "b=2"]"#, "finite"),
            (r#"["0.5"]"#, "must name the model"),
        ] {
            let error = weights(entries).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
