//! Why settings cannot be used.

use std::path::PathBuf;

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
