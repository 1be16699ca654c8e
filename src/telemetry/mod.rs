//! How the program speaks of its work: events on one side, observers on the other.

pub mod event;
