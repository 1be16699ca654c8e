//! `CUDA_VISIBLE_DEVICES`: which GPUs a process may see, and in which order it counts them.
//!
//! As the CUDA programming guide has it, and `PyTorch` reads it: entries are all numbers or all `GPU-` with the
//! beginning of a UUID; the list ends at the first entry that names no device; a device named twice leaves none.

use super::{DeviceInfo, DeviceUuid};

/// The GPUs that a process sees; its device 0 is the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    /// In the order in which CUDA counts them.
    pub devices: Vec<DeviceUuid>,
    /// The entry at which the list ended before its end.
    pub end: Option<End>,
    /// Numbers may mean other GPUs to CUDA than to its driver, which counts by bus address.
    pub order_uncertain: bool,
}

/// An entry that ends the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// As it stands in the variable.
    pub entry: String,
    /// Why.
    pub reason: EndReason,
}

/// Why a list ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Empty, or -1: no device from here on. This is asked for.
    None,
    /// No GPU has this number or UUID.
    Unknown,
    /// Several GPUs have UUIDs that begin so.
    Ambiguous,
    /// Named before; then there is no device at all.
    Repeated,
    /// A MIG instance, which this program does not use.
    Mig,
}

impl EndReason {
    /// In few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "names no device",
            Self::Unknown => "names no GPU of this machine",
            Self::Ambiguous => "is the beginning of several UUIDs",
            Self::Repeated => "is there twice, and so CUDA shows no device",
            Self::Mig => "names a MIG instance, which this program cannot use",
        }
    }
}

/// How CUDA counts devices: the variable `CUDA_DEVICE_ORDER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaOrder {
    /// By speed, the fastest first; equal ones by bus address. The default.
    FastestFirst,
    /// By bus address, as the driver does.
    PciBus,
}

impl CudaOrder {
    /// Reads the variable.
    pub fn read(value: Option<&str>) -> Self {
        if value == Some("PCI_BUS_ID") { Self::PciBus } else { Self::FastestFirst }
    }
}

/// What of `gpus`, in the driver's order, `CUDA_VISIBLE_DEVICES=value` shows.
pub fn visible(value: Option<&str>, order: CudaOrder, gpus: &[DeviceInfo]) -> Visible {
    let alike = gpus.windows(2).all(|pair| pair[0].name == pair[1].name);
    let unsure = order == CudaOrder::FastestFirst && !alike;
    let Some(value) = value else {
        let devices = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        return Visible { devices, end: None, order_uncertain: unsure };
    };
    let by_uuid = value.trim_start().starts_with("GPU-");
    let mut devices = Vec::new();
    for entry in value.split(',').map(str::trim) {
        let found = if by_uuid { by_prefix(entry, gpus) } else { by_number(entry, gpus) };
        let reason = match found {
            Ok(gpu) if !devices.contains(&gpu.uuid) => {
                devices.push(gpu.uuid.clone());
                continue;
            }
            Ok(_) => {
                devices.clear();
                EndReason::Repeated
            }
            Err(reason) => reason,
        };
        return Visible {
            devices,
            end: Some(End { entry: entry.to_owned(), reason }),
            order_uncertain: unsure && !by_uuid,
        };
    }
    Visible { devices, end: None, order_uncertain: unsure && !by_uuid }
}

fn by_prefix<'a>(entry: &str, gpus: &'a [DeviceInfo]) -> Result<&'a DeviceInfo, EndReason> {
    if entry.starts_with("MIG-") {
        return Err(EndReason::Mig);
    }
    if !entry.starts_with("GPU-") {
        return Err(if entry.is_empty() { EndReason::None } else { EndReason::Unknown });
    }
    let mut matches = gpus.iter().filter(|gpu| gpu.uuid.0.starts_with(entry));
    match (matches.next(), matches.next()) {
        (Some(gpu), None) => Ok(gpu),
        (Some(_), Some(_)) => Err(EndReason::Ambiguous),
        (None, _) => Err(EndReason::Unknown),
    }
}

/// CUDA reads leading digits as C's strtoul does, so that `1gpu` is 1.
fn by_number<'a>(entry: &str, gpus: &'a [DeviceInfo]) -> Result<&'a DeviceInfo, EndReason> {
    if entry.starts_with("MIG-") {
        return Err(EndReason::Mig);
    }
    if entry.is_empty() || entry == "-1" {
        return Err(EndReason::None);
    }
    let unsigned = entry.strip_prefix('+').unwrap_or(entry);
    let digits = unsigned.find(|character: char| !character.is_ascii_digit()).unwrap_or(unsigned.len());
    let number: usize = unsigned[..digits].parse().map_err(|_| EndReason::Unknown)?;
    gpus.get(number).ok_or(EndReason::Unknown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::DeviceKind;

    fn gpu(index: u32, uuid: &str, name: &str) -> DeviceInfo {
        let uuid = DeviceUuid(uuid.to_owned());
        DeviceInfo {
            kind: DeviceKind::Cuda,
            index,
            uuid,
            name: name.to_owned(),
            total: None,
            compute_capability: None,
            mig: None,
        }
    }

    fn three() -> Vec<DeviceInfo> {
        vec![gpu(0, "GPU-aa11", "T4"), gpu(1, "GPU-ab22", "T4"), gpu(2, "GPU-cc33", "T4")]
    }

    #[track_caller]
    fn check(value: Option<&str>, expected: &[&str], end: Option<(&str, EndReason)>) {
        let found = visible(value, CudaOrder::FastestFirst, &three());
        assert_eq!(found.devices.iter().map(|uuid| uuid.0.as_str()).collect::<Vec<_>>(), expected, "{value:?}");
        assert_eq!(found.end.as_ref().map(|end| (end.entry.as_str(), end.reason)), end, "{value:?}");
        assert!(!found.order_uncertain);
    }

    #[test]
    fn the_list_is_read_as_cuda_reads_it() {
        use EndReason::{Ambiguous, Mig, None as Nothing, Repeated, Unknown};
        check(None, &["GPU-aa11", "GPU-ab22", "GPU-cc33"], None);
        check(Some(""), &[], Some(("", Nothing)));
        check(Some("-1"), &[], Some(("-1", Nothing)));
        check(Some("2,0"), &["GPU-cc33", "GPU-aa11"], None);
        check(Some(" 2 , 0 "), &["GPU-cc33", "GPU-aa11"], None);
        check(Some("1gpu,+0"), &["GPU-ab22", "GPU-aa11"], None);
        check(Some("0,7,1"), &["GPU-aa11"], Some(("7", Unknown)));
        check(Some("0,-1,1"), &["GPU-aa11"], Some(("-1", Nothing)));
        check(Some("0,,1"), &["GPU-aa11"], Some(("", Nothing)));
        check(Some("nonsense"), &[], Some(("nonsense", Unknown)));
        check(Some("99999999999999999999999"), &[], Some(("99999999999999999999999", Unknown)));
        check(Some("0,1,0"), &[], Some(("0", Repeated)));
        check(Some("GPU-cc,GPU-aa11"), &["GPU-cc33", "GPU-aa11"], None);
        check(Some("GPU-a"), &[], Some(("GPU-a", Ambiguous)));
        check(Some("GPU-cc,GPU-dd,GPU-aa"), &["GPU-cc33"], Some(("GPU-dd", Unknown)));
        check(Some("GPU-cc,0"), &["GPU-cc33"], Some(("0", Unknown)));
        check(Some("0,GPU-cc"), &["GPU-aa11"], Some(("GPU-cc", Unknown)));
        check(Some("GPU-cc,GPU-cc33"), &[], Some(("GPU-cc33", Repeated)));
        check(Some("MIG-1234"), &[], Some(("MIG-1234", Mig)));
        check(Some("GPU-cc,MIG-1234"), &["GPU-cc33"], Some(("MIG-1234", Mig)));
    }

    #[test]
    fn numbers_are_uncertain_where_cuda_may_count_gpus_otherwise() {
        let unlike = [gpu(0, "GPU-1", "T4"), gpu(1, "GPU-2", "H200")];
        let uncertain = |value, order| visible(value, order, &unlike).order_uncertain;
        assert!(uncertain(Some("0"), CudaOrder::FastestFirst));
        assert!(uncertain(None, CudaOrder::FastestFirst));
        assert!(!uncertain(Some("0"), CudaOrder::PciBus));
        assert!(!uncertain(Some("GPU-1"), CudaOrder::FastestFirst));
        assert_eq!(CudaOrder::read(Some("PCI_BUS_ID")), CudaOrder::PciBus);
        assert_eq!(CudaOrder::read(None), CudaOrder::FastestFirst);
    }

    proptest! {
        #[test]
        fn whatever_stands_there_shows_each_gpu_at_most_once(value in ".{0,20}|([0-3GPUMIabc,-]{0,24})") {
            let mut found = visible(Some(&value), CudaOrder::PciBus, &three()).devices;
            found.sort();
            prop_assert!(found.windows(2).all(|pair| pair[0] != pair[1]));
            prop_assert!(found.iter().all(|uuid| three().iter().any(|gpu| gpu.uuid == *uuid)));
        }

        #[test]
        fn a_list_of_different_numbers_is_shown_in_its_order(order in Just(vec![0_usize, 1, 2]).prop_shuffle()) {
            let value = order.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let found = visible(Some(&value), CudaOrder::PciBus, &three());
            let expected: Vec<DeviceUuid> = order.iter().map(|index| three()[*index].uuid.clone()).collect();
            prop_assert_eq!(found.devices, expected);
        }
    }
}
