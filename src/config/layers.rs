//! Defaults, file, environment, command line: laid over each other with the source of every value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::environment::{CONFIG_FILE, CudaEnvironment, EnvironmentError, MachineDefaults};
use super::{Ensemble, Environment, Places, Settings, ShardWish, ensemble, validate};

/// What was typed: keys of settings with their values.
#[derive(Debug, Clone, Default)]
pub struct CommandLine {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The settings given, by key.
    pub values: Vec<(String, Value)>,
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

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file is not there.
    #[error("configuration file {} ({given_by}): {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Who named it.
        given_by: &'static str,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// A variable is unknown or unreadable.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// A value is of the wrong kind, or a key is unknown.
    #[error("{place}: {reason}")]
    Value {
        /// Layer and key.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A value is out of range, or two contradict each other.
    #[error("{place}: {reason}")]
    Invalid {
        /// Layers and keys.
        place: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// One value of one layer, so that errors and provenance name exactly where it stands.
struct Entry<'a> {
    source: String,
    key: &'a str,
    value: Value,
}

impl Provider for Entry<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let layer = Dict::from([(self.key.to_owned(), self.value.clone())]);
        Ok(Map::from([(Profile::Default, layer)]))
    }
}

/// Lays the command line over the environment over the file over the defaults, and validates the result.
///
/// # Errors
/// [`ConfigError`], naming the flag, variable or file and the key.
pub fn resolve(command_line: &CommandLine, environment: &Environment) -> Result<Resolved, ConfigError> {
    let mut layers = Figment::from(Serialized::defaults(Settings::default()));
    let mut notes: Vec<String> = environment
        .without_effect()
        .map(|name| format!("{name} is set, but this program has no part that it could apply to"))
        .collect();
    if let Some(MachineDefaults { machine, values, note }) = environment.machine_defaults() {
        for (key, value) in values {
            layers = layers.merge(Entry { source: format!("default on {machine}"), key, value });
        }
        notes.push(note);
    }
    if let Some((path, given_by)) = config_file(command_line, environment)? {
        // Read here, for the crate takes a missing file for an empty one.
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::File {
            path: path.clone(),
            given_by,
            source,
        })?;
        layers = layers.merge(File { path: &path, text: &text });
    }
    for (variable, value) in environment.values()? {
        layers = layers.merge(Entry { source: format!("environment {}", variable.name), key: variable.key, value });
    }
    for (key, value) in &command_line.values {
        let source = format!("command line --{}", key.replace('_', "-"));
        // A switch that is off by its own flag.
        let (key, value) = match key.strip_prefix("no_") {
            Some(key) => (key, Value::from(false)),
            None => (key.as_str(), value.clone()),
        };
        layers = layers.merge(Entry { source, key, value });
    }
    let settings: Settings = layers.extract().map_err(|error| describe(&error))?;
    let provenance = provenance(&layers, &settings);
    Resolved::checked(settings, provenance, environment, notes)
}

impl Resolved {
    /// Settings that a program makes without files and flags; whatever differs from the defaults comes from it.
    ///
    /// # Errors
    /// [`ConfigError`] if a value is out of range or two contradict each other.
    pub fn of_program(settings: Settings, environment: &Environment) -> Result<Self, ConfigError> {
        let values =
            |settings: &Settings| Value::serialize(settings).ok().and_then(Value::into_dict).unwrap_or_default();
        let defaults = values(&Settings::default());
        let source = |key: &String, value: &Value| {
            if defaults.get(key) == Some(value) { "default" } else { "program" }.to_owned()
        };
        let provenance = values(&settings).iter().map(|(key, value)| (key.clone(), source(key, value))).collect();
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
            let layers = ensemble::Layers(&provenance);
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

/// A configuration file whose text has been read.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Provider for File<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("configuration file {}", self.path.display()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Toml::string(self.text).data()
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

fn describe(error: &figment::Error) -> ConfigError {
    let layer = error.metadata.as_ref().map_or("settings", |metadata| metadata.name.as_ref());
    // A flag or variable names its key already; a file does not.
    let place = match error.path.join(".") {
        key if layer.starts_with("configuration file") && !key.is_empty() => format!("{layer}: key {key}"),
        _ => layer.to_owned(),
    };
    ConfigError::Value { place, reason: error.kind.to_string() }
}

fn provenance(layers: &Figment, settings: &Settings) -> BTreeMap<String, String> {
    let keys = Value::serialize(settings).ok().and_then(Value::into_dict).unwrap_or_default();
    // The token is a secret and does not serialise, but where it came from is no secret.
    keys.into_keys()
        .chain(["hf_token".to_owned()])
        .map(|key| {
            let source = layers.find_metadata(&key).map_or("default", |metadata| metadata.name.as_ref());
            let source = if source.starts_with("embed_collections") { "default" } else { source };
            (key, source.to_owned())
        })
        .collect()
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
        let file = file("model = 'from-file'\nshard_rows = 7\nmax_duration = '2m'\n");
        let command_line = CommandLine {
            config: Some(file.path().into()),
            values: vec![("model".to_owned(), Value::from("from-flag"))],
        };
        let variables = environment(&[("EMBEDDER_MODEL", "from-variable"), ("EMBEDDER_THREADS", "3")]);
        let resolved = resolve(&command_line, &variables).unwrap();
        assert_eq!(resolved.settings.model, "from-flag");
        assert_eq!(resolved.settings.shard_rows, 7);
        assert_eq!(resolved.settings.threads, Some(3));
        assert_eq!(resolved.settings.max_duration.unwrap().0.as_secs(), 120);
        assert_eq!(resolved.provenance["model"], "command line --model");
        assert_eq!(resolved.provenance["threads"], "environment EMBEDDER_THREADS");
        assert_eq!(resolved.provenance["shard_rows"], format!("configuration file {}", file.path().display()));
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
            "shard_rows = 'x'",
            &[],
            &[],
            "configuration file FILE: key shard_rows: invalid type: found string \"x\", expected u32",
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
            "environment EMBEDDER_SHARD_ROWS: shard_rows must be at least 1",
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
