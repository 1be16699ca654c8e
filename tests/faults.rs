//! Things are broken on purpose, through the program as it is built: every fault has one clear error and its exit code,
//! loses nothing that was committed, and the same command without the fault ends with the files of an undisturbed run.
//!
//! Most faults come from a library that stands between the program and the C library (`faults/shim.c`), so that they
//! need no rights and strike where they are wanted.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in helpers too")]

mod program;

#[path = "faults/bounds.rs"]
mod bounds;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/hostile.rs"]
mod hostile;
#[path = "faults/input.rs"]
mod input;
#[path = "faults/models.rs"]
mod models;
#[path = "faults/process.rs"]
mod process;
#[path = "faults/rig.rs"]
mod rig;
