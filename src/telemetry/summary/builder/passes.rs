//! What a summary says of each pass, from the events of its turn.

use std::collections::BTreeMap;

use super::{
    BatchStep, Bottleneck, LeaseSpan, MOST_MITIGATIONS, MOST_RATES, PassSummary, RawLeaseEvent, RunStatus, State,
    VramSpan,
};
use crate::domain::RowStatus;
use crate::telemetry::epoch_seconds;
use crate::telemetry::event::{Event, LeaseSample, PassInfo, StageSeconds, VramSample};

impl State {
    pub(super) fn start(&mut self, info: &PassInfo) {
        self.rates.remove(&info.model);
        let (predictions, others) =
            std::mem::take(&mut self.predictions).into_iter().partition(|prediction| prediction.model == info.model);
        self.predictions = others;
        let before = self.acquired.iter().flat_map(|sample| &sample.vram);
        let vram = before.map(|(id, vram)| (format!("gpu_{id}"), VramSpan::starting(*vram))).collect();
        self.open.push(self.summary.passes.len());
        self.summary.passes.push(PassSummary {
            batch_trajectory: vec![BatchStep { batch: 0, tokens: info.batch_tokens, sequences: info.batch_size }],
            info: info.clone(),
            status: RunStatus::Running,
            error: None,
            load_seconds: None,
            warm: false,
            warmup_tokens_per_second: None,
            predictions,
            seconds: 0.0,
            rows: 0,
            rows_known: 0,
            rows_repeated: 0,
            tokens: 0,
            padded_tokens: 0,
            tokens_per_second: 0.0,
            batches: 0,
            batches_by_device: BTreeMap::new(),
            mitigation_events: Vec::new(),
            mitigation_counts: BTreeMap::new(),
            intrusions: Vec::new(),
            leaks: Vec::new(),
            lost_devices: Vec::new(),
            stage_seconds: StageSeconds::default(),
            bottleneck: None,
            vram,
            throughput_spread: None,
        });
    }

    /// The pass of a model that is under way, or was last.
    pub(super) fn pass(&mut self, model: &str) -> Option<&mut PassSummary> {
        self.summary.passes.iter_mut().rfind(|pass| pass.info.model == model)
    }

    pub(super) fn each_open(&mut self, mut change: impl FnMut(&mut PassSummary)) {
        for place in &self.open {
            change(&mut self.summary.passes[*place]);
        }
    }

    pub(super) fn observe_pass(&mut self, event: &Event) {
        match event {
            Event::ModelLoaded { model, load_seconds, warm } => {
                if let Some(pass) = self.pass(model) {
                    (pass.load_seconds, pass.warm) = (Some(*load_seconds), *warm);
                }
            }
            Event::WarmUp { model, tokens, seconds } => {
                if let Some(pass) = self.pass(model) {
                    pass.warmup_tokens_per_second = Some(*tokens as f64 / seconds.max(f64::MIN_POSITIVE));
                }
            }
            Event::BatchEncoded { model, device, rows, tokens, padded_tokens, longest, seconds, .. } => {
                if let Some(pass) = self.pass(model) {
                    pass.rows += rows;
                    pass.tokens += tokens;
                    pass.padded_tokens += padded_tokens;
                    pass.batches += 1;
                    *pass.batches_by_device.entry(device.clone()).or_default() += 1;
                }
                let rates = self.rates.entry(model.clone()).or_default().entry(longest.div_ceil(32)).or_default();
                if rates.len() < MOST_RATES && *seconds > 0.0 {
                    rates.push(*tokens as f64 / seconds);
                }
            }
            Event::Mitigation(mitigation) => {
                if let Some(pass) = self.pass(&mitigation.model) {
                    let (tokens, sequences) = (mitigation.batch_tokens, mitigation.batch_size);
                    *pass.mitigation_counts.entry(mitigation.action.clone()).or_default() += 1;
                    if pass.mitigation_events.len() < MOST_MITIGATIONS {
                        let last = pass.batch_trajectory.last().map(|step| (step.tokens, step.sequences));
                        if last != Some((tokens, sequences)) {
                            pass.batch_trajectory.push(BatchStep { batch: pass.batches, tokens, sequences });
                        }
                        pass.mitigation_events.push(mitigation.clone());
                    }
                }
            }
            Event::PassFinished { model, seconds, stage_seconds, complete } => {
                let rates = self.rates.remove(model).unwrap_or_default();
                if let Some(pass) = self.pass(model) {
                    pass.status = if *complete { RunStatus::Done } else { RunStatus::Stopped };
                    pass.seconds = *seconds;
                    pass.stage_seconds = *stage_seconds;
                    pass.bottleneck = Some(Bottleneck::of(*stage_seconds, pass.info.threads));
                    pass.tokens_per_second = pass.tokens as f64 / seconds.max(f64::MIN_POSITIVE);
                    pass.throughput_spread =
                        rates.values().max_by_key(|rates| rates.len()).and_then(|rates| spread(rates));
                }
                if *complete {
                    self.summary.models_executed.push(model.clone());
                }
            }
            _ => {}
        }
    }

    pub(super) fn lease(&mut self, event_type: &'static str, sample: &LeaseSample) {
        let timestamp = epoch_seconds();
        let same_turn = |event: &&RawLeaseEvent| event.sample.model == sample.model && event.event_type == "acquire";
        if let Some(acquired) =
            self.summary.gpu_lease_events.iter().rfind(same_turn).filter(|_| event_type == "release")
        {
            let used = |sample: &LeaseSample, device: &String| sample.vram.get(device).and_then(|vram| vram.used_gb);
            let delta = |device: &String| Some(used(sample, device)? - used(&acquired.sample, device)?);
            let deltas = sample.vram.keys().map(|device| (format!("gpu_{device}"), delta(device))).collect();
            let duration = timestamp - acquired.timestamp;
            self.summary.lease_events.push(LeaseSpan { model: sample.model.clone(), duration, vram_delta_gb: deltas });
        }
        self.summary.gpu_lease_events.push(RawLeaseEvent { timestamp, event_type, sample: sample.clone() });
    }
}

/// Takes note of the memory of a device. The peak is never below what was seen at the ends.
pub(super) fn see(pass: &mut PassSummary, id: &str, change: impl FnOnce(&mut VramSpan)) {
    if let Some(span) = pass.vram.get_mut(&format!("gpu_{id}")) {
        change(span);
        let seen = [span.peak, span.before, span.after].into_iter().flatten();
        let higher = |one: VramSample, other: VramSample| if other.used_gb > one.used_gb { other } else { one };
        span.peak = seen.reduce(higher);
    }
}

impl VramSpan {
    fn starting(before: VramSample) -> Self {
        Self { before: Some(before), peak: Some(before), after: None }
    }
}

pub(super) fn with_vector(by_status: &BTreeMap<RowStatus, u64>) -> u64 {
    by_status.iter().filter(|(status, _)| status.has_vector()).map(|(_, rows)| rows).sum()
}

/// p95 / p5; `None` for fewer than 20 rates, whose tails mean nothing.
pub(super) fn spread(rates: &[f64]) -> Option<f64> {
    if rates.len() < 20 {
        return None;
    }
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    Some(at(95) / at(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_compares_the_tails() {
        let rates: Vec<f64> = (1..=101).rev().map(f64::from).collect();
        assert_eq!(spread(&rates), Some(96.0 / 6.0));
        assert_eq!(spread(&rates[..19]), None);
    }
}
