//! Leases within one process: two descriptors of one file exclude each other as two processes do.

use std::fs;
use std::panic::catch_unwind;

use tempfile::TempDir;

use super::*;
use crate::lease::{DeviceState, LeasedDevice, State, survey};

fn machine() -> (TempDir, Manager) {
    let root = TempDir::new().unwrap();
    let manager = Manager::open(&Candidates::new(Some(root.path().to_owned()), None)).unwrap();
    (root, manager)
}

fn keys(identities: &[&str]) -> Vec<DeviceKey> {
    identities.iter().map(|identity| DeviceKey::new(identity).unwrap()).collect()
}

/// Asks for devices, without looking for foreign processes.
fn ask_watched(
    manager: &Manager,
    identities: &[&str],
    policy: Policy,
    run: &str,
    watch: &mut dyn FnMut(&Obstacle) -> ControlFlow<()>,
) -> Result<Lease, LeaseError> {
    let requester = &Requester { run: run.to_owned(), model: Some("bge-m3".to_owned()) };
    let request = Request { policy, foreign: Foreign::Refuse, probe: None, requester, watch };
    manager.acquire(&keys(identities), request)
}

fn ask(manager: &Manager, identities: &[&str], policy: Policy, run: &str) -> Result<Lease, LeaseError> {
    ask_watched(manager, identities, policy, run, &mut |_| ControlFlow::Continue(()))
}

fn states(manager: &Manager) -> Vec<(String, State)> {
    let survey = survey(manager.directory()).unwrap();
    survey.into_iter().map(|device| (device.device.to_string(), device.state)).collect()
}

#[track_caller]
fn take(manager: &Manager, identities: &[&str], run: &str) -> Lease {
    ask(manager, identities, Policy::Fail, run).unwrap()
}

#[test]
fn a_leased_device_is_refused_and_its_holder_is_named() {
    let (_root, manager) = machine();
    let first = take(&manager, &["GPU-3f"], "42");
    let error = ask(&manager, &["GPU-3f"], Policy::Fail, "43").unwrap_err().to_string();
    let pid = std::process::id();
    let begin = format!("gpu GPU-3f is leased by run 42 (pid {pid}) of user ");
    assert!(error.starts_with(&begin), "{error}");
    assert!(error.contains(" since 20") && error.ends_with("Z; pass --lease-wait 30m or free it"), "{error}");
    drop(first);
    take(&manager, &["GPU-3f"], "43");
}

#[test]
fn every_lease_of_a_device_has_a_larger_epoch() {
    let (_root, manager) = machine();
    for epoch in 1..=5 {
        let lease = take(&manager, &["cpu-0"], "run");
        assert_eq!(lease.devices().map(LeasedDevice::epoch).collect::<Vec<_>>(), [epoch]);
    }
}

#[test]
fn a_lease_that_was_lent_to_nobody_leaves_nothing() {
    let (_root, manager) = machine();
    let lease = take(&manager, &["cpu-0", "cpu-1"], "run");
    assert_eq!(manager.release(lease), []);
    take(&manager, &["cpu-0", "cpu-1"], "run");
}

#[test]
fn devices_come_in_the_order_in_which_they_were_asked_for_and_once() {
    let (_root, manager) = machine();
    let lease = take(&manager, &["cpu-1", "cpu-0", "cpu-1"], "run");
    let order: Vec<&str> = lease.devices().map(|device| device.key().as_str()).collect();
    assert_eq!(order, ["cpu-1", "cpu-0"]);
}

#[test]
fn who_cannot_have_all_has_none() {
    let (_root, manager) = machine();
    let _held = take(&manager, &["cpu-1"], "first");
    let error = ask(&manager, &["cpu-2", "cpu-1", "cpu-0"], Policy::Fail, "second").unwrap_err();
    assert!(matches!(&error, LeaseError::Held { busy, .. } if busy.device.as_str() == "cpu-1"), "{error}");
    let states = states(&manager);
    assert_eq!(states[0], ("cpu-0".to_owned(), State::Free));
    assert_eq!(states[1], ("cpu-1".to_owned(), State::Held));
}

#[test]
fn who_waits_has_it_when_it_is_free() {
    let (_root, manager) = machine();
    let held = take(&manager, &["cpu-0"], "first");
    let mut pauses = 0;
    let mut held = Some(held);
    let watch = &mut |obstacle: &Obstacle| {
        let Obstacle::Held(busy) = obstacle else { panic!("{obstacle}") };
        assert_eq!(busy.holder.as_ref().map(|holder| holder.run.as_str()), Some("first"));
        pauses += 1;
        if pauses == 3 {
            held = None;
        }
        ControlFlow::Continue(())
    };
    let lease = ask_watched(&manager, &["cpu-0"], Policy::Wait(Duration::from_mins(1)), "second", watch).unwrap();
    assert_eq!((pauses, lease.devices().len()), (3, 1));
}

#[test]
fn waiting_ends_after_its_time_or_when_it_is_told_to() {
    let (_root, manager) = machine();
    let _held = take(&manager, &["cpu-0"], "first");
    let limit = Duration::from_millis(150);
    let started = Instant::now();
    let error = ask(&manager, &["cpu-0"], Policy::Wait(limit), "second").unwrap_err();
    assert!(started.elapsed() >= limit, "{:?}", started.elapsed());
    let text = error.to_string();
    assert!(text.contains("; waited 1") && text.ends_with("; pass a longer --lease-wait or free it"), "{text}");
    let wait = Policy::Wait(Duration::MAX);
    let stopped = ask_watched(&manager, &["cpu-0"], wait, "second", &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(LeaseError::GivenUp { .. })), "{stopped:?}");
}

#[test]
fn a_panic_gives_the_devices_back() {
    let (root, _manager) = machine();
    let path = root.path().to_owned();
    let panicked = catch_unwind(|| {
        let manager = Manager::open(&Candidates::new(Some(path), None)).unwrap();
        let _lease = take(&manager, &["cpu-0", "cpu-1"], "run");
        panic!("on purpose");
    });
    assert!(panicked.is_err());
    let manager = Manager::open(&Candidates::new(Some(root.path().to_owned()), None)).unwrap();
    let free = |device: &str| (device.to_owned(), State::Free);
    assert_eq!(states(&manager), [free("cpu-0"), free("cpu-1")]);
}

#[test]
fn what_is_in_the_file_decides_nothing() {
    let (root, manager) = machine();
    let path = root.path().join("cpu-0.lock");
    let forged =
        Holder::new(&Requester { run: "forged".to_owned(), model: None }, &Process::this(), u64::MAX).to_line();
    for content in [&b"\xff\xfe{]"[..], b"", b"{\"run\": 1}", &b"[".repeat(100_000), forged.as_bytes()] {
        fs::write(&path, content).unwrap();
        assert_eq!(states(&manager), [("cpu-0".to_owned(), State::Free)]);
        assert_eq!(survey(manager.directory()).unwrap()[0].holder, None);
        let _lease = take(&manager, &["cpu-0"], "true");
        let state = DeviceState::of(manager.directory(), keys(&["cpu-0"]).remove(0)).unwrap();
        assert_eq!((state.state, state.holder.unwrap().run.as_str()), (State::Held, "true"));
    }
    // While somebody holds it, too.
    let _lease = take(&manager, &["cpu-0"], "true");
    fs::write(&path, "garbage").unwrap();
    let error = ask(&manager, &["cpu-0"], Policy::Fail, "second").unwrap_err().to_string();
    assert!(error.starts_with("device cpu-0 is leased by a process that has not written its name"), "{error}");
}

#[test]
fn many_who_only_look_do_not_refuse_anybody() {
    let (_root, manager) = machine();
    drop(take(&manager, &["cpu-0"], "run"));
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    survey(manager.directory()).unwrap();
                    // As fast as a person with `watch` never is.
                    thread::sleep(Duration::from_micros(200));
                }
            });
        }
        let refused = (0..300).filter(|_| ask(&manager, &["cpu-0"], Policy::Fail, "run").is_err());
        let refused = refused.count();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(refused, 0);
    });
}

#[test]
fn what_is_adopted_is_used_by_one_at_a_time_and_stays_locked_afterwards() {
    let (root, manager) = machine();
    let device = DeviceKey::of_slot(0);
    let wrapper = manager.directory().lock_file(LockName::outer(&device)).unwrap();
    wrapper.try_lock().unwrap();
    // As a descriptor is in a process that inherited it.
    rustix::io::fcntl_setfd(&wrapper, rustix::io::FdFlags::empty()).unwrap();
    let inherited = Inherited::parse(&format!("cpu-0={}", std::os::fd::AsRawFd::as_raw_fd(&wrapper)));
    let inside = Manager::open(&Candidates::new(Some(root.path().to_owned()), None)).unwrap().with_inherited(inherited);

    let mut epochs = Vec::new();
    for run in ["first", "second"] {
        let lease = take(&inside, &["cpu-0"], run);
        epochs.extend(lease.devices().map(LeasedDevice::epoch));
        let refused = ask(&inside, &["cpu-0"], Policy::Fail, "third").unwrap_err().to_string();
        assert!(refused.starts_with(&format!("device cpu-0 is used inside its lease by run {run} (pid ")), "{refused}");
        drop(lease);
        let outside = ask(&manager, &["cpu-0"], Policy::Fail, "outside");
        assert!(matches!(outside, Err(LeaseError::Held { .. })), "{outside:?}");
    }
    wrapper.unlock().unwrap();
    drop(wrapper);
    epochs.extend(take(&manager, &["cpu-0"], "outside").devices().map(LeasedDevice::epoch));
    assert_eq!(epochs, [1, 2, 3]);
}

#[test]
fn a_lease_of_nothing_is_refused() {
    let (_root, manager) = machine();
    assert!(matches!(ask(&manager, &[], Policy::Fail, "run"), Err(LeaseError::NoDevice)));
}

#[test]
fn of_two_who_want_the_same_devices_at_once_one_has_them_at_a_time() {
    let (_root, manager) = machine();
    let inside = std::sync::atomic::AtomicU32::new(0);
    thread::scope(|scope| {
        for order in [["cpu-0", "cpu-1"], ["cpu-1", "cpu-0"]] {
            let (manager, inside) = (&manager, &inside);
            scope.spawn(move || {
                for _ in 0..20 {
                    let wait = Policy::Wait(Duration::from_mins(1));
                    let _lease = ask(manager, &order, wait, "run").unwrap();
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    thread::sleep(Duration::from_millis(1));
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
    });
}
