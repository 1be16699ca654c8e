//! The processor as a device, and the limits that the system puts on this process.
//!
//! In a container the memory of the machine is not that of the process: the tightest limit of its control groups
//! counts.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{DeviceInfo, DeviceKind, DeviceUuid, Probe, ProbeError, Snapshot};
use crate::domain::Bytes;

/// Cores that this process may use: affinity and cgroup limits counted.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// Reads `/proc` and the control groups.
pub struct CpuProbe {
    root: PathBuf,
    device: [DeviceInfo; 1],
}

impl CpuProbe {
    /// The processor of the system whose files are below `root`: `/`, except in tests.
    pub fn new(root: &Path) -> Self {
        let mut probe = Self { root: root.to_owned(), device: [unknown_processor()] };
        if let Ok(text) = fs::read_to_string(root.join("proc/cpuinfo"))
            && let Some(name) = processor_name(&text)
        {
            name.clone_into(&mut probe.device[0].name);
        }
        probe.device[0].total = probe.memory().ok().map(|(total, _)| total);
        probe
    }

    /// All memory that this process may have, and what of it is to be had now.
    fn memory(&self) -> Result<(Bytes, Bytes), ProbeError> {
        let path = self.root.join("proc/meminfo");
        let fault = |reason: String| ProbeError::System { path: path.clone(), reason };
        let text = fs::read_to_string(&path).map_err(|error| fault(error.to_string()))?;
        let field = |name: &str| meminfo_field(&text, name).ok_or_else(|| fault(format!("{name} is not in it")));
        let (mut total, mut free) = (field("MemTotal")?, field("MemAvailable")?);
        for group in control_groups(&self.root) {
            if let Some(limit) = group.amount("memory.max") {
                total = total.min(limit);
                // Cached files count as used, but give way.
                let inactive = group.stat("inactive_file").unwrap_or_default();
                let used = group.amount("memory.current").unwrap_or_default().saturating_sub(inactive);
                free = free.min(limit.saturating_sub(used));
            }
        }
        Ok((total, free))
    }
}

impl Probe for CpuProbe {
    fn devices(&self) -> &[DeviceInfo] {
        &self.device
    }

    fn snapshot(&self, device: &DeviceUuid) -> Result<Snapshot, ProbeError> {
        if *device != self.device[0].uuid {
            return Err(ProbeError::Unknown { uuid: device.clone() });
        }
        let (total, free) = self.memory()?;
        Ok(Snapshot {
            uuid: device.clone(),
            total: Some(total),
            used: Some(total.saturating_sub(free)),
            free: Some(free),
            allocated: None,
            reserved: None,
            // Everyone computes on the processor; who does is nobody's conflict.
            processes: None,
        })
    }
}

/// What the control groups of this process allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct CpuLimits {
    /// Cores' worth of time.
    pub cores: Option<f64>,
    /// Memory.
    #[serde(rename = "memory_bytes")]
    pub memory: Option<Bytes>,
}

impl CpuLimits {
    /// The tightest limits, on the system whose files are below `root`.
    pub fn read(root: &Path) -> Self {
        let groups = control_groups(root);
        let cores = groups.iter().filter_map(|group| cpu_quota(&group.text("cpu.max")?)).reduce(f64::min);
        Self { cores, memory: groups.iter().filter_map(|group| group.amount("memory.max")).min() }
    }
}

/// The directory of a control group, version 2.
struct ControlGroup(PathBuf);

impl ControlGroup {
    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.0.join(file)).ok()
    }

    /// A number of bytes; `max` is none.
    fn amount(&self, file: &str) -> Option<Bytes> {
        Some(Bytes(self.text(file)?.trim().parse().ok()?))
    }

    fn stat(&self, name: &str) -> Option<Bytes> {
        let text = self.text("memory.stat")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(Bytes(line.parse().ok()?))
    }
}

/// The group of this process and all groups around it, each of which can limit.
fn control_groups(root: &Path) -> Vec<ControlGroup> {
    let mounted = root.join("sys/fs/cgroup");
    let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    // A group outside of what the container sees is written with `..`; the mounted root is then its own.
    let own = if own.contains("..") { Path::new("") } else { Path::new(own.trim_start_matches('/')) };
    own.ancestors().map(|group| ControlGroup(mounted.join(group))).collect()
}

/// Cores in `quota period`, as in `cpu.max`; `max` is no limit.
fn cpu_quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then_some(quota / period)
}

/// A field of `/proc/meminfo`, which counts in KiB.
fn meminfo_field(text: &str, name: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kibibytes.checked_mul(1024)?))
}

fn processor_name(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

fn unknown_processor() -> DeviceInfo {
    DeviceInfo {
        kind: DeviceKind::Cpu,
        index: 0,
        uuid: DeviceUuid("cpu".to_owned()),
        name: std::env::consts::ARCH.to_owned(),
        total: None,
        compute_capability: None,
        mig: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system of a few files.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:        4194304 kB\nMemFree: 1 kB\nMemAvailable:    3145728 kB\n");

    #[track_caller]
    fn check(files: &[(&str, &str)], total_mib: u64, free_mib: u64) {
        let root = system(files);
        let probe = CpuProbe::new(root.path());
        let snapshot = probe.snapshot(&probe.devices()[0].uuid).unwrap();
        assert_eq!((snapshot.total, snapshot.free), (Some(Bytes::mib(total_mib)), Some(Bytes::mib(free_mib))));
        assert_eq!(snapshot.used, Some(Bytes::mib(total_mib - free_mib)));
        assert_eq!((snapshot.allocated, snapshot.reserved, snapshot.processes), (None, None, None));
    }

    #[test]
    fn memory_is_that_of_the_machine_or_of_the_tightest_group() {
        check(&[MEMINFO], 4096, 3072);
        check(&[MEMINFO, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")], 4096, 3072);
        let limited = [
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/a/memory.current", "536870912\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 268435456\n"),
            ("sys/fs/cgroup/a/b/memory.max", "2147483648\n"),
        ];
        check(&limited, 1024, 768);
    }

    #[test]
    fn memory_that_cannot_be_read_is_an_error_and_not_zero() {
        let root = system(&[("proc/meminfo", "MemTotal: 1 kB\n")]);
        let probe = CpuProbe::new(root.path());
        assert_eq!(probe.devices()[0].total, None);
        let error = probe.snapshot(&probe.devices()[0].uuid).unwrap_err().to_string();
        assert!(error.contains("MemAvailable is not in it"), "{error}");
    }

    #[test]
    fn limits_are_those_of_the_tightest_group() {
        let root = system(&[
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/cpu.max", "400000 100000\n"),
            ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/memory.max", "1048576\n"),
        ]);
        assert_eq!(CpuLimits::read(root.path()), CpuLimits { cores: Some(1.5), memory: Some(Bytes::mib(1)) });
        let free = system(&[("sys/fs/cgroup/cpu.max", "max 100000\n")]);
        assert_eq!(CpuLimits::read(free.path()), CpuLimits::default());
    }

    #[test]
    fn this_machine_can_be_read() {
        let probe = CpuProbe::new(Path::new("/"));
        let snapshot = probe.snapshot(&probe.devices()[0].uuid).unwrap();
        assert!(snapshot.total.unwrap() > Bytes::mib(16) && snapshot.free.unwrap() <= snapshot.total.unwrap());
    }
}
