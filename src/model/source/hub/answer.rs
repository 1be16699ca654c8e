//! Answers that do not bring what was asked for.

use std::io;
use std::time::Duration;

/// An answer that does not bring what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Answer {
    /// None came, or it broke off.
    #[error("no answer")]
    None(#[source] reqwest::Error),
    /// It broke off in the middle of a file.
    #[error("the connection was cut")]
    Cut(#[source] io::Error),
    /// No, for one reason or another.
    #[error("answer {status}{}{}", if said.is_empty() { "" } else { ": " }, said)]
    Status {
        /// The HTTP status.
        status: u16,
        /// The hub's own word for it (`X-Error-Code`).
        code: Option<String>,
        /// What it says about it.
        said: String,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// Nobody can be asked: what should be an address is none.
    #[error("an address of a hub begins with https:// or http://")]
    Unaddressed,
    /// It is none that a hub gives: the page of a network that wants its own login first.
    #[error("the answer is none of a hub: {what}")]
    Malformed {
        /// What is wrong with it.
        what: String,
    },
}

impl Answer {
    /// Whether another attempt may bring another answer.
    pub(super) fn may_change(&self) -> bool {
        match self {
            Self::None(error) => !error.is_builder() && !error.is_redirect(),
            Self::Cut(_) => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
            Self::Malformed { .. } | Self::Unaddressed => false,
        }
    }

    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }
}
