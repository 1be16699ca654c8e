//! A sampler over devices that change with every look.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::device::{DeviceInfo, DeviceKind, Level};
use crate::domain::Bytes;

/// One device that fills up by a tenth with every look and is lost for the looks in `lost`.
struct Filling {
    device: DeviceInfo,
    looks: AtomicU64,
    lost: std::ops::Range<u64>,
}

fn filling(lost: std::ops::Range<u64>) -> Arc<Filling> {
    let uuid = DeviceUuid("GPU-1".to_owned());
    let device = DeviceInfo {
        kind: DeviceKind::Cuda,
        index: 0,
        uuid,
        name: "T4".to_owned(),
        total: None,
        compute_capability: None,
        mig: None,
    };
    Arc::new(Filling { device, looks: AtomicU64::new(0), lost })
}

impl Probe for Filling {
    fn devices(&self) -> &[DeviceInfo] {
        std::slice::from_ref(&self.device)
    }

    fn snapshot(&self, device: &DeviceUuid) -> Result<Snapshot, ProbeError> {
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        if self.lost.contains(&look) {
            return Err(ProbeError::Lost { index: 0, uuid: Some(device.clone()) });
        }
        let used = (look * 10).min(100);
        Ok(Snapshot {
            uuid: device.clone(),
            total: Some(Bytes(100)),
            used: Some(Bytes(used)),
            free: Some(Bytes(100 - used)),
            allocated: None,
            reserved: None,
            processes: None,
        })
    }
}

/// Samples until `count` looks were reported; returns the changes reported meanwhile.
fn sample(probe: Arc<Filling>, count: usize) -> Vec<Sampling> {
    let (sender, told) = crossbeam_channel::unbounded();
    let sampler = Sampler::start(probe, Duration::ZERO, Thresholds::default(), move |event| {
        drop(sender.send(event.clone()));
    })
    .unwrap();
    let (mut events, mut looks) = (Vec::new(), 0);
    while looks < count {
        let event = told.recv_timeout(Duration::from_secs(20)).unwrap();
        looks += usize::from(matches!(event, Sampling::Sampled(_)));
        events.push(event);
    }
    drop(sampler);
    events.retain(|event| !matches!(event, Sampling::Sampled(_)));
    events
}

#[test]
fn thresholds_are_reported_once() {
    let events = sample(filling(0..0), 14);
    let crossings: Vec<(Level, Level)> = events
        .iter()
        .map(|event| match event {
            Sampling::Crossed(crossing) => (crossing.from, crossing.to),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(crossings, [(Level::Normal, Level::Warning), (Level::Warning, Level::Critical)]);
}

#[test]
fn a_lost_device_is_told_once_and_so_is_its_return() {
    let events = sample(filling(2..5), 8);
    let words: Vec<&str> = events
        .iter()
        .map(|event| match event {
            Sampling::Silent { error: ProbeError::Lost { .. }, .. } => "silent",
            Sampling::Back { .. } => "back",
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(words, ["silent", "back"]);
}

#[test]
fn a_sampler_in_a_long_pause_stops_at_once() {
    let (sender, told) = bounded(8);
    let start = Instant::now();
    let sampler = Sampler::start(filling(0..0), Duration::from_hours(1), Thresholds::default(), move |_| {
        let _ = sender.send(());
    })
    .unwrap();
    told.recv_timeout(Duration::from_secs(20)).unwrap();
    drop(sampler);
    assert!(start.elapsed() < Duration::from_mins(1));
}

proptest! {
    #[test]
    fn looking_never_takes_more_than_a_hundredth(interval in 0_u64..10_000, spent in 0_u64..300) {
        let (interval, spent) = (Duration::from_millis(interval), Duration::from_millis(spent));
        let rest = pause(interval, spent);
        prop_assert!(rest + spent >= interval);
        prop_assert!(spent * 100 <= rest + spent);
    }
}

#[test]
fn a_driver_that_hardly_answers_is_still_asked() {
    assert_eq!(pause(Duration::from_secs(1), Duration::from_mins(1)), LONGEST_PAUSE);
}
