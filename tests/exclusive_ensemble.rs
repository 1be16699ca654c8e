//! Several models, each with all devices for itself: watched from outside, by the locks, the memory that the driver
//! tells of, the events and the vectors. GPUs are made up by a stand-in for the driver's library; a C compiler is needed.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in helpers too")]

#[path = "exclusive_ensemble/devices.rs"]
mod devices;
#[path = "exclusive_ensemble/faults.rs"]
mod faults;
#[path = "exclusive_ensemble/processes.rs"]
mod processes;
mod program;
#[path = "exclusive_ensemble/rig.rs"]
mod rig;
#[path = "exclusive_ensemble/settings.rs"]
mod settings;
mod stand_in;
#[path = "exclusive_ensemble/vectors.rs"]
mod vectors;
