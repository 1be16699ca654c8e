//! How large the batches of a model are on a device while a pass runs. A pure state machine: it is told how batches
//! went and what the device's memory looks like, and says what holds for the next batch.
//!
//! Three bounds are kept apart, and the least of them holds: what was asked for or reached by growing; what the
//! [`MemoryModel`] has room for, by tokens and length; and what stays below a size that failed. Under pressure a part of
//! that is left. Each model of a run begins with controllers of its own: what one model met says nothing about the next.

use super::growth::{Growth, Verdict};
use super::refusal::Refusal;
use super::{BatchLimits, Costs, Evidence, MemoryModel, Occupancy};

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

/// A batch, or a part of one, that went through the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finished {
    /// Its tokens.
    pub tokens: usize,
    /// Its longest sequence.
    pub longest: usize,
    /// Time in the encoder.
    pub seconds: f64,
    /// The most that this process held on the device meanwhile, where the device counts it.
    pub peak_bytes: Option<u64>,
}

/// What changed, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// What holds from now on.
    pub limits: BatchLimits,
    /// By how much more tokens were encoded in a second than with batches of half the size; `None` at the first step.
    pub gain: Option<f64>,
}

/// How a controller begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first batches.
    pub start: BatchLimits,
    /// Never more tokens than that; those of `start` where batches are not to grow.
    pub most_tokens: usize,
}

/// Batches that must go well after pressure is gone before they double again.
const CALM: u32 = 16;

/// What pressure leaves at least.
const LEAST_SHARE: f64 = 1.0 / 1024.0;

/// What is compared where nothing is known of the device's memory: tokens.
const TOKENS: Costs = Costs { token_bytes: 1, pair_bytes: 0 };

/// Sizes batches.
#[derive(Debug, Clone)]
pub struct Controller {
    span: Span,
    /// Reached by growing.
    reached: BatchLimits,
    /// What pressure leaves of it, and of what there is room for.
    share: f64,
    pressure: Pressure,
    /// Batches since it changed, or since batches last grew after it was gone.
    calm: u32,
    /// Whether what is kept without need is to be freed before the next batch.
    free: bool,
    adaptive: bool,
    growth: Growth,
    refusal: Refusal,
    memory: Option<Memory>,
}

/// The device's memory and what is known of it.
#[derive(Debug, Clone)]
struct Memory {
    model: MemoryModel,
    room: Occupancy,
    /// The largest batch since the model was loaded: what a look at the device is to be explained by.
    largest: Option<(usize, usize)>,
    /// Whether looks are to be explained: not where the device counts its peaks, nor where another model may have taken
    /// what is seen.
    looks: bool,
}

impl Controller {
    /// Begins at the start of `span`, and stays there unless it is `adaptive`.
    pub fn new(span: Span, adaptive: bool) -> Self {
        let growth = Growth::new(adaptive && span.most_tokens > span.start.tokens);
        let (pressure, calm, free, refusal) = (Pressure::None, 0, false, Refusal::default());
        Self { span, reached: span.start, share: 1.0, pressure, calm, free, adaptive, growth, refusal, memory: None }
    }

    /// With a device whose memory is known. `alone`: whether no other model of this process computes there meanwhile.
    #[must_use]
    pub fn with_memory(self, model: MemoryModel, room: Occupancy, alone: bool) -> Self {
        let memory = Memory { model, room, largest: None, looks: alone };
        Self { memory: Some(memory), ..self }
    }

    /// What holds for the next batch, if its longest sequence has this length. A sequence alone may always be tried.
    pub fn limits(&self, longest: usize) -> BatchLimits {
        self.within(longest, self.refusal.most_tokens(self.costs(), longest))
    }

    /// What batches are cut to that are encoded later: [`Self::limits`] as they will be soon if nothing fails, for what
    /// holds at this moment would hold for all of them. The worker that takes one cuts it again if it must.
    pub fn limits_soon(&self, longest: usize) -> BatchLimits {
        self.within(longest, self.refusal.most_tokens_soon(self.costs(), longest))
    }

    /// Whether it is for want of memory that batches of this length are not larger.
    pub fn is_bound_by_memory(&self, longest: usize) -> bool {
        self.fitting_tokens(longest, self.refusal.most_tokens(self.costs(), longest)) < self.reached.tokens
    }

    fn within(&self, longest: usize, allowed: usize) -> BatchLimits {
        let tokens = self.reached.tokens.min(self.fitting_tokens(longest, allowed));
        BatchLimits { tokens: self.left_of(tokens), sequences: self.left_of(self.reached.sequences) }
    }

    /// Most tokens for which there is room, of those that are allowed.
    fn fitting_tokens(&self, longest: usize, allowed: usize) -> usize {
        match &self.memory {
            _ if !self.adaptive => usize::MAX,
            None => allowed,
            Some(Memory { model, room, .. }) => {
                model.tokens_within(room.room_bytes(), longest, allowed.min(self.span.most_tokens))
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a number")]
    fn left_of(&self, most: usize) -> usize {
        ((most as f64 * self.share).ceil() as usize).clamp(1, most.max(1))
    }

    /// What pressure leaves of the limits that do not depend on lengths.
    fn nominal(&self) -> BatchLimits {
        BatchLimits { tokens: self.left_of(self.reached.tokens), sequences: self.left_of(self.reached.sequences) }
    }

    fn costs(&self) -> Costs {
        self.memory.as_ref().map_or(TOKENS, |memory| memory.model.costs())
    }

    fn others_bytes(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.room.others_bytes())
    }

    /// What was learned of the model's memory.
    pub fn learned(&self) -> Option<&MemoryModel> {
        self.memory.as_ref().map(|memory| &memory.model)
    }

    /// Takes note of a change of pressure: a quarter less at a warning, half when it is critical, and twice as much
    /// again, up to what was reached, when there is room. Tells the new limits if they changed.
    pub fn feel(&mut self, pressure: Pressure) -> Option<Change> {
        if !self.adaptive {
            return None;
        }
        let before = self.nominal();
        self.share = match pressure {
            Pressure::None => (self.share * 2.0).min(1.0),
            Pressure::Warning => (self.share * 0.75).max(LEAST_SHARE),
            Pressure::Critical => (self.share / 2.0).max(LEAST_SHARE),
        };
        (self.pressure, self.calm) = (pressure, 0);
        self.free |= pressure != Pressure::None;
        self.growth.forget();
        let limits = self.nominal();
        (limits != before).then_some(Change { limits, gain: None })
    }

    /// Takes note of a look at the device.
    pub fn see(&mut self, total_bytes: u64, used_bytes: u64, own_bytes: Option<u64>) {
        let Some(memory) = &mut self.memory else { return };
        memory.room.see(total_bytes, used_bytes, own_bytes);
        if let (Some(own), Some((tokens, longest)), true) = (own_bytes, memory.largest, memory.looks) {
            let taken = memory.room.beside_the_model(own);
            memory.model.observe(tokens, longest, taken, Evidence::Sampled);
        }
    }

    /// The model is on the device and nothing else of it: what this process holds there now stays.
    pub fn loaded(&mut self, own_bytes: u64) {
        if let Some(memory) = &mut self.memory {
            memory.room.loaded(own_bytes);
        }
    }

    /// A batch is about to be encoded; tells whether what is kept without need is to be freed before.
    pub fn begin(&mut self, tokens: usize, longest: usize) -> bool {
        let free = std::mem::take(&mut self.free);
        let Some(memory) = &mut self.memory else { return free };
        let costs = memory.model.costs();
        if memory.largest.is_none_or(|(most, length)| costs.planned(tokens, longest) > costs.planned(most, length)) {
            memory.largest = Some((tokens, longest));
        }
        free
    }

    /// Takes note of a batch that went through; tells when batches grow, or shrink because larger ones are no faster.
    pub fn encoded(&mut self, batch: Finished) -> Option<Change> {
        let Finished { tokens, longest, seconds, peak_bytes } = batch;
        self.refusal.passed(self.costs().planned(tokens, longest), self.others_bytes());
        if let (Some(memory), Some(peak)) = (&mut self.memory, peak_bytes) {
            memory.looks = false;
            let taken = memory.room.beside_the_model(peak);
            memory.model.observe(tokens, longest, taken, Evidence::Exact);
        }
        if self.pressure != Pressure::None {
            return None;
        }
        if self.share < 1.0 {
            self.calm += 1;
            return if self.calm >= CALM { self.feel(Pressure::None) } else { None };
        }
        let reached = self.reached.tokens;
        let (tokens, gain) = match self.growth.passed(tokens, longest, seconds, reached)? {
            Verdict::Grow { gain } => (reached.saturating_mul(2).min(self.span.most_tokens), gain),
            Verdict::Back { tokens, gain } => (tokens.max(self.span.start.tokens), Some(gain)),
        };
        if tokens == reached {
            return None;
        }
        self.reached.tokens = tokens;
        Some(Change { limits: self.reached, gain })
    }

    /// Takes note of a batch for which memory did not suffice: half of it from now on, and nothing of its size for a
    /// long time.
    pub fn out_of_memory(&mut self, tokens: usize, longest: usize) -> BatchLimits {
        self.refusal.failed(self.costs().planned(tokens, longest), self.others_bytes());
        self.growth.forget();
        self.limits(longest)
    }
}

#[cfg(test)]
mod tests;
