//! Why models do not fit on a device, with the figures.

use std::fmt;

use serde::Serialize;

use super::budget::{DeviceMemory, Fit, MEMORY_PART};
use super::fitting::{Device, Need};
use crate::domain::Bytes;

/// Models that do not fit on a device together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The device.
    pub device: String,
    /// The models.
    pub models: Vec<String>,
    /// Longest text, in tokens.
    pub max_length: usize,
    /// What would be needed.
    #[serde(flatten)]
    pub terms: Terms,
    /// All memory of the device.
    #[serde(rename = "total_bytes")]
    pub total: Option<Bytes>,
    /// The part of it that may be planned with.
    #[serde(rename = "budget_bytes")]
    pub budget: Option<Bytes>,
    /// What to do.
    pub remedy: Remedy,
}

/// The terms of the sum that is over the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// Used already.
    #[serde(rename = "used_bytes")]
    pub used: Option<Bytes>,
    /// All weights.
    #[serde(rename = "weights_bytes")]
    pub weights: Bytes,
    /// Activations of the longest text.
    #[serde(rename = "activation_bytes")]
    pub activations: Bytes,
    /// Contexts, libraries, and the buffer that stays free.
    #[serde(rename = "overhead_bytes")]
    pub overhead: Bytes,
}

/// What helps against a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Load the models one after the other.
    TakeTurns,
    /// Free host memory or shorten the texts.
    FreeMemory,
    /// The same, or use another device.
    OtherDevice,
}

impl Refusal {
    /// `None` if all models fit.
    pub(super) fn new(needs: &[Need], device: &Device, fits: &[Fit]) -> Option<Self> {
        let (fit, need) = fits.iter().zip(needs).find(|(fit, _)| !fit.fits)?;
        let DeviceMemory { total, used, .. } = device.memory;
        Some(Self {
            device: device.label.clone(),
            models: needs.iter().map(|need| need.model.clone()).collect(),
            max_length: need.max_length,
            terms: Terms {
                used,
                weights: fit.weights,
                activations: need.footprints.cpu.activations(need.max_length, need.max_length),
                overhead: fit.overhead,
            },
            total,
            budget: fit.budget,
            remedy: match (needs.len(), device.label.as_str()) {
                (2.., _) => Remedy::TakeTurns,
                (_, "cpu") => Remedy::FreeMemory,
                _ => Remedy::OtherDevice,
            },
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |amount: Option<Bytes>| amount.map_or("unknown".to_owned(), |amount| amount.to_string());
        let Self { device, models, max_length, terms, total, budget, remedy } = self;
        let Terms { used, weights, activations, overhead } = terms;
        write!(
            formatter,
            "{} does not fit on {device}: {weights} of weights, {activations} for a text of {max_length} tokens and \
             {overhead} besides would come to {} that are used of {}, of which {} may be planned with ({:.0} % or a \
             lower limit); {remedy}",
            models.join(" with "),
            shown(*used),
            shown(*total),
            shown(*budget),
            MEMORY_PART * 100.0,
        )
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::TakeTurns => "let them take turns (--exclusive-ensemble)",
            Self::FreeMemory => "free memory, or give a shorter --max-length",
            Self::OtherDevice => "free memory on it, give a shorter --max-length, or another device (--devices)",
        })
    }
}

/// The refusals of several devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Refusals(pub Vec<Refusal>);

impl fmt::Display for Refusals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.0.iter().enumerate() {
            write!(formatter, "{}{refusal}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}
