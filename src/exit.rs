//! Exit codes. They are part of what other programs rely on; the README lists them for users.

/// Everything was done.
pub const DONE: u8 = 0;
/// The command line, the environment or the configuration file cannot be used.
pub const USAGE: u8 = 2;
/// Done, but some files or rows failed; each is reported.
pub const DONE_WITH_FAULTS: u8 = 3;
/// There is no input to embed.
pub const INPUT: u8 = 4;
/// The model cannot be found, read or run.
pub const MODEL: u8 = 5;
/// Devices are leased or used by somebody else, or were lost. May be retried as it is.
pub const LEASE: u8 = 6;
/// The model is too large for every device and for the processor, or has not one vector for want of memory.
pub const MEMORY: u8 = 7;
/// The output of an earlier run does not match this one.
pub const RESUME_MISMATCH: u8 = 8;
/// The output cannot be written, or another run is writing it. May be retried as it is.
pub const OUTPUT: u8 = 9;
/// A fault of this program.
pub const INTERNAL: u8 = 70;
/// Stopped by SIGINT after a clean commit. May be retried as it is.
pub const INTERRUPTED: u8 = 130;
/// Stopped by SIGTERM, SIGHUP or the time limit after a clean commit. May be retried as it is.
pub const TERMINATED: u8 = 143;
