//! What is asked for, and what was found.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::model::registry::Registry;

/// What to find and where to look. Nothing here is taken from the environment.
#[derive(Debug, Clone)]
pub struct SourceRequest<'run> {
    /// A registry name, a hub id (`owner/name`) or a directory.
    pub name: &'run str,
    /// The short names.
    pub registry: &'run Registry,
    /// A branch, tag or commit instead of the registry's, or `main`.
    pub revision: Option<&'run str>,
    /// What `~` stands for.
    pub home: Option<&'run Path>,
    /// Where the hub's cache is.
    pub hub_cache: HubCache,
    /// The hub's address.
    pub endpoint: &'run str,
    /// Who asks.
    pub token: Option<&'run str>,
    /// Whether anybody may be asked.
    pub network: Network,
    /// This program's own cache: unpacked copies, and records of which snapshots are whole.
    pub own_cache: &'run Path,
    /// Commands that run pip, tried in this order.
    pub pip: &'run [PipCommand],
}

/// Where the hub's cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubCache {
    /// The value of `HF_HOME`; the cache is its `hub`.
    HfHome(PathBuf),
    /// The value of `HF_HUB_CACHE`, the cache itself.
    HfHubCache(PathBuf),
}

impl HubCache {
    /// The directory with one `models--owner--name` for each repository.
    pub fn directory(&self) -> PathBuf {
        match self {
            Self::HfHome(home) => home.join("hub"),
            Self::HfHubCache(cache) => cache.clone(),
        }
    }
}

/// Whether anybody may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The hub may be asked, and pip be run.
    Online,
    /// No connection is opened and no program started.
    Offline,
}

/// A model's directory, and how it came to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The registry's name, the hub id, or the directory as given.
    pub name: String,
    /// The directory.
    pub directory: PathBuf,
    /// How it came to be there.
    pub provenance: Provenance,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// How a model's directory came to be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum Provenance {
    /// A directory that the user named.
    Local,
    /// A repository on the hub.
    Hub {
        /// `owner/name`.
        repository: String,
        /// What was asked for.
        revision: String,
        /// What that is.
        commit: String,
        /// Whether it was there already, and nobody was asked.
        cached: bool,
    },
    /// A Python package.
    Package {
        /// Name of the distribution.
        name: String,
        /// Its version.
        version: String,
        /// Whether it was unpacked by an earlier run.
        cached: bool,
    },
}

impl Provenance {
    /// Commit of the hub or version of the package: what the files are, wherever they are.
    pub fn revision(&self) -> Option<&str> {
        match self {
            Self::Local => None,
            Self::Hub { commit, .. } => Some(commit),
            Self::Package { version, .. } => Some(version),
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("directory"),
            Self::Hub { repository, .. } => write!(f, "hub {repository}"),
            Self::Package { name, .. } => write!(f, "package {name}"),
        }
    }
}

/// A command that runs pip: a program and its first arguments.
pub type PipCommand = Vec<String>;

/// The ways to run pip, the likeliest first.
pub fn default_pip_commands() -> Vec<PipCommand> {
    [&["python3", "-m", "pip"][..], &["pip3"], &["python", "-m", "pip"]]
        .into_iter()
        .map(|words| words.iter().map(|word| (*word).to_owned()).collect())
        .collect()
}
