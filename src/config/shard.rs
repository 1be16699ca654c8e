//! Which share of a job this machine does: said outright, or known to the scheduler that started it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Environment;
use crate::domain::{Share, ShareError};

/// A wish for a share. As text: `3/8`, `auto` or `auto/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardWish {
    /// This one.
    Given(Share),
    /// The one that the scheduler's variables tell; of so many, if they do not tell that.
    Auto {
        /// How many shares there are.
        of: Option<u32>,
    },
}

impl ShardWish {
    /// The share, if it is known.
    pub fn share(self) -> Option<Share> {
        match self {
            Self::Given(share) => Some(share),
            Self::Auto { .. } => None,
        }
    }

    /// The share that is meant here, and which variable told its number if one did.
    pub(super) fn resolve(self, environment: &Environment) -> Result<(Share, Option<&'static str>), ShardError> {
        match self {
            Self::Given(share) => Ok((share, None)),
            Self::Auto { of } => task(environment, of).map(|(share, variable)| (share, Some(variable))),
        }
    }
}

/// The scheduler does not tell which share to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ShardError {
    /// None of the variables is there.
    #[error(
        "auto needs a scheduler that numbers its tasks: {SLURM_TASK} or {COMPLETION_INDEX} must be set; elsewhere give \
         the share itself, such as 3/8"
    )]
    NoTask,
    /// A variable is no number.
    #[error("{variable}={value:?} is not a number")]
    NoNumber { variable: &'static str, value: String },
    /// The number of tasks is not known.
    #[error("{variable} does not tell how many shares there are; give auto/N")]
    NoCount { variable: &'static str },
    /// The array has gaps, or is a part of another one.
    #[error(
        "the tasks of this array are not numbered one after the other ({count} of them from {first} to {last}), so that \
         they do not tell how many shares there are; give auto/N with an array from 0 to N-1, or a part of that"
    )]
    Gaps { count: u32, first: u32, last: u32 },
    /// There are not so many shares.
    #[error("{variable}: {error}")]
    Beyond { variable: &'static str, error: ShareError },
}

/// Number of a task of a SLURM job array; the first one has any number that the user likes.
const SLURM_TASK: &str = "SLURM_ARRAY_TASK_ID";

/// Number of a pod of an indexed Kubernetes job, from 0.
const COMPLETION_INDEX: &str = "JOB_COMPLETION_INDEX";

fn task(environment: &Environment, of: Option<u32>) -> Result<(Share, &'static str), ShardError> {
    let number = |variable: &'static str| -> Result<Option<u32>, ShardError> {
        let Some(value) = environment.0.get(variable).filter(|value| !value.is_empty()) else { return Ok(None) };
        let value = value.to_string_lossy().into_owned();
        value.trim().parse().map(Some).map_err(|_| ShardError::NoNumber { variable, value })
    };
    let share = |variable, number, of| Share::new(number, of).map_err(|error| ShardError::Beyond { variable, error });
    if let Some(task) = number(SLURM_TASK)? {
        if let Some(of) = of {
            return Ok((share(SLURM_TASK, task, of)?, SLURM_TASK));
        }
        let (count, first) = (number("SLURM_ARRAY_TASK_COUNT")?, number("SLURM_ARRAY_TASK_MIN")?);
        let count = count.ok_or(ShardError::NoCount { variable: SLURM_TASK })?;
        let first = first.unwrap_or(0);
        let last = number("SLURM_ARRAY_TASK_MAX")?.unwrap_or(first.saturating_add(count.saturating_sub(1)));
        if last.checked_sub(first).and_then(|span| span.checked_add(1)) != Some(count)
            || !(first..=last).contains(&task)
        {
            return Err(ShardError::Gaps { count, first, last });
        }
        return Ok((share(SLURM_TASK, task - first, count)?, SLURM_TASK));
    }
    let task = number(COMPLETION_INDEX)?.ok_or(ShardError::NoTask)?;
    let of = of.ok_or(ShardError::NoCount { variable: COMPLETION_INDEX })?;
    Ok((share(COMPLETION_INDEX, task, of)?, COMPLETION_INDEX))
}

impl fmt::Display for ShardWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(share) => share.fmt(f),
            Self::Auto { of: None } => f.write_str("auto"),
            Self::Auto { of: Some(of) } => write!(f, "auto/{of}"),
        }
    }
}

impl FromStr for ShardWish {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        match text.strip_prefix("auto") {
            None => Ok(Self::Given(text.parse()?)),
            Some("") => Ok(Self::Auto { of: None }),
            // Any number of shares has a first one.
            Some(of) => Ok(Self::Auto { of: Some(format!("0{of}").parse::<Share>()?.of()) }),
        }
    }
}

impl Serialize for ShardWish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ShardWish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wish: &str, variables: &[(&str, &str)], expected: Result<&str, &str>) {
        let environment =
            Environment(variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect());
        let found = wish.parse::<ShardWish>().map_err(|error| error.to_string());
        let found = found.and_then(|wish| wish.resolve(&environment).map_err(|error| error.to_string()));
        let found = found.map(|(share, _)| share.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    const SLURM: [(&str, &str); 4] = [
        ("SLURM_ARRAY_TASK_ID", "12"),
        ("SLURM_ARRAY_TASK_COUNT", "8"),
        ("SLURM_ARRAY_TASK_MIN", "10"),
        ("SLURM_ARRAY_TASK_MAX", "17"),
    ];

    #[test]
    fn a_share_that_is_given_needs_no_scheduler() {
        check("3/8", &SLURM, Ok("3/8"));
        check("8/8", &[], Err("there is no share 8 of 8: shares are counted from 0, so that the last one is 7"));
        check(
            "autos",
            &[],
            Err("\"0s\" is not a share such as 3/8: its number, counted from 0, and how many there are"),
        );
    }

    #[test]
    fn an_array_of_slurm_may_begin_with_any_number() {
        check("auto", &SLURM, Ok("2/8"));
        check("auto/16", &SLURM, Ok("12/16"));
        check(
            "auto/12",
            &SLURM,
            Err(
                "SLURM_ARRAY_TASK_ID: there is no share 12 of 12: shares are counted from 0, so that the last one is 11",
            ),
        );
        check("auto", &SLURM[..1], Err("SLURM_ARRAY_TASK_ID does not tell how many shares there are; give auto/N"));
    }

    #[test]
    fn an_array_with_gaps_does_not_tell_how_many_shares_there_are() {
        let gaps = [SLURM[0], ("SLURM_ARRAY_TASK_COUNT", "3"), SLURM[2], SLURM[3]];
        check(
            "auto",
            &gaps,
            Err(
                "the tasks of this array are not numbered one after the other (3 of them from 10 to 17), so that they do \
                 not tell how many shares there are; give auto/N with an array from 0 to N-1, or a part of that",
            ),
        );
        check("auto/16", &gaps, Ok("12/16"));
    }

    #[test]
    fn kubernetes_tells_the_number_alone() {
        let index = [("JOB_COMPLETION_INDEX", "5")];
        check("auto/8", &index, Ok("5/8"));
        check("auto", &index, Err("JOB_COMPLETION_INDEX does not tell how many shares there are; give auto/N"));
        check("auto/8", &[("JOB_COMPLETION_INDEX", "five")], Err("JOB_COMPLETION_INDEX=\"five\" is not a number"));
        check(
            "auto",
            &[],
            Err(
                "auto needs a scheduler that numbers its tasks: SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX must be set; \
                 elsewhere give the share itself, such as 3/8",
            ),
        );
    }
}
