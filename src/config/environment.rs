//! The environment twin of every setting.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use figment::value::Value;

/// How the text of a variable becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As it stands.
    Text,
    /// A whole number.
    Number,
    /// A number.
    Decimal,
    /// 1/true/yes/on or 0/false/no/off.
    Switch,
    /// Separated by white space or commas.
    List,
    /// Text without the white space that copying leaves around it; nothing else is nothing.
    Token,
}

/// One variable and the setting that it gives.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Name in the environment.
    pub name: &'static str,
    /// Key of the setting.
    pub key: &'static str,
    /// How to read it.
    pub kind: Kind,
}

const fn variable(name: &'static str, key: &'static str, kind: Kind) -> Variable {
    Variable { name, key, kind }
}

/// All variables. Of two for one key, the later wins.
pub const VARIABLES: &[Variable] = &[
    variable("EMBEDDER_CHUNKED_DIR", "chunked_dir", Kind::Text),
    variable("EMBEDDER_OUTPUT_DIR", "output_dir", Kind::Text),
    variable("EMBEDDER_COLLECTIONS", "collections", Kind::List),
    variable("EMBEDDER_MODEL", "model", Kind::Text),
    variable("EMBEDDER_MODELS_FILE", "models_file", Kind::Text),
    variable("EMBEDDER_ENSEMBLE_MODELS", "ensemble_models", Kind::List),
    variable("EMBEDDER_ENSEMBLE_WEIGHTS", "ensemble_weights", Kind::List),
    variable("ENSEMBLE_ENABLED", "ensemble", Kind::Switch),
    variable("EMBEDDER_ENSEMBLE", "ensemble", Kind::Switch),
    variable("EMBEDDER_EXCLUSIVE_ENSEMBLE", "exclusive_ensemble", Kind::Switch),
    variable("EMBEDDER_SEQUENTIAL_ENSEMBLE", "sequential_ensemble", Kind::Switch),
    variable("EMBEDDER_STRATEGY", "strategy", Kind::Text),
    variable("EMBEDDER_WARM_CACHE", "warm_cache_after_release", Kind::Switch),
    variable("EMBEDDER_SEQUENTIAL_DATA_PARALLEL", "data_parallel", Kind::Switch),
    variable("EMBEDDER_FUSION", "fusion", Kind::Text),
    variable("EMBEDDER_DTYPE", "dtype", Kind::Text),
    variable("EMBEDDER_MAX_LENGTH", "max_length", Kind::Number),
    variable("EMBEDDER_PROMPT_NAME", "prompt_name", Kind::Text),
    variable("EMBEDDER_PROMPT", "prompt", Kind::Text),
    variable("EMBEDDER_MATRYOSHKA_DIM", "truncate_dim", Kind::List),
    variable("EMBEDDER_EMIT", "emit", Kind::List),
    variable("EMBEDDER_FORMAT", "format", Kind::List),
    variable("EMBEDDER_SHARD_ROWS", "shard_rows", Kind::Number),
    variable("EMBEDDER_SHARD", "shard", Kind::Text),
    variable("GPU_BATCH_SIZE", "batch_size", Kind::List),
    variable("EMBEDDER_BATCH_SIZE", "batch_size", Kind::List),
    variable("EMBEDDER_ADAPTIVE_BATCH", "adaptive_batch", Kind::Switch),
    variable("GPU_ENABLE_WARMUP", "warm_up", Kind::Switch),
    variable("EMBEDDER_WARM_UP", "warm_up", Kind::Switch),
    variable("EMBEDDER_BATCH_TOKENS", "batch_tokens", Kind::Number),
    variable("EMBEDDER_THREADS", "threads", Kind::Number),
    variable("EMBEDDER_CPU_INSTRUCTIONS", "cpu_instructions", Kind::Text),
    variable("EMBEDDER_SEQUENTIAL_DEVICES", "devices", Kind::List),
    variable("EMBEDDER_NVML_LIBRARY", "nvml_library", Kind::Text),
    variable("EMBEDDER_FORCE_CPU", "force_cpu", Kind::Switch),
    variable("EMBEDDER_REHEARSE", "rehearse", Kind::Switch),
    variable("EMBEDDER_SOFT_LIMIT_GB", "soft_limit_gb", Kind::Decimal),
    variable("GPU_MODEL_MEMORY_BUFFER_GB", "memory_buffer_gb", Kind::Decimal),
    variable("EMBEDDER_MEMORY_BUFFER_GB", "memory_buffer_gb", Kind::Decimal),
    variable("EMBEDDER_MEMORY_WARNING", "memory_warning", Kind::Decimal),
    variable("EMBEDDER_MEMORY_CRITICAL", "memory_critical", Kind::Decimal),
    variable("EMBEDDER_LEASE_POLICY", "lease_policy", Kind::Text),
    variable("EMBEDDER_LEASE_WAIT", "lease_wait", Kind::Text),
    variable("EMBEDDER_FOREIGN", "foreign", Kind::Text),
    variable("EMBED_LEASE_DIR", "lease_dir", Kind::Text),
    variable("EMBEDDER_RESUME", "resume", Kind::Switch),
    variable("EMBEDDER_OVERWRITE", "overwrite", Kind::Switch),
    variable("EMBEDDER_INCREMENTAL", "incremental", Kind::Switch),
    variable("EMBEDDER_CACHE_DIR", "cache_dir", Kind::Text),
    variable("TRANSFORMERS_OFFLINE", "offline", Kind::Switch),
    variable("HF_HUB_OFFLINE", "offline", Kind::Switch),
    variable("EMBEDDER_OFFLINE", "offline", Kind::Switch),
    variable("HF_HOME", "hf_cache_dir", Kind::Text),
    variable("EMBEDDER_HF_CACHE_DIR", "hf_cache_dir", Kind::Text),
    variable("HUGGINGFACE_HUB_CACHE", "hf_hub_cache", Kind::Text),
    variable("HF_HUB_CACHE", "hf_hub_cache", Kind::Text),
    variable("HF_ENDPOINT", "hf_endpoint", Kind::Text),
    variable("HUGGING_FACE_HUB_TOKEN", "hf_token", Kind::Token),
    variable("HF_TOKEN", "hf_token", Kind::Token),
    variable("EMBEDDER_RUN_ID", "run_id", Kind::Text),
    variable("EMBEDDER_MAX_DURATION", "max_duration", Kind::Text),
    variable("EMBEDDER_PROGRESS", "progress", Kind::Text),
    variable("EMBEDDER_LOG_LEVEL", "log_level", Kind::Text),
    variable("EMBEDDER_LOG_FORMAT", "log_format", Kind::Text),
];

/// Variables of the programs that this one follows, for parts that it does not have. They are told of and have no effect.
const WITHOUT_EFFECT: &[&str] = &[
    "GPU_ENABLE_MULTI_MODEL_INSTANCES",
    "GPU_MAX_MODEL_INSTANCES",
    "GPU_ESTIMATED_MODEL_SIZE_GB",
    "GPU_MAX_DELAY_MS",
    "GPU_QUEUE_SIZE",
    "GPU_USE_FP16",
    "MAX_ADAPTERS",
    "BASE_MODEL_PATH",
    "REDIS_URL",
    "REDIS_CLUSTER_PREFIX",
];

/// Set in every notebook of Kaggle, interactive or not.
const KAGGLE: &str = "KAGGLE_KERNEL_RUN_TYPE";

/// The variable that names the configuration file, as `--config` does.
pub(super) const CONFIG_FILE: &str = "EMBEDDER_CONFIG";

/// Every variable of this program begins so; one that does and is unknown is an error, not a typing mistake that
/// goes unnoticed.
const PREFIX: &str = "EMBEDDER_";

/// The environment as data, so that tests need not change that of the process.
#[derive(Debug, Clone, Default)]
pub struct Environment(pub BTreeMap<String, OsString>);

/// Values that suit a machine better than the defaults.
pub(super) struct MachineDefaults {
    /// What kind of machine it is.
    pub machine: &'static str,
    /// By key.
    pub values: Vec<(&'static str, Value)>,
    /// For people: how it is known, and what follows.
    pub note: String,
}

/// Directories that the user's environment names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The home directory.
    pub home: Option<PathBuf>,
    /// Root of the user's caches.
    pub cache: PathBuf,
    /// File with the user's token for the hub, if not the usual one.
    pub hub_token: Option<PathBuf>,
    /// Directory of lock files for leases, if not the usual one.
    pub leases: Option<PathBuf>,
    /// What a wrapper says of the locks that it took for this process.
    pub inherited_leases: Option<String>,
    /// For files of this user that end with the session.
    pub runtime: Option<PathBuf>,
}

/// What the environment says to CUDA. It is no setting of ours: CUDA reads it itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CudaEnvironment {
    /// `CUDA_VISIBLE_DEVICES`; empty is not the same as unset.
    pub visible_devices: Option<String>,
    /// `CUDA_DEVICE_ORDER`.
    pub device_order: Option<String>,
}

/// A variable that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// No setting has this name.
    #[error("unknown environment variable {name}{}; unset it", did_you_mean(.similar.as_deref()))]
    Unknown {
        /// The variable.
        name: String,
        /// The known name that is most like it.
        similar: Option<String>,
    },
    /// The value is not of the variable's kind.
    #[error("environment variable {name}={value:?}: expected {expected}")]
    Unreadable {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
        /// What would be readable.
        expected: &'static str,
    },
}

fn did_you_mean(similar: Option<&str>) -> String {
    similar.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}

impl Environment {
    /// That of this process; variables whose names are not Unicode cannot be ours.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect())
    }

    /// The same without a share: for commands that do not embed.
    #[must_use]
    pub fn without_share(&self) -> Self {
        let mut environment = self.clone();
        environment.0.remove("EMBEDDER_SHARD");
        environment
    }

    /// Directories that the user's environment names.
    pub fn places(&self) -> Places {
        let path = |name: &str| self.0.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        // As the XDG Base Directory Specification has it; without a home there is still a place for temporary files.
        let cache = path("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        let (leases, runtime) = (path("EMBED_LEASE_DIR"), path("XDG_RUNTIME_DIR"));
        let inherited_leases = self.0.get("EMBED_LEASE_INHERITED").and_then(|text| text.to_str()).map(str::to_owned);
        let hub_token = path("HF_TOKEN_PATH");
        Places { home, hub_token, cache: cache.unwrap_or_else(std::env::temp_dir), leases, inherited_leases, runtime }
    }

    /// What to do otherwise on this machine, if it is one of those that are known.
    pub(super) fn machine_defaults(&self) -> Option<MachineDefaults> {
        self.0.get(KAGGLE).filter(|value| !value.is_empty())?;
        let values =
            vec![("exclusive_ensemble", Value::from(true)), ("chunked_dir", Value::from("/kaggle/working/Chunked"))];
        let note = format!(
            "{KAGGLE} is set, so this is Kaggle: each model has all devices for itself in its turn, and the input is \
             /kaggle/working/Chunked, unless told otherwise (--no-exclusive-ensemble, --chunked-dir)"
        );
        Some(MachineDefaults { machine: "Kaggle", values, note })
    }

    /// Variables that are set for parts that this program does not have.
    pub(super) fn without_effect(&self) -> impl Iterator<Item = &'static str> {
        WITHOUT_EFFECT.iter().copied().filter(|name| self.0.get(*name).is_some_and(|value| !value.is_empty()))
    }

    /// What the environment says to CUDA.
    pub(super) fn cuda(&self) -> CudaEnvironment {
        let text = |name: &str| self.0.get(name).map(|value| value.to_string_lossy().into_owned());
        CudaEnvironment { visible_devices: text("CUDA_VISIBLE_DEVICES"), device_order: text("CUDA_DEVICE_ORDER") }
    }

    /// A variable that is set and not empty. An empty `EMBEDDER_PROMPT` is a value: no prompt.
    pub(super) fn get(&self, name: &str) -> Result<Option<&str>, EnvironmentError> {
        let Some(value) = self.0.get(name).filter(|value| !value.is_empty() || name == "EMBEDDER_PROMPT") else {
            return Ok(None);
        };
        value.to_str().map(Some).ok_or_else(|| EnvironmentError::Unreadable {
            name: name.to_owned(),
            value: value.to_string_lossy().into_owned(),
            expected: "text in UTF-8",
        })
    }

    /// The settings that the environment gives, in the order of [`VARIABLES`].
    pub(super) fn values(&self) -> Result<Vec<(&'static Variable, Value)>, EnvironmentError> {
        let known = |name: &str| name == CONFIG_FILE || VARIABLES.iter().any(|variable| variable.name == name);
        if let Some(name) = self.0.keys().find(|name| name.starts_with(PREFIX) && !known(name)) {
            return Err(EnvironmentError::Unknown { name: name.clone(), similar: most_similar(name) });
        }
        let mut values = Vec::new();
        for variable in VARIABLES {
            let text = self.get(variable.name)?;
            if let Some(text) = text.filter(|text| variable.kind != Kind::Token || !text.trim().is_empty()) {
                let value = variable.kind.read(text).map_err(|expected| EnvironmentError::Unreadable {
                    name: variable.name.to_owned(),
                    value: text.to_owned(),
                    expected,
                })?;
                values.push((variable, value));
            }
        }
        Ok(values)
    }
}

impl Kind {
    fn read(self, text: &str) -> Result<Value, &'static str> {
        match self {
            Self::Text => Ok(Value::from(text)),
            Self::Token => Ok(Value::from(text.replace(['\r', '\n'], "").trim())),
            Self::Number => {
                text.trim().parse::<u64>().map(Value::from).map_err(|_| "a whole number that is not negative")
            }
            Self::Decimal => text.trim().parse::<f64>().map(Value::from).map_err(|_| "a number"),
            Self::Switch => match text.trim().to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(Value::from(true)),
                "0" | "false" | "no" | "off" => Ok(Value::from(false)),
                _ => Err("1, true, yes or on; or 0, false, no or off"),
            },
            Self::List => Ok(Value::from(
                text.split(|character: char| character.is_whitespace() || character == ',')
                    .filter(|item| !item.is_empty())
                    .collect::<Vec<_>>(),
            )),
        }
    }
}

/// The known name with the smallest edit distance, if that is small against the length of the name.
fn most_similar(name: &str) -> Option<String> {
    VARIABLES
        .iter()
        .map(|variable| variable.name)
        .filter(|known| known.starts_with(PREFIX))
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| known.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment(variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect())
    }

    #[track_caller]
    fn check_error(variables: &[(&str, &str)], expected: &str) {
        assert_eq!(environment(variables).values().unwrap_err().to_string(), expected);
    }

    #[test]
    fn switches_are_strict() {
        for (text, expected) in [("1", true), ("Yes", true), ("on", true), ("0", false), ("OFF", false)] {
            let values = environment(&[("EMBEDDER_FORCE_CPU", text)]).values().unwrap();
            assert_eq!(values[0].1, Value::from(expected), "{text}");
        }
        check_error(
            &[("EMBEDDER_FORCE_CPU", "maybe")],
            "environment variable EMBEDDER_FORCE_CPU=\"maybe\": expected 1, true, yes or on; or 0, false, no or off",
        );
    }

    #[test]
    fn a_token_is_what_is_left_without_white_space_and_the_newer_name_goes_first() {
        let tokens = |variables: &[(&str, &str)]| {
            let values = environment(variables).values().unwrap();
            values.into_iter().map(|(_, value)| value.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(tokens(&[("HF_TOKEN", " hf_abc\r\n")]), ["hf_abc"]);
        assert_eq!(tokens(&[("HF_TOKEN", "hf_new"), ("HUGGING_FACE_HUB_TOKEN", "hf_old\n")]), ["hf_old", "hf_new"]);
        assert_eq!(tokens(&[("HF_TOKEN", " \n"), ("HUGGING_FACE_HUB_TOKEN", "hf_old")]), ["hf_old"]);
    }

    #[test]
    fn the_hubs_own_switch_goes_before_that_of_transformers() {
        let variables = environment(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]);
        let switches: Vec<Value> = variables.values().unwrap().into_iter().map(|(_, value)| value).collect();
        assert_eq!(switches, [Value::from(true), Value::from(false)], "the later one counts");
    }

    #[test]
    fn an_unknown_variable_is_an_error_with_a_suggestion() {
        check_error(
            &[("EMBEDDER_CHUNK_DIR", "x")],
            "unknown environment variable EMBEDDER_CHUNK_DIR (did you mean EMBEDDER_CHUNKED_DIR?); unset it",
        );
        check_error(&[("EMBEDDER_NONSENSE", "x")], "unknown environment variable EMBEDDER_NONSENSE; unset it");
    }

    #[test]
    fn an_empty_variable_counts_as_unset_except_for_the_prompt() {
        let values = environment(&[("EMBEDDER_MODEL", ""), ("EMBEDDER_PROMPT", "")]).values().unwrap();
        assert_eq!(values.iter().map(|(variable, _)| variable.key).collect::<Vec<_>>(), ["prompt"]);
    }
}
