//! Leases between real processes, which are killed at bad moments.

mod command;
mod exclusion;
mod gpus;
mod lock_files;
mod nested;
mod rig;
