//! `devices --watch`: samples as they come, and what changes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_channel::bounded;
use serde_json::{Value, json};

use crate::device::{DeviceUuid, Probe, Sampler, Sampling, Snapshot, Thresholds};

/// Samples and crossings that may wait for a slow reader; then sampling waits.
const QUEUE: usize = 64;

/// Writes a line for each sample and change, until `looks` are done or the reader has gone.
pub(super) fn watch(
    probe: Arc<dyn Probe>,
    interval: Duration,
    thresholds: Thresholds,
    looks: Option<u32>,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let labels: BTreeMap<DeviceUuid, String> =
        probe.devices().iter().map(|device| (device.uuid.clone(), device.label())).collect();
    let mut left = looks.map(|looks| looks as usize * labels.len());
    if left == Some(0) {
        return Ok(());
    }
    let (sender, events) = bounded(QUEUE);
    let sampler = Sampler::start(probe, interval, thresholds, move |event| {
        // Fails when the reader has gone; then the sampler is about to be dropped.
        drop(sender.send(event.clone()));
    })?;
    let label = |uuid: &DeviceUuid| labels.get(uuid).cloned().unwrap_or_else(|| uuid.to_string());
    for event in &events {
        let is_sample = matches!(event, Sampling::Sampled(_));
        let line = if json { as_json(&event, label).to_string() } else { as_text(&event, label) };
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            break;
        }
        if let Some(left) = &mut left {
            *left -= usize::from(is_sample);
            if *left == 0 {
                break;
            }
        }
    }
    // The receiver goes first, so that a sampler that waits for room in the queue is not waited for.
    drop(events);
    drop(sampler);
    Ok(())
}

fn as_text(event: &Sampling, label: impl Fn(&DeviceUuid) -> String) -> String {
    match event {
        Sampling::Sampled(sample) => match &sample.outcome {
            Ok(snapshot) => format!("{}: {}", label(&sample.uuid), memory(snapshot)),
            Err(_) => format!("{}: no answer", label(&sample.uuid)),
        },
        Sampling::Crossed(crossing) => format!(
            "{}: {} -> {} ({:.0} %)",
            label(&crossing.uuid),
            crossing.from.as_str(),
            crossing.to.as_str(),
            crossing.utilisation * 100.0
        ),
        Sampling::Silent { uuid, error } => format!("{}: {error}", label(uuid)),
        Sampling::Back { uuid } => format!("{}: answers again", label(uuid)),
    }
}

fn memory(snapshot: &Snapshot) -> String {
    match (snapshot.used, snapshot.total, snapshot.utilisation()) {
        (Some(used), Some(total), Some(part)) => format!("{used} of {total} ({:.0} %)", part * 100.0),
        _ => "memory unknown".to_owned(),
    }
}

fn as_json(event: &Sampling, label: impl Fn(&DeviceUuid) -> String) -> Value {
    match event {
        Sampling::Sampled(sample) => json!({
            "event_type": "sample",
            "timestamp": sample.time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            "device": label(&sample.uuid),
            "uuid": sample.uuid,
            "snapshot": sample.outcome.as_ref().ok(),
            "error": sample.outcome.as_ref().err().map(ToString::to_string),
        }),
        Sampling::Crossed(crossing) => json!({
            "event_type": "threshold",
            "device": label(&crossing.uuid),
            "uuid": crossing.uuid,
            "from": crossing.from,
            "to": crossing.to,
            "utilisation": crossing.utilisation,
        }),
        Sampling::Silent { uuid, error } => {
            json!({"event_type": "silent", "device": label(uuid), "uuid": uuid, "error": error.to_string()})
        }
        Sampling::Back { uuid } => json!({"event_type": "back", "device": label(uuid), "uuid": uuid}),
    }
}
