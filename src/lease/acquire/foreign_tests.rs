//! Foreign processes on GPUs that are made up, and come and go as a test says.

use std::sync::Mutex;

use tempfile::TempDir;

use super::*;
use crate::device::{DeviceInfo, DeviceUuid, ProbeError, Process, Snapshot};
use crate::domain::Bytes;
use crate::lease::{Candidates, State, survey};

/// A driver that shows one more of these with every look, and then the last one for ever.
struct Driver(Mutex<Vec<Result<Option<Vec<u32>>, ()>>>);

impl Driver {
    fn new(looks: &[Result<Option<Vec<u32>>, ()>]) -> Self {
        Self(Mutex::new(looks.to_vec()))
    }
}

impl Probe for Driver {
    fn devices(&self) -> &[DeviceInfo] {
        &[]
    }

    fn snapshot(&self, device: &DeviceUuid) -> Result<Snapshot, ProbeError> {
        assert!(device.0.starts_with("GPU-"), "{device} was looked at");
        let mut looks = self.0.lock().unwrap();
        let seen = if looks.len() > 1 { looks.remove(0) } else { looks[0].clone() };
        let pids = seen.map_err(|()| ProbeError::NoPermission)?;
        let process = |pid| Process { pid, name: Some("python3\u{1b}".to_owned()), used: Some(Bytes::mib(14_000)) };
        let processes = pids.map(|pids| pids.into_iter().map(process).collect());
        let uuid = device.clone();
        Ok(Snapshot { uuid, total: None, used: None, free: None, allocated: None, reserved: None, processes })
    }
}

struct Machine {
    _root: TempDir,
    manager: Manager,
}

impl Machine {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let manager = Manager::open(&Candidates::new(Some(root.path().to_owned()), None)).unwrap();
        Self { _root: root, manager }
    }

    fn acquire(
        &self,
        policy: Policy,
        foreign: Foreign,
        driver: &Driver,
        watch: &mut dyn FnMut(&Obstacle) -> ControlFlow<()>,
    ) -> Result<Lease, LeaseError> {
        let devices = [DeviceKey::new("GPU-3f").unwrap(), DeviceKey::of_slot(0)];
        let requester = &Requester { run: "run".to_owned(), model: None };
        self.manager.acquire(&devices, Request { policy, foreign, probe: Some(driver), requester, watch })
    }

    fn is_free(&self) -> bool {
        survey(self.manager.directory()).unwrap().iter().all(|device| device.state == State::Free)
    }
}

const FOREIGN: u32 = 4711;
const IN_USE: &str = "gpu GPU-3f is in use by python3? (pid 4711, 13.7 GiB) without a lease";

fn go_on(_: &Obstacle) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_foreign_process_is_refused_by_name_and_nothing_stays_leased() {
    let machine = Machine::new();
    let driver = Driver::new(&[Ok(Some(vec![FOREIGN]))]);
    for policy in [Policy::Fail, Policy::Wait(Duration::from_mins(1))] {
        let error = machine.acquire(policy, Foreign::Refuse, &driver, &mut go_on).unwrap_err();
        let expected = format!(
            "{IN_USE}; wait for it with --foreign wait, end it, name another device, or share the device with \
             --foreign share"
        );
        assert_eq!(error.to_string(), expected);
        assert!(machine.is_free());
    }
}

#[test]
fn this_process_and_one_that_is_just_ending_are_not_foreign() {
    let machine = Machine::new();
    let own = std::process::id();
    let driver = Driver::new(&[Ok(Some(vec![FOREIGN, own])), Ok(Some(vec![FOREIGN])), Ok(Some(vec![own]))]);
    let lease = machine.acquire(Policy::Fail, Foreign::Refuse, &driver, &mut go_on).unwrap();
    assert_eq!(lease.notes(), []);
}

#[test]
fn what_cannot_be_seen_is_nobody_and_is_noted() {
    #[track_caller]
    fn check(seen: Result<Option<Vec<u32>>, ()>, expected: &str) {
        let lease = Machine::new().acquire(Policy::Fail, Foreign::Refuse, &Driver::new(&[seen]), &mut go_on).unwrap();
        let notes: Vec<String> = lease.notes().iter().map(ToString::to_string).collect();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with(expected), "{notes:?}");
    }
    check(Ok(None), "cannot see whether somebody uses gpu GPU-3f without a lease");
    check(Err(()), "cannot see whether somebody uses gpu GPU-3f without a lease: no permission to ask");
}

#[test]
fn sharing_is_noted() {
    let machine = Machine::new();
    let driver = Driver::new(&[Ok(Some(vec![FOREIGN]))]);
    let lease = machine.acquire(Policy::Fail, Foreign::Share, &driver, &mut go_on).unwrap();
    let notes: Vec<String> = lease.notes().iter().map(ToString::to_string).collect();
    assert_eq!(notes, [format!("{IN_USE}, and is shared with it")]);
}

#[test]
fn who_waits_for_a_foreign_process_does_not_keep_the_device() {
    let machine = Machine::new();
    let looks = GRACE.as_millis() / GRACE_PAUSE.as_millis() + 5;
    let mut seen = vec![Ok(Some(vec![FOREIGN])); usize::try_from(looks).unwrap()];
    seen.push(Ok(Some(Vec::new())));
    let mut said = Vec::new();
    let lease = machine
        .acquire(Policy::Wait(Duration::from_mins(1)), Foreign::Wait, &Driver::new(&seen), &mut |obstacle| {
            assert!(machine.is_free());
            said.push(obstacle.to_string());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((said, lease.devices().len()), (vec![IN_USE.to_owned()], 2));
}

#[test]
fn waiting_for_a_foreign_process_ends_after_its_time_or_when_it_is_told_to() {
    let machine = Machine::new();
    let driver = Driver::new(&[Ok(Some(vec![FOREIGN]))]);
    let limit = Duration::from_millis(2500);
    let started = Instant::now();
    let error = machine.acquire(Policy::Wait(limit), Foreign::Wait, &driver, &mut go_on).unwrap_err().to_string();
    assert!(started.elapsed() >= limit, "{:?}", started.elapsed());
    assert!(
        error.starts_with(&format!("{IN_USE}; waited ")) && error.contains("pass a longer --lease-wait"),
        "{error}"
    );
    let wait = Policy::Wait(Duration::MAX);
    let stopped = machine.acquire(wait, Foreign::Wait, &driver, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(LeaseError::GivenUp { .. })), "{stopped:?}");
    assert!(machine.is_free());
}
