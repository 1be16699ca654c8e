//! Leases between real processes, which are killed at bad moments.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in helpers too")]

#[path = "lease/command.rs"]
mod command;
#[path = "lease/exclusion.rs"]
mod exclusion;
#[path = "lease/gpus.rs"]
mod gpus;
#[path = "lease/lock_files.rs"]
mod lock_files;
#[path = "lease/nested.rs"]
mod nested;
#[path = "lease/rig.rs"]
mod rig;
mod stand_in;
