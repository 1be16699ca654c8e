//! When memory runs short: levels, and the moments at which a device goes from one to another.

use std::collections::BTreeMap;

use serde::Serialize;

use super::DeviceUuid;

/// How full a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// There is room.
    Normal,
    /// Shrink.
    Warning,
    /// The next allocation may fail.
    Critical,
}

impl Level {
    /// In lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Where levels begin, as parts of the memory that are taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    warning: f64,
    critical: f64,
}

/// Thresholds that make no sense.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("thresholds {warning} and {critical} cannot be used; both lie above 0 and at most at 1, the warning first")]
pub struct ThresholdError {
    /// Where warnings would begin.
    pub warning: f64,
    /// Where it would be critical.
    pub critical: f64,
}

impl Default for Thresholds {
    /// 85 % and 95 %.
    fn default() -> Self {
        Self { warning: 0.85, critical: 0.95 }
    }
}

impl Thresholds {
    /// Thresholds of one's own.
    ///
    /// # Errors
    /// [`ThresholdError`] unless 0 < warning ≤ critical ≤ 1.
    pub fn new(warning: f64, critical: f64) -> Result<Self, ThresholdError> {
        if warning > 0.0 && warning <= critical && critical <= 1.0 {
            Ok(Self { warning, critical })
        } else {
            Err(ThresholdError { warning, critical })
        }
    }

    /// The level of a device of which this part is taken.
    pub fn level(self, utilisation: f64) -> Level {
        if utilisation >= self.critical {
            Level::Critical
        } else if utilisation >= self.warning {
            Level::Warning
        } else {
            Level::Normal
        }
    }
}

/// A device went from one level to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Crossing {
    /// The device.
    pub uuid: DeviceUuid,
    /// Where it was.
    pub from: Level,
    /// Where it is.
    pub to: Level,
    /// The part of its memory that is taken.
    pub utilisation: f64,
}

/// Tells the moments at which levels change, not how long they last.
#[derive(Debug, Clone, Default)]
pub struct LevelWatch {
    thresholds: Thresholds,
    levels: BTreeMap<DeviceUuid, Level>,
}

impl LevelWatch {
    /// Watches for these; a device counts as normal until it is seen.
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, levels: BTreeMap::new() }
    }

    /// Takes note of a device; what is unknown changes nothing.
    pub fn update(&mut self, uuid: &DeviceUuid, utilisation: Option<f64>) -> Option<Crossing> {
        let utilisation = utilisation?;
        let to = self.thresholds.level(utilisation);
        let from = self.levels.insert(uuid.clone(), to).unwrap_or(Level::Normal);
        (from != to).then(|| Crossing { uuid: uuid.clone(), from, to, utilisation })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Level::{Critical, Normal, Warning};
    use super::*;

    #[track_caller]
    fn check(utilisations: &[Option<f64>], expected: &[(Level, Level)]) {
        let mut watch = LevelWatch::default();
        let uuid = DeviceUuid("GPU-1".to_owned());
        let crossings: Vec<(Level, Level)> = utilisations
            .iter()
            .filter_map(|utilisation| watch.update(&uuid, *utilisation))
            .map(|crossing| (crossing.from, crossing.to))
            .collect();
        assert_eq!(crossings, expected, "{utilisations:?}");
    }

    #[test]
    fn only_changes_of_level_are_told() {
        check(&[Some(0.1), Some(0.5), Some(0.849)], &[]);
        check(&[Some(0.85), Some(0.9), Some(0.949)], &[(Normal, Warning)]);
        check(&[Some(0.99), Some(0.99), Some(0.2)], &[(Normal, Critical), (Critical, Normal)]);
        check(&[Some(0.9), Some(0.95), Some(0.9)], &[(Normal, Warning), (Warning, Critical), (Critical, Warning)]);
        check(&[Some(0.9), None, Some(0.9)], &[(Normal, Warning)]);
    }

    #[test]
    fn devices_are_watched_apart() {
        let mut watch = LevelWatch::default();
        let [one, other] = ["GPU-1", "GPU-2"].map(|uuid| DeviceUuid(uuid.to_owned()));
        assert!(watch.update(&one, Some(0.9)).is_some());
        assert!(watch.update(&other, Some(0.9)).is_some());
        assert!(watch.update(&one, Some(0.9)).is_none());
    }

    #[test]
    fn thresholds_out_of_order_or_range_are_an_error() {
        assert_eq!(Thresholds::new(0.5, 0.6).unwrap().level(0.55), Warning);
        for (warning, critical) in [(0.0, 0.5), (0.6, 0.5), (0.5, 1.1), (f64::NAN, 0.5), (0.5, f64::NAN)] {
            assert!(Thresholds::new(warning, critical).is_err(), "{warning} {critical}");
        }
    }

    proptest! {
        #[test]
        fn crossings_lead_from_where_the_last_one_led(utilisations in prop::collection::vec(0.0..1.0_f64, 0..60)) {
            let mut watch = LevelWatch::default();
            let mut level = Normal;
            for utilisation in utilisations {
                if let Some(crossing) = watch.update(&DeviceUuid("GPU-1".to_owned()), Some(utilisation)) {
                    prop_assert_eq!(crossing.from, level);
                    prop_assert_ne!(crossing.from, crossing.to);
                    level = crossing.to;
                }
                prop_assert_eq!(level, Thresholds::default().level(utilisation));
            }
        }
    }
}
