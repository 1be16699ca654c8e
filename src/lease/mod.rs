//! Leases: the right of one run to use devices alone, agreed on between all processes of a machine.
//!
//! Two runs on one GPU end in out-of-memory errors and half the speed, so each device has a lock file, and
//! who locks it has the device. Truth is the operating system's advisory lock (`flock`) on an open descriptor: it is
//! gone when its holder is, however that one ended. What is written in the file is for people, see [`Holder`].
//!
//! Two kinds of program are not kept out by a lock: those that never ask, which the driver of the GPUs shows
//! ([`look`]), and those that the holder runs itself, which work under its lease one at a time ([`Inherited`]).
//!
//! A [`Lease`] holds all of its devices or none, and gives them back when it is dropped, on every path. Whatever is
//! made on a device borrows a [`LeasedDevice`] and so cannot outlive the lease:
//!
//! ```
//! use embed_collections::lease::{Lease, LeasedDevice};
//!
//! struct Encoder<'lease>(LeasedDevice<'lease>);
//!
//! fn encode_and_release(lease: Lease) {
//!     let encoder = lease.devices().next().map(Encoder);
//!     assert!(encoder.is_none_or(|encoder| encoder.0.epoch() > 0));
//!     drop(lease);
//! }
//! ```
//!
//! The same with the two last lines exchanged does not compile:
//!
//! ```compile_fail,E0505
//! use embed_collections::lease::{Lease, LeasedDevice};
//!
//! struct Encoder<'lease>(LeasedDevice<'lease>);
//!
//! fn release_and_encode(lease: Lease) {
//!     let encoder = lease.devices().next().map(Encoder);
//!     drop(lease);
//!     assert!(encoder.is_none_or(|encoder| encoder.0.epoch() > 0));
//! }
//! ```

mod acquire;
mod backoff;
mod directory;
mod error;
mod foreign;
mod held;
mod holder;
mod inherited;
mod key;
mod level;
mod names;
mod policy;
mod process;
mod survey;

pub use acquire::{Manager, Request};
pub use directory::{Candidates, DirectoryError, FileError, LeaseDirectory, Reach, SHARED_DIRECTORY};
pub use error::{Busy, LeaseError, Obstacle};
pub use foreign::{ForeignUse, LeaseNote, Occupied, look};
pub use held::{Lease, LeasedDevice};
pub use holder::{Holder, Requester, plain};
pub use inherited::{INHERITED_VARIABLE, Inherited};
pub use key::{DeviceKey, DeviceKeyError};
pub use names::{DeviceNameError, keys_of, resolve};
pub use policy::{DEFAULT_WAIT, Policy, PolicyError};
pub use survey::{DeviceState, State, survey};
