//! The program as a user runs it, what it leaves behind, and whatever may go wrong with either.
//!
//! One binary, for each links the whole program. Limits, signals, preloaded libraries and variables belong to processes
//! that tests start, never to this one. One file's tests: `cargo test --test cli shares::`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at the first surprise, in helpers too")]

mod devices;
mod embed;
mod emit;
mod exclusive_ensemble;
#[cfg(target_os = "linux")]
mod faults;
mod foreign_bytes;
mod incremental;
mod input_data;
mod kill;
mod lease;
mod models_command;
mod models_hub;
mod outputs;
mod shares;

#[path = "../program/mod.rs"]
mod program;
#[path = "../stand_in/mod.rs"]
mod stand_in;
#[path = "../stand_in_hub/mod.rs"]
mod stand_in_hub;
