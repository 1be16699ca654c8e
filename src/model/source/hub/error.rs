//! Why the hub did not give a model, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::answer::Answer;

/// Asked for as a file, what files there are.
pub(super) const LIST: &str = "api/models";
const NO_WEIGHTS: &str =
    "the repository has neither model.safetensors nor pytorch_model.bin; other kinds of weights are not supported";
const ADAPTER: &str = "the repository has adapter_config.json and no weights of its own: it is an adapter for another model, \
     which is not supported; merge the two (merge_and_unload of peft), save the model and pass its directory";

/// Why the hub did not give the model.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// There was no answer, or none that a working hub gives.
    #[error("{endpoint} could not be reached")]
    Unreachable {
        /// The hub's address.
        endpoint: String,
        /// What went wrong.
        #[source]
        source: Box<Answer>,
    },
    /// It is there, and serves nobody now, or not who asks too often.
    #[error("{endpoint} {}{}", if *status == 429 { "has been asked too often" } else { "does not serve now" }, to_wait(*wait))]
    Busy {
        /// The hub's address.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// How long it asks to wait.
        wait: Option<Duration>,
        /// Its answer.
        #[source]
        source: Box<Answer>,
    },
    /// The setting is no address.
    #[error("HF_ENDPOINT is {endpoint:?}")]
    Unaddressed {
        /// The setting.
        endpoint: String,
        /// What an address is.
        #[source]
        source: Box<Answer>,
    },
    /// Its owners ask everybody to accept terms first.
    #[error(
        "{endpoint} gives {repository} only to those who have accepted its terms: open {endpoint}/{repository} in a browser, \
         accept them, and set HF_TOKEN to a token of that account{}",
        if *with_token { " (the account of the token in use has not)" } else { "" }
    )]
    Gated {
        /// The hub's address.
        endpoint: String,
        /// `owner/name`.
        repository: String,
        /// Whether the hub knew who asked.
        with_token: bool,
        /// Its answer.
        #[source]
        source: Box<Answer>,
    },
    /// The hub wants to know who asks, or knows and refuses.
    #[error(
        "{endpoint} refuses {repository}: {}",
        if *with_token {
            "the token in use is not valid or may not read it, or there is no such model"
        } else {
            "there is no such model, or it is private, or its terms are to be accepted; for the latter two set HF_TOKEN"
        }
    )]
    Refused {
        /// The hub's address.
        endpoint: String,
        /// `owner/name`.
        repository: String,
        /// Whether the hub was told who asks.
        with_token: bool,
        /// Its answer.
        #[source]
        source: Box<Answer>,
    },
    /// The hub has no such repository, revision or file.
    #[error("{endpoint} has no {what}")]
    Absent {
        /// The hub's address.
        endpoint: String,
        /// What it does not have.
        what: String,
        /// Its answer.
        #[source]
        source: Box<Answer>,
    },
    /// The repository has no weights that can be read.
    #[error("{}", if *is_adapter { ADAPTER } else { NO_WEIGHTS })]
    NoWeights {
        /// Whether it has some that go with another model.
        is_adapter: bool,
    },
    /// What the small files ask for is not there; the weights were not fetched.
    #[error("{what}")]
    Unusable {
        /// What it is, and in which file.
        what: String,
    },
    /// What arrived is not what the hub promised.
    #[error("{file} arrived broken: {found} instead of {expected}; it was deleted, try again")]
    Corrupt {
        /// The file.
        file: String,
        /// Size or digest that arrived.
        found: String,
        /// Size or digest that was promised.
        expected: String,
    },
    /// The cache cannot be written.
    #[error("cannot write the cache {}", path.display())]
    Cache {
        /// The directory or file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Anything else.
    #[error("asking {endpoint} failed")]
    Failed {
        /// The hub's address.
        endpoint: String,
        /// What went wrong.
        #[source]
        source: Box<Answer>,
    },
}

impl HubError {
    /// Whether the hub may have the model, only that it cannot be asked.
    pub(in crate::model::source) fn was_not_reached(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. })
    }

    /// When it may serve again, where it does not now.
    pub(in crate::model::source) fn serves_again(&self) -> Option<String> {
        match self {
            Self::Busy { wait: Some(time), .. } => Some(format!("in {}", humantime::format_duration(*time))),
            Self::Busy { wait: None, .. } => Some("later".to_owned()),
            _ => None,
        }
    }

    /// Whether the name may be wrong.
    pub(in crate::model::source) fn is_of_a_name(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::Refused { .. })
    }
}

fn to_wait(time: Option<Duration>) -> String {
    time.map(|time| format!("; it asks to wait for {}", humantime::format_duration(time))).unwrap_or_default()
}

/// Who was asked for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'run> {
    pub(super) endpoint: &'run str,
    pub(super) repository: &'run str,
    pub(super) revision: &'run str,
    pub(super) with_token: bool,
}

impl Question<'_> {
    /// What an answer means that brings nothing; `file` was asked for, or else the repository.
    pub(super) fn failed(&self, file: Option<&str>, answer: Answer) -> HubError {
        let (endpoint, repository) = (self.endpoint.to_owned(), self.repository.to_owned());
        let with_token = self.with_token;
        let (status, code, wait) = match &answer {
            Answer::Status { status, code, wait, .. } => (*status, code.clone().unwrap_or_default(), *wait),
            Answer::Unaddressed => return HubError::Unaddressed { endpoint, source: Box::new(answer) },
            Answer::None(error) if error.is_builder() => {
                return HubError::Failed { endpoint, source: Box::new(answer) };
            }
            _ => return HubError::Unreachable { endpoint, source: Box::new(answer) },
        };
        let source = Box::new(answer);
        match (status, code.as_str()) {
            (_, "GatedRepo") => HubError::Gated { endpoint, repository, with_token, source },
            (401 | 403, _) => HubError::Refused { endpoint, repository, with_token, source },
            (404 | 410, _) => {
                let what = match (file, code.as_str()) {
                    (Some(LIST), _) => {
                        format!("list of the files of {repository}, nor their names, which a mirror must give")
                    }
                    (Some(file), _) => format!("{file} in {repository}, though it lists it"),
                    (None, "RevisionNotFound") => format!("revision {} of {repository}", self.revision),
                    (None, "RepoNotFound") => format!("repository {repository}"),
                    (None, _) => format!("repository {repository}, or it has no revision {}", self.revision),
                };
                HubError::Absent { endpoint, what, source }
            }
            // 407 is a proxy's.
            (407, _) => HubError::Unreachable { endpoint, source },
            (408 | 429 | 500.., _) => HubError::Busy { endpoint, status, wait, source },
            _ => HubError::Failed { endpoint, source },
        }
    }
}
