//! Made-up devices for the real controller and the real recovery: how large batches become, how often memory runs out,
//! and whether anything is lost by it.
//!
//! A made-up device has memory, of which a context, the weights, other programs and a pool take their parts; the pool
//! keeps what the largest batch took until it is freed, and wastes the more of it the longer it is not. It computes
//! t / (t + h) of what it can with t tokens at once.

use super::{BatchLimits, Controller, Costs, Finished, MemoryModel, Occupancy, Pressure, Recovery, Span, Step, plan};

const GIB: f64 = (1_u64 << 30) as f64;
const CONTEXT_BYTES: f64 = 0.4 * GIB;
/// What is planned for it, as for real devices.
const PLANNED_CONTEXT_BYTES: f64 = 0.5 * GIB;
/// More than by default, so that it is not the shards that bound batches everywhere.
const SHARD_ROWS: usize = 4096;
/// Tokens a second of a device that is busy; only ratios matter.
const RATE: f64 = 100_000.0;

/// A model, by its sizes in f16.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model {
    pub(super) name: &'static str,
    weights: f64,
    costs: Costs,
    /// Tokens with which a device computes half of what it can.
    half: f64,
}

const MODELS: [Model; 3] = [
    // 12 layers of width 768 with 12 heads.
    Model { name: "0.1 B", weights: 0.2e9, costs: Costs { token_bytes: 23_040, pair_bytes: 96 }, half: 8000.0 },
    // 28 layers of width 1024 with 16 heads of 128.
    Model { name: "0.6 B", weights: 1.2e9, costs: Costs { token_bytes: 40_960, pair_bytes: 128 }, half: 4000.0 },
    // 28 layers of width 1536 with 12 heads of 128 and wide feed-forward layers.
    Model { name: "1.5 B", weights: 3.1e9, costs: Costs { token_bytes: 75_264, pair_bytes: 96 }, half: 2000.0 },
];

/// Memory of devices, in GiB.
const DEVICES: [f64; 7] = [4.0, 8.0, 12.0, 16.0, 24.0, 80.0, 141.0];
/// Of one run.
const SHARDS: usize = 60;

/// What goes otherwise than planned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble {
    pub(super) name: &'static str,
    /// What batches take, as a part of what is planned.
    error: f64,
    /// Most that a pool wastes.
    waste: f64,
    /// Most that another program takes of the device, in the middle third of the run.
    pub(super) neighbour: f64,
    /// Part of the batches that fail at the first try for no lasting reason.
    pub(super) transient: f64,
    /// Whether the device counts its peaks.
    counted: bool,
}

const NO_TROUBLE: Trouble =
    Trouble { name: "none", error: 1.0, waste: 0.0, neighbour: 0.0, transient: 0.0, counted: true };

pub(super) const TROUBLES: [Trouble; 7] = [
    NO_TROUBLE,
    Trouble { name: "batches take half of the plan", error: 0.5, ..NO_TROUBLE },
    Trouble { name: "batches take twice the plan", error: 2.0, ..NO_TROUBLE },
    Trouble { name: "memory in pieces, 20 %", waste: 0.2, ..NO_TROUBLE },
    Trouble { name: "a neighbour takes 40 %", neighbour: 0.4, ..NO_TROUBLE },
    Trouble { name: "2 % of batches fail once", transient: 0.02, ..NO_TROUBLE },
    Trouble { name: "twice the plan, pieces, peaks not counted", error: 2.0, waste: 0.2, counted: false, ..NO_TROUBLE },
];

struct Device {
    total: f64,
    model: Model,
    trouble: Trouble,
    others: f64,
    pool: f64,
    batches_since_freed: u32,
    random: u64,
}

/// What became of a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) batches: usize,
    pub(super) out_of_memory: usize,
    pub(super) failed_rows: usize,
    pub(super) ended_rows: usize,
    pub(super) all_rows: usize,
    /// Of the last quarter, batches that were as large as allowed.
    pub(super) full: Vec<Full>,
    /// Limits for sequences of 512 tokens in the last quarter.
    pub(super) limits: Vec<usize>,
    /// Before each batch, the limit for sequences of 512 tokens.
    trajectory: Vec<usize>,
}

/// A batch that was as large as allowed.
#[derive(Debug)]
pub(super) struct Full {
    tokens: f64,
    /// Part of the budget.
    pub(super) used: f64,
    /// Whether memory, and not the rate, is what bounds it.
    by_memory: bool,
}

impl Outcome {
    /// Whether memory bounds most of the full batches; nothing where shards have too few texts to fill one.
    pub(super) fn is_bound_by_memory(&self) -> Option<bool> {
        let by_memory = self.full.iter().filter(|full| full.by_memory).count();
        (!self.full.is_empty()).then_some(by_memory * 2 > self.full.len())
    }

    /// Tokens and part of the budget of the batches that are bound by the same.
    pub(super) fn mean(&self) -> (f64, f64) {
        let of: Vec<&Full> =
            self.full.iter().filter(|full| Some(full.by_memory) == self.is_bound_by_memory()).collect();
        let mean = |value: fn(&Full) -> f64| of.iter().map(|full| value(full)).sum::<f64>() / of.len().max(1) as f64;
        (mean(|full| full.tokens), mean(|full| full.used))
    }

    /// Batches until the limit first came as near as a quarter to what it is in the end.
    pub(super) fn batches_to_converge(&self) -> usize {
        let last: Vec<usize> = self.trajectory[self.trajectory.len() * 3 / 4..].to_vec();
        let mean = last.iter().sum::<usize>() / last.len();
        self.trajectory.iter().position(|tokens| *tokens >= mean * 3 / 4).unwrap_or(self.trajectory.len())
    }
}

impl Device {
    /// Between 0 and 1, the same in every run (xorshift).
    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn own(&self) -> f64 {
        CONTEXT_BYTES + self.model.weights + self.pool
    }

    /// Seconds and the peak, or nothing where memory does not suffice.
    fn encode(&mut self, tokens: usize, longest: usize) -> Option<(f64, f64)> {
        let lasting = f64::from(self.batches_since_freed.min(50)) / 50.0;
        let needed = self.model.costs.planned(tokens, longest) as f64 * self.trouble.error;
        let needed = needed * (1.0 + self.trouble.waste * lasting);
        self.batches_since_freed += 1;
        let peak = CONTEXT_BYTES + self.model.weights + needed;
        if peak.max(self.own()) + self.others > self.total || self.random() < self.trouble.transient {
            return None;
        }
        self.pool = self.pool.max(needed);
        let t = tokens as f64;
        let rate = RATE * t / (t + self.model.half) / (1.0 + longest as f64 / 4000.0);
        Some((t / rate * (0.97 + 0.06 * self.random()), peak))
    }
}

/// Lengths of the texts of a shard: most are short, some are long.
fn shard(device: &mut Device) -> Vec<usize> {
    let mut length = || {
        let octaves = 4.0 + 7.0 * device.random() * device.random().sqrt();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 16 and 2048")]
        let length = octaves.exp2() as usize;
        length
    };
    (0..SHARD_ROWS).map(|_| length()).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of bytes")]
fn controller(device: &Device, most_tokens: usize) -> Option<Controller> {
    let planned = (device.model.weights + PLANNED_CONTEXT_BYTES) as u64;
    let limit = if (14.0..16.5).contains(&(device.total / GIB)) { 12.0 * GIB } else { f64::INFINITY };
    let room = Occupancy::new(0.85, limit as u64, device.total as u64, 0, planned);
    let model = MemoryModel::new(device.model.costs);
    // A text of the greatest length must fit, or the model is not loaded.
    if model.costs().planned(2048, 2048) + planned > room.budget_bytes() {
        return None;
    }
    let start = BatchLimits { tokens: 4096.min(most_tokens), sequences: usize::MAX };
    Some(Controller::new(Span { start, most_tokens }, true).with_memory(model, room, true))
}

/// A run of so many shards; `None` if the plan refuses the model on this device.
fn run(total_gb: f64, model: Model, trouble: Trouble, shards: usize, seed: u64) -> Option<Outcome> {
    let total = total_gb * GIB;
    let mut device = Device {
        total,
        model,
        trouble,
        others: 0.0,
        pool: 0.0,
        batches_since_freed: 0,
        random: 88_172_645_463_325_252 + seed,
    };
    let mut controller = controller(&device, 1 << 20)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
    controller.loaded(device.own() as u64);
    let mut outcome = Outcome::default();
    let mut level = Pressure::None;
    for number in 0..shards {
        let lengths = shard(&mut device);
        outcome.all_rows += lengths.len();
        let in_middle = (shards / 3..2 * shards / 3).contains(&number);
        let growing = (number.saturating_sub(shards / 3)) as f64 / (shards as f64 / 6.0);
        device.others = if in_middle { trouble.neighbour * growing.min(1.0) * device.total } else { 0.0 };
        let batches = plan(&lengths, |longest| controller.limits_soon(longest), 1);
        let last_quarter = number >= shards * 3 / 4;
        for batch in batches {
            // A look every few batches.
            if outcome.batches.is_multiple_of(3) {
                look(&mut controller, &device, &mut level);
            }
            outcome.batches += 1;
            outcome.trajectory.push(controller.limits(512).tokens);
            encode(&batch, &lengths, &mut device, &mut controller, &mut outcome, last_quarter);
        }
        if last_quarter {
            outcome.limits.push(controller.limits(512).tokens);
        }
    }
    Some(outcome)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of bytes")]
fn look(controller: &mut Controller, device: &Device, level: &mut Pressure) {
    let used = device.own() + device.others;
    controller.see(device.total as u64, used as u64, Some(device.own() as u64));
    let now = match used / device.total {
        part if part >= 0.95 => Pressure::Critical,
        part if part >= 0.85 => Pressure::Warning,
        _ => Pressure::None,
    };
    if now != *level {
        *level = now;
        controller.feel(now);
    }
}

/// A batch with recovery, as a worker does it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of bytes")]
fn encode(
    batch: &[usize],
    lengths: &[usize],
    device: &mut Device,
    controller: &mut Controller,
    outcome: &mut Outcome,
    last_quarter: bool,
) {
    let mut recovery = Recovery::new(batch.len(), false);
    while let Some(part) = recovery.next_part() {
        let longest = lengths[batch[part.start]];
        let limits = controller.limits(longest);
        let fitting = super::fitting(part.clone().map(|place| lengths[batch[place]]), limits);
        if fitting < part.len() {
            recovery.cut(fitting);
            continue;
        }
        let tokens: usize = part.clone().map(|place| lengths[batch[place]]).sum();
        if controller.begin(tokens, longest) {
            (device.pool, device.batches_since_freed) = (0.0, 0);
        }
        if let Some((seconds, peak)) = device.encode(tokens, longest) {
            let peak_bytes = device.trouble.counted.then_some(peak as u64);
            if last_quarter && part.len() > 1 && tokens * 4 > limits.tokens * 3 {
                let budget = (0.85 * device.total - device.others).min(budget_limit(device));
                let by_memory = controller.is_bound_by_memory(longest);
                outcome.full.push(Full { tokens: tokens as f64, used: peak / budget, by_memory });
            }
            controller.encoded(Finished { tokens, longest, seconds, peak_bytes });
            outcome.ended_rows += part.len();
            recovery.done();
            continue;
        }
        outcome.out_of_memory += 1;
        let step = recovery.out_of_memory();
        if step == Step::FreeCaches {
            (device.pool, device.batches_since_freed) = (0.0, 0);
            continue;
        }
        controller.out_of_memory(tokens, longest);
        match step {
            Step::FreeCaches | Step::Halve => {}
            Step::Processor => recovery.failed(),
            Step::Fail => {
                outcome.failed_rows += 1;
                outcome.ended_rows += 1;
            }
        }
    }
}

fn budget_limit(device: &Device) -> f64 {
    if (14.0..16.5).contains(&(device.total / GIB)) { 12.0 * GIB } else { f64::INFINITY }
}

/// By how much twice as many tokens at once would be faster.
pub(super) fn gain(model: Model, tokens: f64) -> f64 {
    2.0 * (tokens + model.half) / (2.0 * tokens + model.half)
}

/// Every trouble with every model on every device, once with each seed.
pub(super) fn each(seeds: std::ops::Range<u64>, mut with: impl FnMut(f64, Model, Trouble, Option<Outcome>)) {
    for trouble in TROUBLES {
        for total in DEVICES {
            for model in MODELS {
                for seed in seeds.clone() {
                    with(total, model, trouble, run(total, model, trouble, SHARDS, seed));
                }
            }
        }
    }
}
