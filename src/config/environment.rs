//! The environment: variables of settings, and what other programs say in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use toml::Value;

use super::error::EnvironmentError;
use super::{Kind, SETTINGS};

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

    /// The variables of settings that are set, with the keys and values that they give; of two for one key, the later
    /// wins.
    pub(super) fn values(&self) -> Result<Vec<(&'static str, &'static str, Value)>, EnvironmentError> {
        let known = |name: &str| name == CONFIG_FILE || variables().any(|variable| variable == name);
        if let Some(name) = self.0.keys().find(|name| name.starts_with(PREFIX) && !known(name)) {
            return Err(EnvironmentError::Unknown { name: name.clone(), similar: most_similar(name) });
        }
        let mut values = Vec::new();
        for setting in SETTINGS {
            for name in setting.variables {
                let is_set = |text: &&str| !matches!(setting.kind, Kind::Token) || !text.trim().is_empty();
                let Some(text) = self.get(name)?.filter(is_set) else { continue };
                let value = setting.kind.read(text).map_err(|expected| EnvironmentError::Unreadable {
                    name: (*name).to_owned(),
                    value: text.to_owned(),
                    expected,
                })?;
                values.push((*name, setting.key, value));
            }
        }
        Ok(values)
    }
}

/// All variables of settings.
fn variables() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().flat_map(|setting| setting.variables.iter().copied())
}

/// The known name with the smallest edit distance, if that is small against the length of the name.
fn most_similar(name: &str) -> Option<String> {
    variables()
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
            assert_eq!(values[0].2, Value::from(expected), "{text}");
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
            values.into_iter().map(|(.., value)| value.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(tokens(&[("HF_TOKEN", " hf_abc\r\n")]), ["hf_abc"]);
        assert_eq!(tokens(&[("HF_TOKEN", "hf_new"), ("HUGGING_FACE_HUB_TOKEN", "hf_old\n")]), ["hf_old", "hf_new"]);
        assert_eq!(tokens(&[("HF_TOKEN", " \n"), ("HUGGING_FACE_HUB_TOKEN", "hf_old")]), ["hf_old"]);
    }

    #[test]
    fn the_hubs_own_switch_goes_before_that_of_transformers() {
        let variables = environment(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]);
        let switches: Vec<Value> = variables.values().unwrap().into_iter().map(|(.., value)| value).collect();
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
        assert_eq!(values.iter().map(|(_, key, _)| *key).collect::<Vec<_>>(), ["prompt"]);
    }
}
