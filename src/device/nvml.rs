//! GPUs of NVIDIA, as the driver's management library (NVML) sees them. No other file names it.
//!
//! The library is opened while the program runs, so that one program starts with and without a driver.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::{ComputeCapability, DeviceInfo, DeviceKind, DeviceUuid, Probe, ProbeError, Process, Snapshot};
use crate::domain::Bytes;

/// The name by which the loader finds the library where the driver is installed.
const LIBRARY: &str = if cfg!(windows) { "nvml.dll" } else { "libnvidia-ml.so.1" };

/// Longest name of a process; what the driver's own tools allow for.
const LONGEST_NAME: usize = 256;

/// The library, opened, and the GPUs that it had then.
pub struct NvmlProbe {
    nvml: Nvml,
    library: PathBuf,
    gpus: Vec<DeviceInfo>,
    faults: Vec<ProbeError>,
}

impl NvmlProbe {
    /// Opens the library, that of the driver unless another is given, and asks which GPUs there are.
    ///
    /// # Errors
    /// [`ProbeError`] if nobody can be asked. A single GPU that does not answer is among the [faults](Self::faults).
    pub fn open(library: Option<&Path>) -> Result<Self, ProbeError> {
        let library = library.unwrap_or(Path::new(LIBRARY)).to_owned();
        let nvml = Nvml::builder()
            .lib_path(library.as_os_str())
            .init()
            .map_err(|error| describe(error, &library, "starting NVML", None))?;
        // The wrapper panics when it is dropped without this function. What it lacks, no driver's library lacks.
        if nvml.lib().nvmlShutdown.is_err() {
            std::mem::forget(nvml);
            return Err(ProbeError::SymbolMissing { library, function: "nvmlShutdown".to_owned() });
        }
        let mut probe = Self { nvml, library, gpus: Vec::new(), faults: Vec::new() };
        let count = probe.nvml.device_count().map_err(|error| probe.describe(error, "counting GPUs", None))?;
        for index in 0..count {
            match probe.find(index) {
                Ok(gpu) => probe.gpus.push(gpu),
                Err(fault) => probe.faults.push(fault),
            }
        }
        Ok(probe)
    }

    /// GPUs that did not answer.
    pub fn faults(&self) -> &[ProbeError] {
        &self.faults
    }

    /// Version of the driver.
    pub fn driver(&self) -> Option<String> {
        self.nvml.sys_driver_version().ok()
    }

    /// The newest version of CUDA that the driver can serve.
    pub fn cuda(&self) -> Option<String> {
        let version = self.nvml.sys_cuda_driver_version().ok()?;
        Some(format!("{}.{}", version / 1000, version % 1000 / 10))
    }

    /// Asks for all that does not change. Without a UUID a GPU cannot be known; the rest may be missing.
    fn find(&self, index: u32) -> Result<DeviceInfo, ProbeError> {
        let fault = |error| self.describe(error, &format!("gpu {index}"), Some((index, None)));
        let gpu = self.nvml.device_by_index(index).map_err(fault)?;
        let uuid = DeviceUuid(gpu.uuid().map_err(fault)?);
        let capability = gpu.cuda_compute_capability().ok().and_then(|capability| {
            Some(ComputeCapability {
                major: capability.major.try_into().ok()?,
                minor: capability.minor.try_into().ok()?,
            })
        });
        Ok(DeviceInfo {
            kind: DeviceKind::Cuda,
            index,
            name: gpu.name().unwrap_or_else(|_| "NVIDIA GPU".to_owned()),
            total: gpu.memory_info().ok().map(|memory| Bytes(memory.total)),
            compute_capability: capability,
            mig: match gpu.mig_mode() {
                Ok(mode) => Some(mode.current != 0),
                Err(NvmlError::NotSupported) => Some(false),
                Err(_) => None,
            },
            uuid,
        })
    }

    /// The handle of a GPU that was found before. By index and not by UUID, because the library answers a search by
    /// UUID with an error when any other GPU is lost; the UUID is compared, so that a wrong GPU is never taken.
    fn handle(&self, gpu: &DeviceInfo) -> Result<Device<'_>, ProbeError> {
        let fault = |error| self.fault(error, gpu, "finding");
        let handle = self.nvml.device_by_index(gpu.index).map_err(fault)?;
        if handle.uuid().map_err(fault)? == gpu.uuid.0 {
            Ok(handle)
        } else {
            Err(ProbeError::Unknown { uuid: gpu.uuid.clone() })
        }
    }

    fn processes(&self, gpu: &DeviceInfo, handle: &Device<'_>) -> Result<Option<Vec<Process>>, ProbeError> {
        let processes = match handle.running_compute_processes() {
            Ok(processes) => processes,
            Err(error @ NvmlError::GpuLost) => return Err(self.fault(error, gpu, "processes of")),
            // Unknown, as on some virtual GPUs and with an old driver. Memory can still be told.
            Err(_) => return Ok(None),
        };
        let process = |process: nvml_wrapper::struct_wrappers::device::ProcessInfo| Process {
            pid: process.pid,
            name: self.nvml.sys_process_name(process.pid, LONGEST_NAME).ok().map(|name| program_name(&name)),
            used: match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(Bytes(bytes)),
                UsedGpuMemory::Unavailable => None,
            },
        };
        Ok(Some(processes.into_iter().map(process).collect()))
    }

    fn fault(&self, error: NvmlError, gpu: &DeviceInfo, what: &str) -> ProbeError {
        let what = format!("{what} gpu {} ({})", gpu.index, gpu.uuid);
        self.describe(error, &what, Some((gpu.index, Some(&gpu.uuid))))
    }

    fn describe(&self, error: NvmlError, what: &str, gpu: Option<(u32, Option<&DeviceUuid>)>) -> ProbeError {
        describe(error, &self.library, what, gpu)
    }
}

impl Probe for NvmlProbe {
    fn devices(&self) -> &[DeviceInfo] {
        &self.gpus
    }

    fn snapshot(&self, device: &DeviceUuid) -> Result<Snapshot, ProbeError> {
        let unknown = || ProbeError::Unknown { uuid: device.clone() };
        let gpu = self.gpus.iter().find(|gpu| gpu.uuid == *device).ok_or_else(unknown)?;
        let handle = self.handle(gpu)?;
        let memory = match handle.memory_info() {
            Ok(memory) => Some(memory),
            // GPUs that share the memory of the machine have none of their own to tell about.
            Err(NvmlError::NotSupported) => None,
            Err(error) => return Err(self.fault(error, gpu, "memory of")),
        };
        Ok(Snapshot {
            uuid: device.clone(),
            total: memory.as_ref().map(|memory| Bytes(memory.total)),
            used: memory.as_ref().map(|memory| Bytes(memory.used)),
            free: memory.as_ref().map(|memory| Bytes(memory.free)),
            allocated: None,
            reserved: None,
            processes: self.processes(gpu, &handle)?,
        })
    }
}

/// `python` of `/usr/bin/python script.py`.
fn program_name(command: &str) -> String {
    let program = command.split_whitespace().next().unwrap_or(command);
    Path::new(program).file_name().unwrap_or(OsStr::new(program)).to_string_lossy().into_owned()
}

fn describe(error: NvmlError, library: &Path, what: &str, gpu: Option<(u32, Option<&DeviceUuid>)>) -> ProbeError {
    match (error, gpu) {
        (NvmlError::LibloadingError(error), _) => {
            ProbeError::LibraryMissing { library: library.to_owned(), reason: error.to_string() }
        }
        (NvmlError::FailedToLoadSymbol(text), _) => {
            ProbeError::SymbolMissing { library: library.to_owned(), function: missing_function(&text) }
        }
        (NvmlError::FunctionNotFound, _) => {
            ProbeError::SymbolMissing { library: library.to_owned(), function: format!("for {what}") }
        }
        (NvmlError::DriverNotLoaded, _) => ProbeError::DriverNotLoaded,
        (NvmlError::LibRmVersionMismatch, _) => ProbeError::VersionMismatch,
        (NvmlError::NoPermission | NvmlError::OperatingSystem, _) => ProbeError::NoPermission,
        (NvmlError::GpuLost, Some((index, uuid))) => ProbeError::Lost { index, uuid: uuid.cloned() },
        (error, _) => ProbeError::Driver { what: what.to_owned(), reason: error.to_string() },
    }
}

/// The name in `…/libnvidia-ml.so.1: undefined symbol: nvmlInit_v2`.
fn missing_function(text: &str) -> String {
    text.rsplit(": ").next().unwrap_or(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_words_are_cut_down_to_the_function() {
        assert_eq!(missing_function("/a/b.so: undefined symbol: nvmlInit_v2"), "nvmlInit_v2");
        assert_eq!(missing_function("nvmlInit_v2"), "nvmlInit_v2");
    }

    #[test]
    fn a_process_is_named_after_its_program() {
        assert_eq!(program_name("/usr/bin/python3 train.py --lr 1"), "python3");
        assert_eq!(program_name("Xorg"), "Xorg");
        assert_eq!(program_name(""), "");
    }

    #[track_caller]
    fn check(error: NvmlError, expected: &str) {
        let uuid = DeviceUuid("GPU-1".to_owned());
        let text = describe(error, Path::new("lib.so"), "memory of gpu 1", Some((1, Some(&uuid)))).to_string();
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn every_failure_is_told_apart() {
        check(NvmlError::DriverNotLoaded, "the NVIDIA driver is installed but not loaded; ");
        check(
            NvmlError::LibRmVersionMismatch,
            "the NVIDIA driver's library and kernel module are of different versions; ",
        );
        check(NvmlError::NoPermission, "no permission to ask the NVIDIA driver; ");
        check(NvmlError::GpuLost, "gpu 1 (GPU-1) is lost: ");
        check(NvmlError::FailedToLoadSymbol("x: y: f".to_owned()), "lib.so has no function f: ");
        check(NvmlError::Timeout, "memory of gpu 1: the NVIDIA driver answers: the provided timeout was reached; ");
    }
}
