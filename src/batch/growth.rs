//! Whether larger batches are faster.
//!
//! A device computes more tokens in a second the more of them it has at once, up to where it is busy. Batches double as
//! long as that pays; rates are compared among batches of about one length, since long sequences cost more a token.

/// Octaves of lengths, in which rates are compared.
const OCTAVES: usize = 24;

/// Full batches before a verdict: one may have met a hiccup.
const PATIENCE: u32 = 3;

/// Full batches before the last verdict, that there is nothing more to gain: it is for good.
const CERTAINTY: u32 = 8;

/// Full batches after which the limit is tried upwards although none of them has its like before: the lengths that were
/// measured do not fill batches any more.
const IMPATIENCE: u32 = 12;

/// Part of the limit from which on a batch is full: others say nothing about the limit.
const FULL: f64 = 0.75;

/// What doubling must bring. With a rate that nears its end as t / (t + h), batches end between 19 and 38 times h, where
/// a device does 95 to 97 % of what it can.
const GAIN: f64 = 1.05;

/// A loss that is no noise: half the size is as fast, and takes less memory.
const LOSS: f64 = 0.97;

/// Least weight of the latest rate in a smoothed one, which else is their mean.
const LATEST: f64 = 0.1;

/// What rates say about the limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// Try twice as much.
    Grow {
        /// What the last doubling brought; `None` before the first.
        gain: Option<f64>,
    },
    /// Go back to what was before.
    Back {
        /// The limit before.
        tokens: usize,
        /// What doubling brought.
        gain: f64,
    },
}

/// The rates at the present limit and at the one before.
#[derive(Debug, Clone)]
pub(super) struct Growth {
    /// Nothing more to find out.
    settled: bool,
    now: [Rate; OCTAVES],
    before: Option<(usize, [Rate; OCTAVES])>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    tokens_per_second: f64,
    batches: u32,
}

impl Growth {
    /// `allowed`: whether batches may grow at all.
    pub(super) fn new(allowed: bool) -> Self {
        Self { settled: !allowed, now: [Rate::default(); OCTAVES], before: None }
    }

    /// The limit is another one for other reasons: what was measured is of no use.
    pub(super) fn forget(&mut self) {
        (self.now, self.before) = ([Rate::default(); OCTAVES], None);
    }

    /// Takes note of a batch under a limit.
    pub(super) fn passed(&mut self, tokens: usize, longest: usize, seconds: f64, limit: usize) -> Option<Verdict> {
        if self.settled || seconds <= 0.0 || (tokens as f64) < FULL * limit as f64 {
            return None;
        }
        let rate = &mut self.now[(longest.max(1).ilog2() as usize).min(OCTAVES - 1)];
        let latest = tokens as f64 / seconds;
        rate.batches += 1;
        let weight = (1.0 / f64::from(rate.batches)).max(LATEST);
        rate.tokens_per_second += weight * (latest - rate.tokens_per_second);
        let Some((limit_before, before)) = &self.before else {
            let batches: u32 = self.now.iter().map(|rate| rate.batches).sum();
            return (batches >= PATIENCE).then(|| self.grow(limit, None));
        };
        let comparable = || self.now.iter().zip(before).filter(|(now, before)| now.batches > 0 && before.batches > 0);
        let batches: u32 = comparable().map(|(now, _)| now.batches).sum();
        if batches < PATIENCE {
            let all: u32 = self.now.iter().map(|rate| rate.batches).sum();
            return (all >= IMPATIENCE).then(|| self.grow(limit, None));
        }
        let gains = comparable()
            .map(|(now, before)| f64::from(now.batches) * (now.tokens_per_second / before.tokens_per_second).ln());
        let gain = (gains.sum::<f64>() / f64::from(batches)).exp();
        if gain >= GAIN {
            return Some(self.grow(limit, Some(gain)));
        }
        if batches < CERTAINTY {
            return None;
        }
        self.settled = true;
        (gain < LOSS).then_some(Verdict::Back { tokens: *limit_before, gain })
    }

    fn grow(&mut self, limit: usize, gain: Option<f64>) -> Verdict {
        self.before = Some((limit, std::mem::replace(&mut self.now, [Rate::default(); OCTAVES])));
        Verdict::Grow { gain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds full batches to a limit that follows the verdicts, on a device with this rate; the limits that it takes.
    fn limits(rate: impl Fn(usize) -> f64) -> Vec<usize> {
        let (mut growth, mut limit) = (Growth::new(true), 1000);
        let mut limits = vec![limit];
        for batch in 0..200 {
            let tokens = limit - batch % 100;
            match growth.passed(tokens, 100, tokens as f64 / rate(tokens), limit) {
                Some(Verdict::Grow { .. }) => limit *= 2,
                Some(Verdict::Back { tokens, .. }) => limit = tokens,
                None => continue,
            }
            limits.push(limit);
        }
        limits
    }

    #[test]
    fn batches_double_until_that_brings_little() {
        let saturating = |half: f64| move |tokens: usize| tokens as f64 / (tokens as f64 + half);
        assert_eq!(limits(saturating(10.0)), [1000, 2000], "the first doubling is a try");
        assert_eq!(limits(saturating(1000.0)).last(), Some(&32_000));
        assert_eq!(limits(|tokens| 1e6 / tokens as f64), [1000, 2000, 1000], "back where it was faster");
    }

    #[test]
    fn batches_that_are_not_full_and_other_lengths_say_nothing() {
        let mut growth = Growth::new(true);
        assert!((0..50).all(|_| growth.passed(700, 100, 1.0, 1000).is_none()));
        for _ in 0..2 {
            assert_eq!(growth.passed(1000, 100, 1.0, 1000), None);
        }
        assert_eq!(growth.passed(1000, 100, 1.0, 1000), Some(Verdict::Grow { gain: None }));
        assert!((0..11).all(|_| growth.passed(2000, 1000, 9.0, 2000).is_none()), "a longer length is not compared");
        assert_eq!(growth.passed(2000, 1000, 9.0, 2000), Some(Verdict::Grow { gain: None }), "but tried");
        assert!((0..CERTAINTY - 1).all(|_| growth.passed(4000, 1000, 18.0, 4000).is_none()));
        assert!(growth.passed(4000, 1000, 18.0, 4000).is_none() && growth.settled, "no faster");
        assert!(Growth::new(false).settled);
    }
}
