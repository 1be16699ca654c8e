//! Planning: which models share the devices, on which devices they fit, and why not. Pure: sizes, memory and settings
//! are arguments, and the results are data.

mod budget;
mod fitting;
mod groups;
mod refusal;

pub use budget::{DeviceMemory, Fit, FitRequest, MEMORY_PART, MemoryKind, Rules, fit, soft_limit};
pub use fitting::{Device, Fitting, Footprints, Need, Placement, Site, all_fit, estimate, fit_models};
pub use groups::{Group, Order, Plan, plan};
pub use refusal::{Refusal, Refusals, Remedy, Terms};
