//! What every pass pays before its first batch: devices are found, looked at and leased.
//!
//! GPUs are those of the tests' stand-in for the driver's library, so the figures are this program's own share; a real
//! driver adds its own. `cargo bench --bench devices`.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that panics has failed")]

#[path = "../tests/stand_in/mod.rs"]
mod stand_in;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use embed_collections::device::{self, DeviceUuid, NvmlProbe, Probe, detect};
use embed_collections::domain::Foreign;
use embed_collections::lease::{Candidates, DeviceKey, Lease, Manager, Policy, Request, Requester};
use stand_in::{StandIn, TWO_T4};
use tempfile::TempDir;

fn take(manager: &Manager, devices: &[DeviceKey], probe: Option<&dyn Probe>) -> Lease {
    let requester = &Requester { run: "bench".to_owned(), model: None };
    let watch = &mut |_: &_| std::ops::ControlFlow::Continue(());
    let request = Request { policy: Policy::Fail, foreign: Foreign::Share, probe, requester, watch };
    manager.acquire(devices, request).unwrap()
}

fn leases(criterion: &mut Criterion) {
    let root = TempDir::new().unwrap();
    let manager = Manager::open(&Candidates::new(Some(root.path().to_owned()), None)).unwrap();
    for count in [1, 2] {
        let devices: Vec<DeviceKey> = (0..count).map(DeviceKey::of_slot).collect();
        criterion.bench_function(&format!("acquire and release {count}"), |bencher| {
            bencher.iter(|| drop(take(&manager, black_box(&devices), None)));
        });
    }
    let machine = StandIn::new(TWO_T4);
    let library = machine.library();
    let probe = NvmlProbe::open(Some(&library)).unwrap();
    let gpus: Vec<DeviceKey> = probe.devices().iter().map(|gpu| DeviceKey::try_from(gpu).unwrap()).collect();
    criterion.bench_function("acquire two GPUs, look for foreign processes, release", |bencher| {
        bencher.iter(|| drop(take(&manager, &gpus, Some(&probe))));
    });
}

fn looks(criterion: &mut Criterion) {
    let machine = StandIn::new(TWO_T4);
    let library = machine.library();
    let probe = NvmlProbe::open(Some(&library)).unwrap();
    let busy: DeviceUuid = probe.devices()[1].uuid.clone();
    criterion.bench_function("snapshot of a GPU", |bencher| bencher.iter(|| probe.snapshot(black_box(&busy)).unwrap()));
    criterion.bench_function("detect two GPUs", |bencher| {
        bencher.iter(|| detect(&device::Request { nvml_library: Some(&library), ..device::Request::default() }));
    });
}

criterion_group!(benches, leases, looks);
criterion_main!(benches);
