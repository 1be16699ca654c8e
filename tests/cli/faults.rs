//! Things are broken on purpose, through the program as it is built: every fault has one clear error and its exit code,
//! loses nothing that was committed, and the same command without the fault ends with the files of an undisturbed run.
//!
//! Most faults come from a library that stands between the program and the C library (`faults/shim.c`), so that they
//! need no rights and strike where they are wanted.

mod bounds;
mod disk;
mod hostile;
mod input;
mod models;
mod process;
mod rig;
