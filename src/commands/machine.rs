//! What the summary says about the machine.

use crate::telemetry::Machine;

/// Looks at this machine.
pub(super) fn this_machine() -> Machine {
    Machine {
        os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: processor(),
        cores: cores(),
        driver: None,
        cuda: None,
        devices: vec!["cpu".to_owned()],
    }
}

/// Cores that this process may use: affinity and cgroup limits counted.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// The processor's name; Linux only.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
