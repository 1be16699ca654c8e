//! The controllers of a model, one for each device: what one device has no room for, another may have.

use super::{BatchLimits, Controller};

/// One controller a device, by the device's label.
#[derive(Debug, Clone)]
pub struct Controllers(Vec<(String, Controller)>);

impl Controllers {
    /// At least one device.
    pub fn new(devices: Vec<(String, Controller)>) -> Self {
        Self(devices)
    }

    /// The same controller for one device.
    pub fn one(device: &str, controller: Controller) -> Self {
        Self(vec![(device.to_owned(), controller)])
    }

    /// That of a device.
    pub fn of(&mut self, device: &str) -> Option<&mut Controller> {
        self.0.iter_mut().find(|(label, _)| label == device).map(|(_, controller)| controller)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Controller)> {
        self.0.iter().map(|(label, controller)| (label.as_str(), controller))
    }

    /// What batches are cut to before it is known which device takes them: what the device with most room takes at
    /// once. Another one takes it in parts.
    pub fn limits_soon(&self, longest: usize) -> BatchLimits {
        let of = |(_, controller): &(String, Controller)| controller.limits_soon(longest);
        let most = |one: BatchLimits, other: BatchLimits| BatchLimits {
            tokens: one.tokens.max(other.tokens),
            sequences: one.sequences.max(other.sequences),
        };
        self.0.iter().map(of).reduce(most).unwrap_or(BatchLimits { tokens: 1, sequences: 1 })
    }
}
