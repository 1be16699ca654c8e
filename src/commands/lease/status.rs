//! `embed-collections lease status`: who holds what.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::LeaseCommandError;
use crate::exit;
use crate::lease::{Candidates, DeviceState, LeaseDirectory, Reach, State, plain, survey};

/// Writes each device that was ever leased to standard output.
pub(super) fn status(candidates: &Candidates, json: bool) -> Result<u8, LeaseCommandError> {
    let directory = LeaseDirectory::find(candidates)?;
    let devices = directory.as_ref().map_or_else(|| Ok(Vec::new()), survey)?;
    let text = if json {
        serde_json::to_string_pretty(&devices).map_err(|error| LeaseCommandError::Output(error.into()))? + "\n"
    } else {
        table(directory.as_ref(), &devices)
    };
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(exit::DONE),
        Err(error) => Err(LeaseCommandError::Output(error)),
        Ok(()) => Ok(exit::DONE),
    }
}

/// One line for each device, columns as wide as they must be.
fn table(directory: Option<&LeaseDirectory>, devices: &[DeviceState]) -> String {
    let Some(directory) = directory else { return "no device was leased yet\n".to_owned() };
    let scope = match directory.reach() {
        Reach::AllUsers => "",
        Reach::OneUser => " (this user's alone)",
    };
    let mut text = format!("leases in {}{scope}\n", directory.path().display());
    let header = ["DEVICE", "HOLDER", "SINCE", "MODEL", "EPOCH"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(devices.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    for [device, holder, since, model, epoch] in &rows {
        let [first, second, third, fourth] = widths;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{device:first$}  {holder:second$}  {since:third$}  {model:fourth$}  {epoch}");
    }
    text
}

fn row(device: &DeviceState) -> [String; 5] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let holder = device.holder.as_ref();
    // Who works with the device now.
    let user = device.inside.last().or(holder);
    let mut held_by = match (device.state, holder) {
        (State::Free, _) => "free".to_owned(),
        (State::Held, Some(holder)) => holder.to_string(),
        (State::Held, None) => "held, by whom is not written".to_owned(),
        (State::Unknown, _) => format!("unknown: {}", device.error.as_deref().unwrap_or("no reason")),
    };
    for inner in &device.inside {
        let _ = write!(held_by, "; in it {inner}");
    }
    [
        device.device.to_string(),
        held_by,
        or_dash(holder.map(|holder| plain(&holder.since))),
        or_dash(user.and_then(|user| user.model.as_deref()).map(plain)),
        or_dash(device.epoch.map(|epoch| epoch.to_string())),
    ]
}
