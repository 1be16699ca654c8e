//! Planning: which models are on the devices at the same time, and whether they fit. Pure: sizes, memory and settings
//! are arguments.

mod budget;
mod schedule;

pub use budget::{Fit, MEMORY_PART, Room, Rules, Wish, fit, soft_limit};
pub use schedule::{Turn, turns};
