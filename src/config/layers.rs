//! Defaults, file, environment, command line: laid over each other with the source of every value.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use toml::{Table, Value};

use super::environment::{CONFIG_FILE, CudaEnvironment, MachineDefaults};
use super::error::{ConfigError, EnvironmentError};
use super::merge::{Layers, place};
use super::{Ensemble, Environment, Places, SETTINGS, Settings, ShardWish, ensemble, validate};

/// What was typed: keys of settings with their values; `no_` before the key of a switch turns it off.
#[derive(Debug, Clone, Default)]
pub struct CommandLine {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The settings given, by key.
    pub values: Vec<(String, Value)>,
}

impl CommandLine {
    /// Adds a value, if it was typed.
    #[must_use]
    pub fn with<T: Serialize>(mut self, key: &str, value: Option<T>) -> Self {
        self.values.extend(value.and_then(|value| Some((key.to_owned(), Value::try_from(value).ok()?))));
        self
    }

    /// Adds a switch, if it was typed.
    #[must_use]
    pub fn with_switch(self, key: &str, is_on: bool) -> Self {
        self.with(key, is_on.then_some(true))
    }
}

/// Valid settings.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The values.
    pub settings: Settings,
    /// For every key the layer that its value came from.
    pub provenance: BTreeMap<String, String>,
    /// Directories that the environment names.
    pub places: Places,
    /// What it says to CUDA.
    pub cuda: CudaEnvironment,
    /// The models and how they take turns.
    pub ensemble: Ensemble,
    /// What the user should know of how the values were found; one sentence each.
    pub notes: Vec<String>,
}

/// Lays the command line over the environment over the file over the defaults, and validates the result.
///
/// # Errors
/// [`ConfigError`], naming the flag, variable or file and the key.
pub fn resolve(command_line: &CommandLine, environment: &Environment) -> Result<Resolved, ConfigError> {
    let mut layers = Layers::default();
    let mut notes: Vec<String> = environment
        .without_effect()
        .map(|name| format!("{name} is set, but this program has no part that it could apply to"))
        .collect();
    if let Some(MachineDefaults { machine, values, note }) = environment.machine_defaults() {
        for (key, value) in values {
            layers.set(format!("default on {machine}"), key, value);
        }
        notes.push(note);
    }
    if let Some((path, given_by)) = config_file(command_line, environment)? {
        let layer = format!("configuration file {}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::File { path, given_by, source })?;
        let table: Table = toml::from_str(&text).map_err(|error| ConfigError::Value {
            place: layer.clone(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        for (key, value) in table {
            layers.set(layer.clone(), known(&layer, &key)?, value);
        }
    }
    for (variable, key, value) in environment.values()? {
        layers.set(format!("environment {variable}"), key, value);
    }
    for (key, value) in &command_line.values {
        let layer = format!("command line --{}", key.replace('_', "-"));
        let (key, value) = match key.strip_prefix("no_") {
            Some(key) => (key, Value::from(false)),
            None => (key.as_str(), value.clone()),
        };
        let key = known(&layer, key)?;
        layers.set(layer, key, value);
    }
    let settings = Settings::of_layers(&layers)?;
    Resolved::checked(settings, provenance(|key| layers.layer(key)), environment, notes)
}

/// The key of a setting by this or by its former name.
fn known(layer: &str, key: &str) -> Result<&'static str, ConfigError> {
    let setting = SETTINGS.iter().find(|setting| setting.key == key || setting.alias == Some(key));
    setting.map(|setting| setting.key).ok_or_else(|| {
        let keys: Vec<String> = SETTINGS.iter().map(|setting| format!("`{}`", setting.key)).collect();
        let reason = format!("unknown field: found `{key}`, expected one of {}", keys.join(", "));
        ConfigError::Value { place: place(layer, key), reason }
    })
}

/// For every key what `layer` says of it.
fn provenance<'a>(layer: impl Fn(&str) -> &'a str) -> BTreeMap<String, String> {
    SETTINGS.iter().map(|setting| (setting.key.to_owned(), layer(setting.key).to_owned())).collect()
}

impl Resolved {
    /// Settings that a program makes without files and flags; whatever differs from the defaults comes from it.
    ///
    /// # Errors
    /// [`ConfigError`] if a value is out of range or two contradict each other.
    pub fn of_program(settings: Settings, environment: &Environment) -> Result<Self, ConfigError> {
        let values = |settings: &Settings| serde_json::to_value(settings).unwrap_or_default();
        let (defaults, given) = (values(&Settings::default()), values(&settings));
        let provenance = provenance(|key| if defaults[key] == given[key] { "default" } else { "program" });
        Self::checked(settings, provenance, environment, Vec::new())
    }

    fn checked(
        settings: Settings,
        provenance: BTreeMap<String, String>,
        environment: &Environment,
        notes: Vec<String>,
    ) -> Result<Self, ConfigError> {
        let (mut settings, mut provenance, mut notes) = (settings, provenance, notes);
        if let Some(wish) = settings.shard {
            let layers = ensemble::Provenance(&provenance);
            let (share, variable) =
                wish.resolve(environment).map_err(|error| layers.invalid("shard", format!("shard {wish}: {error}")))?;
            if let Some(variable) = variable {
                notes.push(format!("{variable} makes this share {share} of the job, counted from 0"));
                provenance.entry("shard".to_owned()).and_modify(|source| *source = format!("{source} ({variable})"));
            }
            settings.shard = Some(ShardWish::Given(share));
        }
        let ensemble = ensemble::ensemble(&settings, &provenance)?;
        validate::validate(&settings, &ensemble, &provenance)?;
        Ok(Self { settings, provenance, places: environment.places(), cuda: environment.cuda(), ensemble, notes })
    }
}

fn config_file(
    command_line: &CommandLine,
    environment: &Environment,
) -> Result<Option<(PathBuf, &'static str)>, EnvironmentError> {
    if let Some(path) = &command_line.config {
        return Ok(Some((path.clone(), "given with --config")));
    }
    Ok(environment.get(CONFIG_FILE)?.map(|path| (path.into(), "given with EMBEDDER_CONFIG")))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::Mode;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment(variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect())
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn each_layer_wins_over_the_one_before_and_is_remembered() {
        let file = file("model = 'from-file'\npart_rows = 7\nmax_duration = '2m'\n");
        let command_line = CommandLine {
            config: Some(file.path().into()),
            values: vec![("model".to_owned(), Value::from("from-flag"))],
        };
        let variables = environment(&[("EMBEDDER_MODEL", "from-variable"), ("EMBEDDER_THREADS", "3")]);
        let resolved = resolve(&command_line, &variables).unwrap();
        assert_eq!(resolved.settings.model, "from-flag");
        assert_eq!(resolved.settings.part_rows, 7);
        assert_eq!(resolved.settings.threads, Some(3));
        assert_eq!(resolved.settings.max_duration.unwrap().0.as_secs(), 120);
        assert_eq!(resolved.provenance["model"], "command line --model");
        assert_eq!(resolved.provenance["threads"], "environment EMBEDDER_THREADS");
        assert_eq!(resolved.provenance["part_rows"], format!("configuration file {}", file.path().display()));
        assert_eq!(resolved.provenance["output_dir"], "default");
    }

    #[track_caller]
    fn check_error(text: &str, variables: &[(&str, &str)], flags: &[(&str, Value)], expected: &str) {
        let file = file(text);
        let command_line = CommandLine {
            config: Some(file.path().into()),
            values: flags.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
        };
        let error = resolve(&command_line, &environment(variables)).unwrap_err().to_string();
        assert_eq!(error.replace(file.path().to_str().unwrap(), "FILE"), expected);
    }

    #[test]
    fn an_error_names_the_layer_and_the_key() {
        check_error(
            "part_rows = 'x'",
            &[],
            &[],
            "configuration file FILE: key part_rows: invalid type: string \"x\", expected u32",
        );
        let unknown = {
            let file = file("chunked = 'x'");
            let command_line = CommandLine { config: Some(file.path().into()), values: vec![] };
            resolve(&command_line, &environment(&[])).unwrap_err().to_string()
        };
        assert!(unknown.contains("unknown field") && unknown.contains("chunked"), "{unknown}");
        assert!(unknown.starts_with("configuration file "), "{unknown}");
        check_error(
            "",
            &[("EMBEDDER_SHARD_ROWS", "0")],
            &[],
            "environment EMBEDDER_SHARD_ROWS: part_rows must be at least 1",
        );
        check_error(
            "prompt = 'a'",
            &[("EMBEDDER_PROMPT_NAME", "query")],
            &[],
            "configuration file FILE and environment EMBEDDER_PROMPT_NAME: prompt and prompt_name contradict each other; give one of them",
        );
        check_error(
            "",
            &[],
            &[("overwrite", Value::from(true)), ("resume", Value::from(true))],
            "command line --overwrite and command line --resume: overwrite and resume contradict each other; give one of them",
        );
    }

    #[test]
    fn former_names_are_read_in_every_layer() {
        let file = file("shard_rows = 7");
        let command_line = CommandLine { config: Some(file.path().into()), values: vec![] };
        let rows = |line: &CommandLine, variables: &[(&str, &str)]| {
            resolve(line, &environment(variables)).unwrap().settings.part_rows
        };
        assert_eq!(rows(&command_line, &[]), 7);
        assert_eq!(rows(&command_line, &[("EMBEDDER_SHARD_ROWS", "8")]), 8);
        assert_eq!(rows(&command_line, &[("EMBEDDER_SHARD_ROWS", "8"), ("EMBEDDER_PART_ROWS", "9")]), 9);
        assert_eq!(rows(&command_line.with("shard_rows", Some(10)), &[("EMBEDDER_PART_ROWS", "9")]), 10);
    }

    #[test]
    fn the_examples_can_be_used() {
        for (example, mode) in [("kaggle-t4x2", Mode::Exclusive), ("workstation", Mode::Rotate), ("cpu", Mode::Single)]
        {
            let command_line = CommandLine { config: Some(format!("configs/{example}.toml").into()), values: vec![] };
            let resolved = resolve(&command_line, &environment(&[])).unwrap();
            assert_eq!(resolved.ensemble.mode, mode, "{example}");
        }
    }

    #[test]
    fn a_machine_of_a_known_kind_has_defaults_that_anybody_can_overrule() {
        let kaggle = ("KAGGLE_KERNEL_RUN_TYPE", "Batch");
        let resolved = resolve(&CommandLine::default(), &environment(&[kaggle])).unwrap();
        assert_eq!(resolved.ensemble.mode, Mode::Exclusive);
        assert_eq!(resolved.settings.chunked_dir.to_str(), Some("/kaggle/working/Chunked"));
        assert_eq!(resolved.notes.len(), 1);
        let off = CommandLine { config: None, values: vec![("no_exclusive_ensemble".to_owned(), Value::from(true))] };
        let resolved = resolve(&off, &environment(&[kaggle, ("EMBEDDER_CHUNKED_DIR", "here")])).unwrap();
        assert_eq!(resolved.ensemble.mode, Mode::Single);
        assert_eq!(resolved.settings.chunked_dir.to_str(), Some("here"));
        assert_eq!(resolved.provenance["exclusive_ensemble"], "command line --no-exclusive-ensemble");
    }

    #[test]
    fn a_missing_configuration_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("x.toml");
        let command_line = CommandLine { config: Some(missing.clone()), values: vec![] };
        let error = resolve(&command_line, &Environment::default()).unwrap_err().to_string();
        let expected = format!("configuration file {} (given with --config): ", missing.display());
        assert!(error.starts_with(&expected), "{error}");
    }

    #[test]
    fn the_token_is_never_serialised() {
        let resolved = resolve(&CommandLine::default(), &environment(&[("HF_TOKEN", "hf_secret")])).unwrap();
        assert_eq!(resolved.settings.hf_token.as_deref(), Some("hf_secret"));
        assert!(!serde_json::to_string(&resolved.settings).unwrap().contains("hf_secret"));
        assert_eq!(resolved.provenance["hf_token"], "environment HF_TOKEN");
    }
}
