//! From what people call a device to what it is filed under.
//!
//! `cuda:1` and `GPU-3f` are ways of speaking: which device is meant depends on what is there and on
//! `CUDA_VISIBLE_DEVICES`. Whole UUIDs and slots on the processor mean the same to everybody and need no look at the
//! machine, so that they go on working where the driver does not answer.

use std::cell::LazyCell;

use super::key::gpu_parts;
use super::{DeviceKey, DeviceKeyError};
use crate::device::{ChoiceError, Chosen, DeviceInfo, DeviceKind, Wanted, choose};

/// A lease needs no encoder, so every kind of device may be leased.
const LEASABLE: &[DeviceKind] = &[DeviceKind::Cuda, DeviceKind::Metal, DeviceKind::Cpu];

/// A name that leads to no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceNameError {
    /// MIG instances are not detected, so that nobody knows which one begins so.
    #[error("{name:?} is not the whole UUID of a MIG instance; give all of it, see nvidia-smi -L")]
    PartOfInstance {
        /// What was given.
        name: String,
    },
    /// It cannot be read, or nothing or too much of that name is there.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// The device says something odd of itself.
    #[error(transparent)]
    Key(#[from] DeviceKeyError),
}

/// The devices of some names as `--devices` takes them, in this order, each once. `there` is asked for what was
/// detected if it matters, at most once.
///
/// # Errors
/// [`DeviceNameError`], which lists what is there.
pub fn resolve<'a>(
    names: &[String],
    there: impl FnOnce() -> &'a [DeviceInfo],
) -> Result<Vec<DeviceKey>, DeviceNameError> {
    let there = LazyCell::new(there);
    let mut keys = Vec::new();
    for name in names {
        let found = match DeviceKey::of_whole_name(name.trim()) {
            Some(key) => vec![key],
            None => look_up(name.trim(), || *there)?,
        };
        for key in found {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    Ok(keys)
}

/// The keys of devices that were chosen, in their order.
///
/// # Errors
/// If the driver gives a device an identity that cannot be a key.
pub fn keys_of(chosen: &Chosen) -> Result<Vec<DeviceKey>, DeviceKeyError> {
    match chosen {
        Chosen::Gpus(gpus) => gpus.iter().map(DeviceKey::try_from).collect(),
        Chosen::Cpu(slots) => Ok(slots.iter().map(DeviceKey::from).collect()),
    }
}

fn look_up<'a>(name: &str, there: impl FnOnce() -> &'a [DeviceInfo]) -> Result<Vec<DeviceKey>, DeviceNameError> {
    let wanted = match gpu_parts(name) {
        Some(("GPU-", beginning)) => Wanted::Uuid(format!("GPU-{}", beginning.to_ascii_lowercase())),
        Some(_) => return Err(DeviceNameError::PartOfInstance { name: name.to_owned() }),
        None => name.parse()?,
    };
    // The cores do not matter: slots have whole names.
    let chosen = choose(&[wanted], there(), LEASABLE, 1)?.chosen;
    Ok(keys_of(&chosen)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceUuid;

    const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

    fn gpu(index: u32, uuid: &str) -> DeviceInfo {
        DeviceInfo {
            kind: DeviceKind::Cuda,
            index,
            uuid: DeviceUuid(uuid.to_owned()),
            name: "T4".to_owned(),
            total: None,
            compute_capability: None,
            mig: None,
        }
    }

    #[track_caller]
    fn check(names: &[&str], expected: Result<&[&str], &str>) {
        let there = [gpu(0, "GPU-ab11"), gpu(1, "GPU-ac22")];
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let found = resolve(&names, || &there).map_err(|error| error.to_string());
        match (&found, expected) {
            (Ok(keys), Ok(expected)) => {
                assert_eq!(keys.iter().map(DeviceKey::as_str).collect::<Vec<_>>(), expected, "{names:?}");
            }
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{names:?}: {error}"),
            _ => panic!("{names:?}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn names_become_keys_in_their_order_and_once() {
        check(&["cuda:1", "cuda:0"], Ok(&["GPU-ac22", "GPU-ab11"]));
        check(&["cuda"], Ok(&["GPU-ab11", "GPU-ac22"]));
        check(&["GPU-ac", "cuda", "cpu:1", "cuda:1"], Ok(&["GPU-ac22", "GPU-ab11", "cpu-1"]));
        check(&["gpu-AB"], Ok(&["GPU-ab11"]));
        check(&["cpu:1", "cpu", "cpu-1"], Ok(&["cpu-1", "cpu-0"]));
    }

    #[test]
    fn what_leads_nowhere_is_refused_with_what_there_is() {
        let there = "there is cuda:0 (T4, GPU-ab11), cuda:1 (T4, GPU-ac22)";
        check(&["cuda:2"], Err(&format!("there is no device cuda:2; {there}")));
        check(&["metal:0"], Err(&format!("there is no device metal:0; {there}")));
        check(&["GPU-ff"], Err(&format!("there is no device GPU-ff; {there}")));
        check(&["GPU-a"], Err(&format!("GPU-a may be several devices; {there}; write more of the UUID")));
        for unreadable in ["3", "gpu:1", "cuda0", "cpu:x", "cpu:-1", "tpu", ""] {
            check(&[unreadable], Err("is no device; write cuda:0"));
        }
        check(&[&format!("MIG-GPU-{UUID}/1/0")], Err("is not the whole UUID of a MIG instance"));
    }

    #[test]
    fn whole_names_need_no_look_at_the_machine() {
        let names = [format!("gpu-{}", UUID.to_uppercase()), format!("MIG-{UUID}"), "cpu:3".to_owned()];
        let keys = resolve(&names, || panic!("it was asked what is there")).unwrap();
        let expected = [format!("GPU-{UUID}"), format!("MIG-{UUID}"), "cpu-3".to_owned()];
        assert_eq!(keys.iter().map(DeviceKey::as_str).collect::<Vec<_>>(), expected);
    }
}
