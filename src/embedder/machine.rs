//! What the summary says about the machine.

use super::devices::Devices;
use crate::device::cores;
use crate::telemetry::Machine;

/// Looks at this machine.
pub(super) fn this_machine(devices: &Devices) -> Machine {
    let versions = devices.detection.driver().unwrap_or_default();
    Machine {
        os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: processor(),
        cores: cores(),
        driver: versions.driver,
        cuda: versions.cuda,
        devices: devices.choice.labels(),
    }
}

/// The processor's name; Linux only.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
