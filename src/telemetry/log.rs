//! Events that a person should read as they happen, as log messages.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::{Bytes, Fetching};

use super::event::{Event, LeaseSample, Mitigation, Observer, StopCause};

/// Faults of the input that are told one by one. A collection in the wrong format would fill the screen; all faults
/// are in `events.jsonl`.
const MOST_FAULTS: usize = 50;

/// Passes events on to `tracing`.
#[derive(Debug, Default)]
pub struct Log {
    faults: AtomicUsize,
}

impl Log {
    /// Tells of a fault, unless there have been too many.
    fn fault(&self, message: &str) {
        match self.faults.fetch_add(1, Ordering::Relaxed) {
            ..MOST_FAULTS => tracing::warn!("{}", Plain(message)),
            MOST_FAULTS => {
                tracing::warn!("more than {MOST_FAULTS} faults in the input; the others are in events.jsonl");
            }
            _ => {}
        }
    }
}

impl Observer for Log {
    fn observe(&self, event: &Event) {
        match event {
            Event::EmptyDirectory { path } => {
                tracing::warn!("{} holds no chunk file and is left out", Plain(&path.display().to_string()));
            }
            Event::LoadingError { error, .. } => self.fault(&error.to_string()),
            Event::InputWarning { warning, .. } => self.fault(&warning.to_string()),
            Event::RowFailed { collection, row, source, reason, .. } => self.fault(&format!(
                "{collection}: row {row} ({} entry {}) has no vector: {reason}",
                source.file, source.index
            )),
            Event::ModelNote { model, note } => tracing::info!("{model}: {}", Plain(note)),
            Event::DeviceNote { note } => tracing::warn!("{}", Plain(note)),
            Event::ModelFetching { model, what } => match what {
                Fetching::Hub { endpoint, repository } => {
                    tracing::info!("{model}: not on this machine; asking {endpoint} for {repository}");
                }
                Fetching::File { file, bytes: 0, total_bytes } => {
                    tracing::info!("{model}: fetching {file} ({:.1} MB)", *total_bytes as f64 / 1e6);
                }
                Fetching::File { .. } => {}
                Fetching::Resumed { file, bytes, total_bytes } => tracing::info!(
                    "{model}: {:.1} of {:.1} MB of {file} are here; going on after them",
                    *bytes as f64 / 1e6,
                    *total_bytes as f64 / 1e6
                ),
                Fetching::Waiting { reason, seconds } => {
                    tracing::warn!("{model}: the hub: {}; asking again in {seconds} s", Plain(reason));
                }
                Fetching::Queueing { file } => {
                    tracing::info!("{model}: another program is fetching {file}; waiting for it");
                }
                Fetching::Package { name, version, command, reason } => {
                    tracing::info!(
                        "{model}: {reason}; fetching the same files as package {name} {version} with {command}"
                    );
                }
            },
            Event::RunNote { note } => tracing::info!("{}", Plain(note)),
            Event::Planned { models, mode, .. } if models.len() > 1 => {
                tracing::info!("{} models, {}: {}", models.len(), mode.in_words(), models.join(", "));
            }
            Event::LeaseWaiting { holder } => tracing::info!("waiting: {}", Plain(holder)),
            Event::Acquire(LeaseSample { model, device_ids, .. }) if !device_ids.is_empty() => {
                tracing::info!("{model}: has {}", gpus(device_ids));
            }
            Event::Release(LeaseSample { model, device_ids, .. }) if !device_ids.is_empty() => {
                tracing::info!("{model}: has given back {}", gpus(device_ids));
            }
            Event::ModelLoaded { model, warm: true, .. } => tracing::info!("{model}: is still loaded"),
            Event::ModelLoaded { model, load_seconds, .. } => {
                tracing::info!("{model}: loaded in {load_seconds:.2} s");
            }
            Event::BatchBegun { model, collection, shard, device, rows, tokens } => {
                tracing::debug!(
                    model,
                    collection = collection.as_str(),
                    shard,
                    device,
                    rows,
                    tokens,
                    "begins with a batch"
                );
            }
            Event::PassFailed { error, .. } => tracing::error!("{}", Plain(error)),
            Event::PassFinished { model, seconds, complete: true, .. } => {
                tracing::info!("{model}: all collections embedded in {seconds:.1} s");
            }
            Event::MemoryLevel { .. }
            | Event::Mitigation(_)
            | Event::Intrusion { .. }
            | Event::Leak { .. }
            | Event::DeviceLost { .. }
            | Event::DeviceBack { .. } => about_devices(event),
            Event::CollectionFused { collection, complete: true, seconds, .. } => {
                tracing::info!("{collection}: fused in {seconds:.1} s");
            }
            Event::Resumed { collection, shards, rows, damage, .. } => {
                if let Some(damage) = damage {
                    tracing::warn!("{}", Plain(damage));
                }
                tracing::info!("{collection}: keeps {shards} shards with {rows} rows of an earlier run");
            }
            Event::Stopping { cause } => tracing::warn!(
                "{}; finishing the batches under way and committing what is complete (once more to stop at once)",
                match cause {
                    StopCause::Interrupt => "interrupted",
                    StopCause::Terminate => "asked to terminate",
                    StopCause::TimeLimit => "the time limit is reached",
                }
            ),
            _ => {}
        }
    }
}

fn about_devices(event: &Event) {
    match event {
        Event::MemoryLevel { device, from, to, utilisation } => {
            tracing::warn!("{device}: memory is {to} (was {from}): {:.0} % taken", utilisation * 100.0);
        }
        Event::Mitigation(Mitigation { model, batch_tokens, batch_size, .. }) => {
            tracing::warn!("{model}: batches are now of at most {batch_size} texts and {batch_tokens} tokens");
        }
        Event::Intrusion { device, processes } => tracing::warn!(
            "{device} is leased, but another program has begun to use it: {}; start it with `embed-collections lease run`",
            Plain(&processes.join(", "))
        ),
        Event::Leak { device, before_bytes, after_bytes, .. } => tracing::warn!(
            "{device}: memory did not come back after the model was gone: {} before, {} after",
            Bytes(*before_bytes),
            Bytes(*after_bytes)
        ),
        Event::DeviceLost { device, reason } => tracing::error!("{device} is lost: {}", Plain(reason)),
        Event::DeviceBack { device } => tracing::warn!("{device} answers again"),
        _ => {}
    }
}

/// CUDA's numbers of devices as labels.
fn gpus(device_ids: &[u32]) -> String {
    device_ids.iter().map(|id| format!("cuda:{id}")).collect::<Vec<_>>().join(", ")
}

/// Foreign text without control characters, which could rewrite the reader's screen.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a>(pub &'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|character| {
            if character.is_control() { write!(f, "{}", character.escape_default()) } else { write!(f, "{character}") }
        })
    }
}
