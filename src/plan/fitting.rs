//! On which devices the models of a group fit together, and how large their batches may be there.

use super::budget::{DeviceMemory, Fit, FitRequest, MemoryKind, Rules, fit};
use super::refusal::{Refusal, Refusals};
use crate::model::Footprint;

/// What a model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its name.
    pub model: String,
    /// Longest text, in tokens.
    pub max_length: usize,
    /// Most tokens in a batch.
    pub batch_tokens: usize,
    /// Most sequences in a batch, if the user asked for that.
    pub batch_size: Option<usize>,
    /// Memory that it takes.
    pub footprints: Footprints,
}

/// A model's memory by the kind of device: the dtypes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprints {
    /// On the CPU.
    pub cpu: Footprint,
    /// On a GPU.
    pub gpu: Footprint,
}

impl Footprints {
    fn on(&self, kind: MemoryKind) -> &Footprint {
        match kind {
            MemoryKind::Host => &self.cpu,
            MemoryKind::Gpu => &self.gpu,
        }
    }
}

/// A device as planning sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// As in `--devices`.
    pub label: String,
    /// Encoder threads.
    pub threads: usize,
    /// Its memory now. Slots of the CPU share theirs.
    pub memory: DeviceMemory,
}

/// Where a model runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Index of the model.
    pub model: usize,
    /// Best first.
    pub sites: Vec<Site>,
    /// Most sequences in its batches.
    pub sequences: usize,
}

/// A device of a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// By index.
    Device(usize),
    /// The CPU instead of the GPUs, with all of its threads.
    CpuInstead {
        /// Encoder threads.
        threads: usize,
    },
}

/// Where the models of a group run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitting {
    /// One a model, all on the same devices.
    pub placements: Vec<Placement>,
    /// The devices that are left out.
    pub refusals: Refusals,
}

/// Places models on those devices on which all of them fit together; if there is none, on the CPU.
///
/// # Errors
/// The refusals of all devices.
pub fn fit_models(needs: &[Need], devices: &[Device], cpu: DeviceMemory, rules: Rules) -> Result<Fitting, Refusals> {
    let has_gpus = devices.iter().any(Device::is_gpu);
    let (mut used, mut refusals): (Vec<(Site, Vec<Fit>)>, Vec<Refusal>) = (Vec::new(), Vec::new());
    for (index, device) in devices.iter().enumerate().filter(|_| has_gpus) {
        let fits = fits(needs, device.memory, 1, rules);
        match Refusal::new(needs, device, &fits) {
            None => used.push((Site::Device(index), fits)),
            Some(refusal) => refusals.push(refusal),
        }
    }
    if used.is_empty() {
        let cpu = processor(devices, cpu);
        let fits = fits(needs, cpu.memory, cpu.threads, rules);
        if let Some(refusal) = Refusal::new(needs, &cpu, &fits) {
            refusals.push(refusal);
            return Err(Refusals(refusals));
        }
        if has_gpus {
            used.push((Site::CpuInstead { threads: cpu.threads }, fits));
        } else {
            used.extend((0..devices.len()).map(|index| (Site::Device(index), fits.clone())));
        }
    }
    let placement = |(model, need): (usize, &Need)| {
        let planned = used.iter().map(|(_, fits)| fits[model].batch_size).min().unwrap_or(1);
        let sites = used.iter().map(|(site, _)| *site).collect();
        Placement { model, sites, sequences: need.batch_size.unwrap_or(planned) }
    };
    let placements = needs.iter().enumerate().map(placement).collect();
    Ok(Fitting { placements, refusals: Refusals(refusals) })
}

/// What models need on each GPU, or on the CPU if there is no GPU: one [`Fit`] a model.
pub fn estimate(needs: &[Need], devices: &[Device], cpu: DeviceMemory, rules: Rules) -> Vec<(Device, Vec<Fit>)> {
    let gpus: Vec<&Device> = devices.iter().filter(|device| device.is_gpu()).collect();
    if gpus.is_empty() {
        let cpu = processor(devices, cpu);
        let fits = fits(needs, cpu.memory, cpu.threads, rules);
        return vec![(cpu, fits)];
    }
    gpus.into_iter().map(|gpu| (gpu.clone(), fits(needs, gpu.memory, 1, rules))).collect()
}

/// Whether all models fit on each device at the same time.
pub fn all_fit(needs: &[Need], devices: &[Device], rules: Rules) -> bool {
    let all_threads = devices.iter().map(|device| device.threads).sum();
    devices.iter().all(|device| {
        let workers = if device.is_gpu() { 1 } else { all_threads };
        fits(needs, device.memory, workers, rules).iter().all(|fit| fit.fits)
    })
}

impl Device {
    fn is_gpu(&self) -> bool {
        self.memory.kind == MemoryKind::Gpu
    }
}

/// The whole CPU.
fn processor(devices: &[Device], memory: DeviceMemory) -> Device {
    Device { label: "cpu".to_owned(), threads: devices.iter().map(|device| device.threads).sum(), memory }
}

fn fits(needs: &[Need], memory: DeviceMemory, workers: usize, rules: Rules) -> Vec<Fit> {
    let footprints: Vec<&Footprint> = needs.iter().map(|need| need.footprints.on(memory.kind)).collect();
    let one = |(model, need): (usize, &Need)| {
        let mut others = footprints.clone();
        let footprint = others.remove(model);
        let Need { max_length, batch_tokens, .. } = *need;
        let request = FitRequest { max_length, batch_tokens, workers, residents: needs.len() };
        fit(footprint, &others, request, memory, rules)
    };
    needs.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Bytes;
    use crate::plan::Remedy;

    const GIB: u64 = 1 << 30;

    fn need(model: &str, weights_gib: u64) -> Need {
        let cpu = Footprint { weights: Bytes(weights_gib * GIB), token_bytes: 1 << 20, hidden_bytes: 0, pair_bytes: 0 };
        let footprints = Footprints { cpu, gpu: cpu };
        Need { model: model.to_owned(), max_length: 100, batch_tokens: 1000, batch_size: None, footprints }
    }

    fn memory(kind: MemoryKind, total_gib: u64, used_gib: u64) -> DeviceMemory {
        DeviceMemory { kind, total: Some(Bytes(total_gib * GIB)), used: Some(Bytes(used_gib * GIB)) }
    }

    fn gpu(label: &str, used_gib: u64) -> Device {
        Device { label: label.to_owned(), threads: 2, memory: memory(MemoryKind::Gpu, 20, used_gib) }
    }

    const RULES: Rules = Rules { soft_limit_gb: None, buffer: Bytes(0) };

    #[track_caller]
    fn check(used_gib: [u64; 2], cpu_gib: u64, sites: Option<&[Site]>, refused: &[&str]) {
        let devices = [gpu("cuda:0", used_gib[0]), gpu("cuda:1", used_gib[1])];
        let fitting = fit_models(&[need("a", 6)], &devices, memory(MemoryKind::Host, cpu_gib, 0), RULES);
        let (found, refusals) = match fitting {
            Ok(fitting) => (Some(fitting.placements[0].sites.clone()), fitting.refusals),
            Err(refusals) => (None, refusals),
        };
        assert_eq!(found.as_deref(), sites);
        assert_eq!(refusals.0.iter().map(|refusal| refusal.device.as_str()).collect::<Vec<_>>(), refused);
    }

    #[test]
    fn devices_without_room_are_left_out_and_the_cpu_comes_last() {
        check([0, 0], 64, Some(&[Site::Device(0), Site::Device(1)]), &[]);
        check([15, 0], 64, Some(&[Site::Device(1)]), &["cuda:0"]);
        check([15, 15], 64, Some(&[Site::CpuInstead { threads: 4 }]), &["cuda:0", "cuda:1"]);
        check([15, 15], 4, None, &["cuda:0", "cuda:1", "cpu"]);
    }

    #[test]
    fn a_refusal_is_a_sentence_and_json() {
        let refused = |needs: &[Need]| fit_models(needs, &[], memory(MemoryKind::Host, 4, 1), RULES).unwrap_err();
        let refusals = refused(&[need("a", 6)]);
        assert_eq!(
            refusals.to_string(),
            "a does not fit on cpu: 6.0 GiB of weights, 100 MiB for a text of 100 tokens and 256 MiB besides would \
             come to 1.0 GiB that are used of 4.0 GiB, of which 3.4 GiB may be planned with (85 % or a lower limit); \
             free memory, or give a shorter --max-length"
        );
        let json = serde_json::to_value(&refusals).unwrap();
        assert_eq!((&json[0]["weights_bytes"], &json[0]["remedy"]), (&(6 * GIB).into(), &"free_memory".into()));
        assert_eq!(refused(&[need("a", 6), need("b", 1)]).0[0].remedy, Remedy::TakeTurns);
    }
}
