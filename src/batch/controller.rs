//! How large the batches of a model are on a device while a pass runs. A pure state machine: it is told how batches
//! went and what the device's memory looks like, and says what holds for the next batch.
//!
//! Four bounds are kept apart, and the least of them holds: what was asked for or reached by growing; what is left under
//! pressure; what the [`MemoryModel`] has room for, by tokens and length; and what stays below a size that failed. Each
//! model of a run begins with controllers of its own: what one model met says nothing about the next.

use super::growth::{Growth, Verdict};
use super::refusal::Refusal;
use super::{BatchLimits, Evidence, MemoryModel, Occupancy};

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

/// Sizes batches.
#[derive(Debug, Clone)]
pub struct Controller {
    span: Span,
    /// Reached by growing.
    reached: BatchLimits,
    /// What is left of it under pressure.
    limits: BatchLimits,
    pressure: Pressure,
    /// Batches since it changed, or since batches last grew after it was gone.
    calm: u32,
    /// Whether what is kept without need is to be freed before the next batch.
    free: bool,
    adaptive: bool,
    growth: Growth,
    memory: Option<Memory>,
}

/// The device's memory and what is known of it.
#[derive(Debug, Clone)]
struct Memory {
    model: MemoryModel,
    room: Occupancy,
    refusal: Refusal,
    /// The largest batch since the model was loaded: what a look at the device is to be explained by.
    largest: Option<(usize, usize)>,
    /// Whether the device counts its peaks, so that looks are not needed.
    counted: bool,
}

impl Controller {
    /// Begins at the start of `span`, and stays there unless it is `adaptive`.
    pub fn new(span: Span, adaptive: bool) -> Self {
        let growth = Growth::new(adaptive && span.most_tokens > span.start.tokens);
        let Span { start, .. } = span;
        let (pressure, calm) = (Pressure::None, 0);
        Self { span, reached: start, limits: start, pressure, calm, free: false, adaptive, growth, memory: None }
    }

    /// With a device whose memory is known.
    #[must_use]
    pub fn with_memory(self, model: MemoryModel, room: Occupancy) -> Self {
        let memory = Memory { model, room, refusal: Refusal::default(), largest: None, counted: false };
        Self { memory: Some(memory), ..self }
    }

    /// What holds for the next batch, if its longest sequence has this length. A sequence alone may always be tried.
    pub fn limits(&self, longest: usize) -> BatchLimits {
        let mut tokens = self.limits.tokens;
        if let (true, Some(Memory { model, room, refusal, .. })) = (self.adaptive, &self.memory) {
            let most = tokens.min(refusal.most_tokens(model.costs(), longest));
            tokens = model.tokens_within(room.room_bytes(), longest, most);
        }
        BatchLimits { tokens: tokens.max(1), ..self.limits }
    }

    /// Whether it is for want of memory that batches of this length are not larger.
    pub fn is_bound_by_memory(&self, longest: usize) -> bool {
        self.limits(longest).tokens < self.limits.tokens
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
        let Self { reached, limits, .. } = *self;
        let scaled = |of: usize, reached: usize| match pressure {
            Pressure::None => of.saturating_mul(2).min(reached),
            Pressure::Warning => (of - of / 4).max(1),
            Pressure::Critical => (of / 2).max(1),
        };
        self.limits = BatchLimits {
            tokens: scaled(limits.tokens, reached.tokens),
            sequences: scaled(limits.sequences, reached.sequences),
        };
        (self.pressure, self.calm) = (pressure, 0);
        self.free |= pressure != Pressure::None;
        self.growth.forget();
        (self.limits != limits).then_some(Change { limits: self.limits, gain: None })
    }

    /// Takes note of a look at the device.
    pub fn see(&mut self, total_bytes: u64, used_bytes: u64, own_bytes: Option<u64>) {
        let Some(memory) = &mut self.memory else { return };
        memory.room.see(total_bytes, used_bytes, own_bytes);
        if let (Some(own), Some((tokens, longest)), false) = (own_bytes, memory.largest, memory.counted) {
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
        if let Some(memory) = &mut self.memory {
            memory.refusal.passed(memory.model.costs().planned(tokens, longest), memory.room.others_bytes());
            if let Some(peak) = peak_bytes {
                memory.counted = true;
                let taken = memory.room.beside_the_model(peak);
                memory.model.observe(tokens, longest, taken, Evidence::Exact);
            }
        }
        if self.pressure != Pressure::None {
            return None;
        }
        if self.limits != self.reached {
            self.calm += 1;
            return if self.calm >= CALM { self.feel(Pressure::None) } else { None };
        }
        let (tokens, gain) = match self.growth.passed(tokens, longest, seconds, self.limits.tokens)? {
            Verdict::Grow { gain } if self.limits.tokens < self.span.most_tokens => {
                (self.limits.tokens.saturating_mul(2).min(self.span.most_tokens), gain)
            }
            Verdict::Grow { .. } => return None,
            Verdict::Back { tokens, gain } => (tokens.max(self.span.start.tokens), Some(gain)),
        };
        if tokens == self.limits.tokens {
            return None;
        }
        self.limits.tokens = tokens;
        self.reached = self.limits;
        Some(Change { limits: self.limits, gain })
    }

    /// Takes note of a batch for which memory did not suffice: half of it from now on, and nothing of its size for a
    /// long time.
    pub fn out_of_memory(&mut self, tokens: usize, longest: usize) -> BatchLimits {
        match &mut self.memory {
            Some(Memory { model, room, refusal, .. }) if self.adaptive => {
                refusal.failed(model.costs().planned(tokens, longest), room.others_bytes());
            }
            None if self.adaptive => {
                self.limits.tokens = (tokens / 2).clamp(1, self.limits.tokens);
                self.reached = self.limits;
            }
            _ => {}
        }
        self.growth.forget();
        self.limits(longest)
    }
}

#[cfg(test)]
mod tests;
