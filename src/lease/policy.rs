//! How much patience whoever asks for devices has: with other leases, and with programs that have none.

use std::time::Duration;

use crate::domain::{Foreign, LeasePolicy};

/// Wait so long if the user says to wait, but not for how long.
pub const DEFAULT_WAIT: Duration = Duration::from_mins(30);

/// What to do if a device is leased already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Give up.
    Fail,
    /// Try again for so long.
    Wait(Duration),
}

/// Waiting and not waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A time to wait.
    #[error("--lease-policy fail and --lease-wait contradict each other; give one of them")]
    FailAndWait,
    /// The same for programs without a lease.
    #[error("--lease-policy fail and --foreign wait contradict each other; give one of them")]
    FailAndForeignWait,
}

impl Policy {
    /// What the settings mean: a time to wait means to wait, and waiting for programs without a lease includes waiting
    /// for leases.
    ///
    /// # Errors
    /// If they contradict each other.
    pub fn resolve(policy: Option<LeasePolicy>, wait: Option<Duration>, foreign: Foreign) -> Result<Self, PolicyError> {
        let wants_to_wait = policy == Some(LeasePolicy::Wait) || foreign == Foreign::Wait;
        match (policy, wait) {
            (Some(LeasePolicy::Fail), Some(_)) => Err(PolicyError::FailAndWait),
            (Some(LeasePolicy::Fail), None) if foreign == Foreign::Wait => Err(PolicyError::FailAndForeignWait),
            (_, Some(limit)) => Ok(Self::Wait(limit)),
            (_, None) if wants_to_wait => Ok(Self::Wait(DEFAULT_WAIT)),
            (_, None) => Ok(Self::Fail),
        }
    }

    /// What is left of it after some time.
    pub(super) fn after(self, waited: Duration) -> Self {
        match self {
            Self::Fail => Self::Fail,
            Self::Wait(limit) => Self::Wait(limit.saturating_sub(waited)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(policy: Option<LeasePolicy>, wait: Option<u64>, foreign: Foreign, expected: Result<Policy, PolicyError>) {
        let found = Policy::resolve(policy, wait.map(Duration::from_secs), foreign);
        assert_eq!(found, expected, "{policy:?} {wait:?} {foreign:?}");
    }

    #[test]
    fn a_time_to_wait_means_to_wait() {
        use Foreign::{Refuse, Share, Wait};
        let five_seconds = Ok(Policy::Wait(Duration::from_secs(5)));
        for foreign in [Refuse, Share] {
            check(None, None, foreign, Ok(Policy::Fail));
            check(Some(LeasePolicy::Fail), None, foreign, Ok(Policy::Fail));
            check(Some(LeasePolicy::Wait), None, foreign, Ok(Policy::Wait(DEFAULT_WAIT)));
        }
        for foreign in [Refuse, Wait, Share] {
            check(None, Some(5), foreign, five_seconds);
            check(Some(LeasePolicy::Wait), Some(5), foreign, five_seconds);
            check(Some(LeasePolicy::Fail), Some(5), foreign, Err(PolicyError::FailAndWait));
        }
        check(None, None, Wait, Ok(Policy::Wait(DEFAULT_WAIT)));
        check(Some(LeasePolicy::Fail), None, Wait, Err(PolicyError::FailAndForeignWait));
    }
}
