//! What to do about others on a device, as the user decides it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What to do if a device is leased already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LeasePolicy {
    /// Leave with exit code 6.
    Fail,
    /// Wait for it.
    Wait,
}

/// What to do if a program that has no lease computes on a leased GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Foreign {
    /// Leave with exit code 6, naming it.
    #[default]
    Refuse,
    /// Wait for its end, as long as for a lease.
    Wait,
    /// Use the GPU together with it, and say so.
    Share,
}
