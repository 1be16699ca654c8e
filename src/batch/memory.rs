//! What a batch takes of a device's memory: the sizes of the model, corrected by what batches were seen to take.
//!
//! The sizes say what grows with tokens and what grows with pairs of tokens, but not what libraries keep for themselves
//! or which intermediate results are alive at once. So each class of lengths has a factor: an upper bound of everything
//! that was seen there, which is 1 as long as nothing was. The estimate is monotone in tokens and in length, and never
//! below an observation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a model takes for each token, beside its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// Activations for each token of a batch.
    pub token_bytes: u64,
    /// Attention scores for each pair of tokens of a sequence.
    pub pair_bytes: u64,
}

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The device's own count of the highest, over one batch.
    Exact,
    /// A look now and then, which may have missed the highest: it can raise an estimate and not lower it.
    Sampled,
}

/// Classes of lengths: four from each power of two to the next, up to a million tokens.
const CLASSES: usize = 80;

/// What small batches may take beyond their activations before it counts as taken always: allocators give memory in
/// large pieces.
const SLACK_BYTES: u64 = 32 << 20;

/// Planned activations from which on a batch says something about the factor of its class. What a smaller one takes is
/// mostly the slack and the workspaces of libraries.
const TELLING_BYTES: u64 = 64 << 20;

/// What a factor is multiplied with for the part of a batch that is larger than every one seen.
const UNSEEN: f64 = 1.1;

/// What was learned; the model itself is in [`Costs`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryModel {
    costs: Costs,
    /// Taken by any batch, whatever its size.
    fixed_bytes: u64,
    /// By class of length, where something was seen.
    factors: BTreeMap<usize, Factor>,
}

/// What was seen of a class of lengths.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Factor {
    /// The greatest ratio of what was taken and what was planned.
    ratio: f64,
    /// The greatest plan that was tried.
    seen_bytes: u64,
    /// The longest length of the class.
    longest: usize,
}

/// The class of a length, and the longest one of the class. The last class has no end.
fn class_of(length: usize) -> (usize, usize) {
    let length = length.max(1);
    let octave = length.ilog2() as usize;
    let step = ((1_usize << octave) / 4).max(1);
    let longest = length.div_ceil(step).saturating_mul(step);
    let class = 4 * octave + (longest - (1 << octave)) / step;
    if class < CLASSES { (class, longest) } else { (CLASSES - 1, length) }
}

impl Costs {
    /// Activations of so many tokens in sequences that are no longer than `length`, by the sizes alone.
    pub fn planned(&self, tokens: usize, length: usize) -> u64 {
        let (tokens, length) = (tokens as u64, length as u64);
        tokens.saturating_mul(self.token_bytes.saturating_add(length.saturating_mul(self.pair_bytes)))
    }
}

impl MemoryModel {
    /// A model of which nothing was seen yet.
    pub fn new(costs: Costs) -> Self {
        Self { costs, fixed_bytes: SLACK_BYTES, factors: BTreeMap::new() }
    }

    /// The sizes.
    pub fn costs(&self) -> Costs {
        self.costs
    }

    /// Whether what was stored can be used: the same sizes, sensible figures.
    pub fn is_sound_for(&self, costs: Costs) -> bool {
        let is_sound = |(class, factor): (&usize, &Factor)| {
            factor.ratio.is_finite()
                && (0.0..1e6).contains(&factor.ratio)
                && class_of(factor.longest).0 == *class
                && factor.longest < 1 << 40
        };
        self.costs == costs && (SLACK_BYTES..1 << 40).contains(&self.fixed_bytes) && self.factors.iter().all(is_sound)
    }

    /// Most bytes that a batch takes beside the weights.
    pub fn predict(&self, tokens: usize, length: usize) -> u64 {
        let (class, length) = class_of(length);
        // What shorter sequences took, longer ones take as well.
        let below = self.factors.range(..class).map(|(_, factor)| self.of_class(factor, tokens, factor.longest));
        let below = below.fold(0.0, f64::max);
        let estimate = if let Some(factor) = self.factors.get(&class) {
            self.of_class(factor, tokens, length.max(factor.longest)).max(below)
        } else {
            let unknown = Factor { ratio: self.greatest_ratio(), seen_bytes: 0, longest: length };
            let own = self.of_class(&unknown, tokens, length).max(below);
            // And what longer ones take is enough for shorter ones.
            match self.factors.range(class..).next() {
                Some((_, factor)) => own.min(self.of_class(factor, tokens, factor.longest).max(below)),
                None => own,
            }
        };
        bytes(estimate).saturating_add(self.fixed_bytes)
    }

    /// Most tokens of sequences of this length for which there is room; 0 if there is none for a single one.
    pub fn tokens_within(&self, room_bytes: u64, length: usize, most: usize) -> usize {
        if self.predict(most, length) <= room_bytes {
            return most;
        }
        let (mut fits, mut does_not) = (0, most);
        while fits + 1 < does_not {
            let middle = fits + (does_not - fits) / 2;
            if self.predict(middle, length) <= room_bytes {
                fits = middle;
            } else {
                does_not = middle;
            }
        }
        fits
    }

    /// Takes note of what a batch took; tells whether the estimate changed.
    pub fn observe(&mut self, tokens: usize, length: usize, taken_bytes: u64, evidence: Evidence) -> bool {
        let predicted = self.predict(tokens, length);
        if evidence == Evidence::Sampled && taken_bytes <= predicted {
            return false;
        }
        let planned = self.costs.planned(tokens, length);
        let before = self.clone();
        if planned < TELLING_BYTES {
            self.fixed_bytes = self.fixed_bytes.max(taken_bytes);
        } else {
            let ratio = taken_bytes.saturating_sub(SLACK_BYTES) as f64 / planned as f64;
            let (class, longest) = class_of(length);
            let factor = self.factors.entry(class).or_insert(Factor { ratio, seen_bytes: planned, longest });
            factor.ratio = factor.ratio.max(ratio);
            factor.seen_bytes = factor.seen_bytes.max(planned);
            factor.longest = factor.longest.max(longest);
        }
        *self != before
    }

    fn greatest_ratio(&self) -> f64 {
        self.factors.values().map(|factor| factor.ratio).fold(1.0, f64::max)
    }

    fn of_class(&self, Factor { ratio, seen_bytes, .. }: &Factor, tokens: usize, length: usize) -> f64 {
        let planned = self.costs.planned(tokens, length);
        let unseen = planned.saturating_sub(*seen_bytes);
        // One part in a million covers what is lost in floating point.
        ratio * (1.0 + 1e-6) * (planned as f64 + (UNSEEN - 1.0) * unseen as f64)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes; the cast saturates")]
fn bytes(estimate: f64) -> u64 {
    estimate.ceil() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    /// As of a model of a hundred million parameters in f16.
    const COSTS: Costs = Costs { token_bytes: 30_000, pair_bytes: 100 };

    #[test]
    fn sizes_are_believed_until_something_is_seen() {
        let mut model = MemoryModel::new(COSTS);
        let planned = COSTS.planned(10_000, 100);
        assert_eq!(planned, 10_000 * 40_000);
        let unseen = model.predict(10_000, 100);
        assert!((planned + SLACK_BYTES..planned * 12 / 10 + SLACK_BYTES).contains(&unseen), "{unseen}");
        assert!(!model.observe(10_000, 100, planned / 2, Evidence::Sampled), "a look may have missed the highest");
        assert!(model.observe(10_000, 100, planned / 2, Evidence::Exact));
        let seen = model.predict(10_000, 100);
        assert!((planned / 2..=planned / 2 + 8 * MIB).contains(&seen), "{seen}");
        assert!(model.observe(10_000, 100, planned * 2, Evidence::Sampled), "a look can show that it is more");
        assert!(model.predict(10_000, 100) >= planned * 2);
    }

    #[test]
    fn a_workspace_is_not_multiplied() {
        let mut model = MemoryModel::new(COSTS);
        let before = model.predict(100_000, 100);
        // Ten tokens, and 300 MiB of a library's own.
        model.observe(10, 10, 300 * MIB, Evidence::Exact);
        assert!(model.predict(100_000, 100) - before <= 300 * MIB);
    }

    #[test]
    fn attention_that_keeps_no_scores_is_learned_for_each_length() {
        let mut model = MemoryModel::new(Costs { token_bytes: 30_000, pair_bytes: 1000 });
        let taken = |tokens: u64| tokens * 30_000;
        model.observe(40_000, 4000, taken(40_000), Evidence::Exact);
        assert!(model.predict(40_000, 4000) < taken(40_000) * 11 / 10 + 64 * MIB, "not 133 times as much");
        assert!(model.predict(40_000, 40) >= taken(40_000), "and nothing is concluded for short ones");
    }

    #[test]
    fn what_is_stored_must_be_sound() {
        let mut model = MemoryModel::new(COSTS);
        model.observe(100_000, 100, 1 << 33, Evidence::Exact);
        let text = serde_json::to_string(&model).unwrap();
        let read: MemoryModel = serde_json::from_str(&text).unwrap();
        assert_eq!(read, model);
        assert!(read.is_sound_for(COSTS) && !read.is_sound_for(Costs { token_bytes: 1, pair_bytes: 1 }));
        assert!(!MemoryModel { fixed_bytes: 0, ..model.clone() }.is_sound_for(COSTS));
        let wrong = Factor { ratio: f64::NAN, seen_bytes: 1, longest: 1 };
        assert!(!MemoryModel { factors: [(0, wrong)].into(), ..model }.is_sound_for(COSTS));
    }

    fn observations() -> impl Strategy<Value = Vec<(usize, usize, u64, bool)>> {
        prop::collection::vec((1_usize..200_000, 1_usize..40_000, 0_u64..1 << 38, any::<bool>()), 0..30)
    }

    fn learned(observations: &[(usize, usize, u64, bool)], costs: Costs) -> MemoryModel {
        let mut model = MemoryModel::new(costs);
        for &(tokens, length, taken, exact) in observations {
            let evidence = if exact { Evidence::Exact } else { Evidence::Sampled };
            model.observe(tokens, length, taken, evidence);
        }
        model
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn more_tokens_longer_ones_and_larger_sizes_never_take_less(
            seen in observations(),
            tokens in 1_usize..300_000, more_tokens in 0_usize..300_000,
            length in 1_usize..60_000, longer in 0_usize..60_000,
            token_bytes in 0_u64..1_000_000, pair_bytes in 0_u64..1000,
        ) {
            let costs = Costs { token_bytes, pair_bytes };
            let model = learned(&seen, costs);
            let found = model.predict(tokens, length);
            prop_assert!(model.predict(tokens + more_tokens, length) >= found, "tokens");
            prop_assert!(model.predict(tokens, length + longer) >= found, "length");
            let fresh = |costs| MemoryModel::new(costs).predict(tokens, length);
            prop_assert!(fresh(Costs { token_bytes: token_bytes + 1000, ..costs }) >= fresh(costs), "bytes of a token");
            prop_assert!(fresh(Costs { pair_bytes: pair_bytes + 10, ..costs }) >= fresh(costs), "bytes of a pair");
        }

        #[test]
        fn no_estimate_is_below_what_was_seen(seen in observations()) {
            let model = learned(&seen, COSTS);
            for (tokens, length, taken, exact) in seen {
                prop_assert!(!exact || model.predict(tokens, length) >= taken, "{tokens} of {length}: {taken}");
            }
        }

        #[test]
        fn no_estimate_is_below_what_a_look_has_shown(seen in observations()) {
            let mut model = MemoryModel::new(COSTS);
            for (tokens, length, taken, exact) in seen {
                let evidence = if exact { Evidence::Exact } else { Evidence::Sampled };
                model.observe(tokens, length, taken, evidence);
                prop_assert!(model.predict(tokens, length) >= taken);
            }
        }

        #[test]
        fn tokens_within_are_the_most_that_fit(
            seen in observations(), room in 0_u64..1 << 38, length in 1_usize..60_000, most in 1_usize..1_000_000,
        ) {
            let model = learned(&seen, COSTS);
            let tokens = model.tokens_within(room, length, most);
            prop_assert!(tokens <= most);
            prop_assert!(tokens == 0 || model.predict(tokens, length) <= room);
            prop_assert!(tokens == most || model.predict(tokens + 1, length) > room);
        }
    }
}
