//! What is computed on GPUs of NVIDIA, or on stand-ins for them (`numbers.sh`, `check.sh`): kernels, memory, recovery.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at the first surprise, in helpers too")]

mod kernels;
mod memory;
mod recovery;

#[path = "../program/mod.rs"]
mod program;
#[path = "../stand_in/mod.rs"]
mod stand_in;
