//! Why a model's directory cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::pointer;
use crate::model::weights::WeightError;

/// A directory that cannot be read, contradicts itself, or asks for something that is not implemented.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A file is not there.
    #[error("{} is missing: {what}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What it is needed for, or the way out.
        what: &'static str,
    },
    /// The tokenizer's file is not there, nor what it could be made from here.
    #[error("{} is missing: {what}", path.display())]
    MissingTokenizer {
        /// The file.
        path: PathBuf,
        /// The way out.
        what: String,
    },
    /// A file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("{} is not what it should be", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// What was fetched is not the file.
    #[error("{}", pointer::explained(path))]
    Pointer {
        /// The file.
        path: PathBuf,
    },
    /// A key of a JSON file has a value of the wrong kind.
    #[error("{}: the value of {key} is not what it should be", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was expected.
        #[source]
        source: serde_json::Error,
    },
    /// A value makes no sense, here or beside another.
    #[error("{}: {what}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The value and what is wrong with it.
        what: String,
    },
    /// The model needs something that this program does not do. To go on without it would give other vectors.
    #[error("{}: {what} is not supported; without it the vectors would be wrong", path.display())]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// What it asks for.
        what: String,
    },
    /// The size of a table of vectors stands in its weights, and those cannot be read.
    #[error(transparent)]
    Weights {
        /// Why.
        source: Box<WeightError>,
    },
    /// A prompt was asked for by a name that the model does not have.
    #[error("the model in {} has no prompt named {name:?}; {}", directory.display(), known_names(known))]
    UnknownPrompt {
        /// The model's directory.
        directory: PathBuf,
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
}

impl SpecError {
    pub(in crate::model) fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into() }
    }

    pub(in crate::model) fn invalid(path: &Path, what: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), what: what.into() }
    }
}

fn known_names(known: &[String]) -> String {
    if known.is_empty() {
        "it has none; pass --prompt TEXT for one of your own".to_owned()
    } else {
        format!("it has {}", known.join(", "))
    }
}
