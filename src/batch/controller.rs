//! How large batches are while a pass runs. A pure state machine: it is told how short memory is, and says what holds.
//!
//! Each model of a run begins with a controller of its own, at the limits that its plan gives: what one model met says
//! nothing about the next.

use super::BatchLimits;

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is room.
    None,
    /// Over the first threshold.
    Warning,
    /// Over the second one: the next allocation may fail.
    Critical,
}

/// Sizes batches.
#[derive(Debug, Clone)]
pub struct Controller {
    hint: BatchLimits,
    limits: BatchLimits,
    adaptive: bool,
}

impl Controller {
    /// Begins at `hint`, and stays there unless it is `adaptive`.
    pub fn new(hint: BatchLimits, adaptive: bool) -> Self {
        Self { hint, limits: hint, adaptive }
    }

    /// What holds for the next batch.
    pub fn limits(&self) -> BatchLimits {
        self.limits
    }

    /// Takes note of a change of pressure: a quarter less at a warning, half when it is critical, and twice as much
    /// again, up to the hint, when there is room. Tells the new limits if they changed.
    pub fn feel(&mut self, pressure: Pressure) -> Option<BatchLimits> {
        if !self.adaptive {
            return None;
        }
        let Self { hint, limits, .. } = *self;
        let scaled = |of: usize, hint: usize| match pressure {
            Pressure::None => of.saturating_mul(2).min(hint),
            Pressure::Warning => (of - of / 4).max(1),
            Pressure::Critical => (of / 2).max(1),
        };
        self.limits = BatchLimits {
            tokens: scaled(limits.tokens, hint.tokens),
            sequences: scaled(limits.sequences, hint.sequences),
        };
        (self.limits != limits).then_some(self.limits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Pressure::{Critical, None as Relief, Warning};
    use super::*;

    const HINT: BatchLimits = BatchLimits { tokens: 1000, sequences: 64 };

    #[track_caller]
    fn check(pressures: &[Pressure], tokens: usize, sequences: usize) {
        let mut controller = Controller::new(HINT, true);
        for pressure in pressures {
            controller.feel(*pressure);
        }
        assert_eq!(controller.limits(), BatchLimits { tokens, sequences }, "{pressures:?}");
    }

    #[test]
    fn batches_shrink_under_pressure_and_recover() {
        check(&[], 1000, 64);
        check(&[Warning], 750, 48);
        check(&[Warning, Critical], 375, 24);
        check(&[Critical, Relief], 1000, 64);
        check(&[Warning, Critical, Relief], 750, 48);
        check(&[Relief], 1000, 64);
        assert_eq!(Controller::new(HINT, false).feel(Critical), None);
    }

    proptest! {
        #[test]
        fn limits_stay_between_one_and_the_hint(
            tokens in 1_usize..1_000_000,
            sequences in 1_usize..10_000,
            pressures in proptest::collection::vec(0_usize..3, 0..60),
        ) {
            let hint = BatchLimits { tokens, sequences };
            let mut controller = Controller::new(hint, true);
            for pressure in pressures {
                let before = controller.limits();
                let told = controller.feel([Relief, Warning, Critical][pressure]);
                let now = controller.limits();
                prop_assert_eq!(told.unwrap_or(before), now);
                prop_assert!((1..=tokens).contains(&now.tokens) && (1..=sequences).contains(&now.sequences));
                let in_direction = if pressure == 0 { now.tokens >= before.tokens } else { now.tokens <= before.tokens };
                prop_assert!(in_direction, "{:?} after {:?}", now, before);
            }
        }
    }
}
