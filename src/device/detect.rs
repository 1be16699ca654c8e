//! What this machine has to encode with.

use std::path::Path;

use super::visible::{CudaOrder, Visible, visible};
use super::{CpuProbe, DeviceInfo, DeviceKind, DeviceUuid, NvmlProbe, Probe, ProbeError, Snapshot};

/// What detection has to know.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// The driver's library, where it is not in its place.
    pub nvml_library: Option<&'a Path>,
    /// `CUDA_VISIBLE_DEVICES`, if it is set.
    pub cuda_visible_devices: Option<&'a str>,
    /// `CUDA_DEVICE_ORDER`, if it is set.
    pub cuda_device_order: Option<&'a str>,
    /// Leave the driver of GPUs alone.
    pub only_cpu: bool,
}

/// Versions of the driver of NVIDIA's GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions {
    /// The driver.
    pub driver: Option<String>,
    /// The newest CUDA that it can serve.
    pub cuda: Option<String>,
}

/// The devices of this machine; also the [`Probe`] that looks at them.
pub struct Detection {
    devices: Vec<DeviceInfo>,
    hidden: Vec<DeviceInfo>,
    visible: Visible,
    nvml: Result<NvmlProbe, ProbeError>,
    cpu: CpuProbe,
}

/// Looks for devices. That there is none but the processor is no error.
pub fn detect(request: &Request) -> Detection {
    let nvml = if request.only_cpu { Err(ProbeError::NotAsked) } else { NvmlProbe::open(request.nvml_library) };
    let cpu = CpuProbe::new(Path::new("/"));
    let gpus = nvml.as_ref().map_or(&[][..], |probe| probe.devices());
    let order = CudaOrder::read(request.cuda_device_order);
    let visible = visible(request.cuda_visible_devices, order, gpus);
    let (mut devices, hidden) = numbered(gpus, &visible);
    devices.extend(metal().filter(|_| !request.only_cpu));
    devices.extend_from_slice(cpu.devices());
    Detection { devices, hidden, visible, nvml, cpu }
}

impl Detection {
    /// GPUs that `CUDA_VISIBLE_DEVICES` hides, numbered as the driver does.
    pub fn hidden(&self) -> &[DeviceInfo] {
        &self.hidden
    }

    /// What `CUDA_VISIBLE_DEVICES` shows.
    pub fn visible(&self) -> &Visible {
        &self.visible
    }

    /// Versions of the driver.
    ///
    /// # Errors
    /// Why the driver cannot be asked.
    pub fn driver(&self) -> Result<Versions, &ProbeError> {
        self.nvml.as_ref().map(|probe| Versions { driver: probe.driver(), cuda: probe.cuda() })
    }

    /// GPUs that did not answer.
    pub fn faults(&self) -> &[ProbeError] {
        self.nvml.as_ref().map_or(&[], NvmlProbe::faults)
    }
}

impl Probe for Detection {
    /// Best first: CUDA as CUDA numbers them, Metal, the processor.
    fn devices(&self) -> &[DeviceInfo] {
        &self.devices
    }

    fn snapshot(&self, device: &DeviceUuid) -> Result<Snapshot, ProbeError> {
        let known = self.devices.iter().chain(&self.hidden).find(|known| known.uuid == *device);
        match known.map(|known| known.kind) {
            Some(DeviceKind::Cpu) => self.cpu.snapshot(device),
            Some(DeviceKind::Cuda) => self.nvml.as_ref().map_err(Clone::clone)?.snapshot(device),
            Some(DeviceKind::Metal) => Err(ProbeError::Unsupported { uuid: device.clone() }),
            None => Err(ProbeError::Unknown { uuid: device.clone() }),
        }
    }
}

/// Visible GPUs with CUDA's numbers, and the others with the driver's.
fn numbered(gpus: &[DeviceInfo], visible: &Visible) -> (Vec<DeviceInfo>, Vec<DeviceInfo>) {
    let shown = (0..)
        .zip(&visible.devices)
        .filter_map(|(index, uuid)| Some(DeviceInfo { index, ..gpus.iter().find(|gpu| gpu.uuid == *uuid)?.clone() }))
        .collect();
    let hidden = gpus.iter().filter(|gpu| !visible.devices.contains(&gpu.uuid)).cloned().collect();
    (shown, hidden)
}

/// Every processor of Apple's own has a GPU.
fn metal() -> Option<DeviceInfo> {
    cfg!(all(target_os = "macos", target_arch = "aarch64")).then(|| DeviceInfo {
        kind: DeviceKind::Metal,
        index: 0,
        uuid: DeviceUuid("metal".to_owned()),
        name: "Apple GPU".to_owned(),
        total: None,
        compute_capability: None,
        mig: None,
    })
}
