//! Several models, each with all devices for itself: watched from outside, by the locks, the memory that the driver
//! tells of, the events and the vectors. GPUs are made up by a stand-in for the driver's library; a C compiler is needed.

mod devices;
mod faults;
mod processes;
mod rig;
mod settings;
mod vectors;
