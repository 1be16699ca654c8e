//! The list of devices, for people and for programs.

use std::io::{self, Write};

use serde::Serialize;

use super::visibility_notes;
use crate::device::{
    Choice, Chosen, Detection, DeviceInfo, DeviceKind, ENCODERS, Level, Probe, Process, Snapshot, Thresholds, cores,
};
use crate::domain::Bytes;
use crate::embedder::unused_devices;

/// What `devices --json` writes.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    driver: Option<String>,
    cuda: Option<String>,
    /// Why the driver cannot be asked.
    driver_error: Option<String>,
    /// Kinds of device that this build can encode on.
    encoders: &'static [DeviceKind],
    /// Cores that this process may use.
    cores: usize,
    /// What will be used; `None` if what is asked for cannot be.
    chosen: Option<Vec<ChosenDevice>>,
    devices: Vec<Entry>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ChosenDevice {
    device: String,
    cores: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Entry {
    /// As in `--devices`; `None` for a GPU that `CUDA_VISIBLE_DEVICES` hides.
    device: Option<String>,
    #[serde(flatten)]
    info: DeviceInfo,
    level: Option<Level>,
    snapshot: Option<Snapshot>,
    error: Option<String>,
}

impl Report {
    /// Looks at every device.
    pub(super) fn new(detection: &Detection, choice: Option<&Choice>, thresholds: Thresholds) -> Self {
        let versions = detection.driver();
        let seen = detection.devices().iter().map(|info| Entry::look(detection, info, Some(info.label()), thresholds));
        let hidden = detection.hidden().iter().map(|info| Entry::look(detection, info, None, thresholds));
        let mut notes = visibility_notes(detection);
        notes.extend(detection.faults().iter().map(ToString::to_string));
        notes.extend(choice.and_then(|choice| unused_devices(&choice.unused_devices)));
        Self {
            driver: versions.as_ref().ok().and_then(|versions| versions.driver.clone()),
            cuda: versions.as_ref().ok().and_then(|versions| versions.cuda.clone()),
            driver_error: versions.err().map(ToString::to_string),
            encoders: ENCODERS,
            cores: cores(),
            chosen: choice.map(chosen),
            devices: seen.chain(hidden).collect(),
            notes,
        }
    }

    /// Writes one JSON object.
    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    /// Writes a table, the processes on each device, and what is to be known.
    pub(super) fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut rows = vec![["device", "name", "memory", "used", "free", "level", "cc", "uuid"].map(str::to_owned)];
        rows.extend(self.devices.iter().map(Entry::row));
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for row in &rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
            writeln!(out, "{}", cells.join("  ").trim_end())?;
        }
        for entry in &self.devices {
            let processes = entry.snapshot.iter().filter_map(|snapshot| snapshot.processes.as_ref()).flatten();
            for process in processes {
                writeln!(out, "process {} on {}", describe(process), entry.label())?;
            }
            if let Some(error) = &entry.error {
                writeln!(out, "{}: {error}", entry.label())?;
            }
        }
        match (&self.driver, &self.driver_error) {
            (_, Some(error)) => writeln!(out, "no NVIDIA driver: {error}")?,
            (driver, None) => writeln!(
                out,
                "NVIDIA driver {}, CUDA up to {}",
                or_unknown(driver.as_deref()),
                or_unknown(self.cuda.as_deref())
            )?,
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
        if let Some(chosen) = &self.chosen {
            let chosen: Vec<String> = chosen.iter().map(ChosenDevice::describe).collect();
            writeln!(out, "embedding uses {}", chosen.join(", "))?;
        }
        Ok(())
    }
}

impl Entry {
    fn look(detection: &Detection, info: &DeviceInfo, device: Option<String>, thresholds: Thresholds) -> Self {
        let outcome = detection.snapshot(&info.uuid);
        let error = outcome.as_ref().err().map(ToString::to_string);
        let snapshot = outcome.ok();
        let utilisation = snapshot.as_ref().and_then(Snapshot::utilisation);
        let level = utilisation.map(|utilisation| thresholds.level(utilisation));
        Self { device, info: info.clone(), level, snapshot, error }
    }

    fn label(&self) -> String {
        self.device.clone().unwrap_or_else(|| format!("gpu {} (hidden)", self.info.index))
    }

    fn row(&self) -> [String; 8] {
        let amount = |amount: Option<Bytes>| amount.map_or("?".to_owned(), |bytes| bytes.to_string());
        let snapshot = self.snapshot.as_ref();
        let mig = if self.info.mig == Some(true) { " (MIG)" } else { "" };
        [
            self.device.clone().unwrap_or_else(|| "hidden".to_owned()),
            format!("{}{mig}", self.info.name),
            amount(snapshot.and_then(|snapshot| snapshot.total).or(self.info.total)),
            amount(snapshot.and_then(|snapshot| snapshot.used)),
            amount(snapshot.and_then(|snapshot| snapshot.free)),
            self.level.map_or("?", Level::as_str).to_owned(),
            self.info.compute_capability.map_or("-".to_owned(), |capability| capability.to_string()),
            self.info.uuid.to_string(),
        ]
    }
}

impl ChosenDevice {
    fn describe(&self) -> String {
        match self.cores {
            Some(1) => format!("{} (1 core)", self.device),
            Some(cores) => format!("{} ({cores} cores)", self.device),
            None => self.device.clone(),
        }
    }
}

fn chosen(choice: &Choice) -> Vec<ChosenDevice> {
    let cores: Vec<Option<usize>> = match &choice.chosen {
        Chosen::Gpus(gpus) => gpus.iter().map(|_| None).collect(),
        Chosen::Cpu(slots) => slots.iter().map(|slot| Some(slot.cores)).collect(),
    };
    choice.labels().into_iter().zip(cores).map(|(device, cores)| ChosenDevice { device, cores }).collect()
}

/// `4711 (python3, 3.2 GiB)`
pub(in crate::commands) fn describe(process: &Process) -> String {
    let name = or_unknown(process.name.as_deref());
    let used = process.used.map_or("memory unknown".to_owned(), |used| used.to_string());
    format!("{} ({name}, {used})", process.pid)
}

fn or_unknown(text: Option<&str>) -> &str {
    text.unwrap_or("?")
}
