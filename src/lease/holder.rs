//! What a lock file says about its holder, for people.
//!
//! The lock decides; this text only explains. It is the first line of the file, a JSON object. Only who holds the lock
//! writes it, and it is read at any time: a reader may see an old one, half of one or garbage, and nothing may depend
//! on it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::process::{self, Process};

/// Far more than a holder says; a larger file is not ours.
const MOST_BYTES: u64 = 1 << 20;

/// Longest name that is shown.
const SHOWN_CHARACTERS: usize = 80;

/// Who asks for devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requester {
    /// Name of the run.
    pub run: String,
    /// The model for which the devices are taken.
    pub model: Option<String>,
}

/// Who took a device, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Name of the run.
    pub run: String,
    /// The process that uses the device.
    pub pid: u32,
    /// When that process began, in clock ticks since the machine started.
    #[serde(default)]
    pub pid_start_ticks: Option<u64>,
    /// The machine or container.
    pub host: String,
    /// The user.
    pub user: String,
    /// The model that runs on the device, if it is known.
    #[serde(default)]
    pub model: Option<String>,
    /// When the device was taken: UTC, as in RFC 3339.
    pub since: String,
    /// How often the device has been taken since its lock file was made (or damaged).
    pub epoch: u64,
}

impl Holder {
    pub(super) fn new(requester: &Requester, process: &Process, epoch: u64) -> Self {
        Self {
            run: requester.run.clone(),
            pid: process.pid,
            pid_start_ticks: process.start_ticks,
            host: process.host.clone(),
            user: process.user.clone(),
            model: requester.model.clone(),
            since: humantime::format_rfc3339_seconds(now()).to_string(),
            epoch,
        }
    }

    /// Reads the first line of a lock file's content.
    pub fn parse(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content.split(|byte| *byte == b'\n').next()?).ok()
    }

    /// As it stands in the lock file.
    pub fn to_line(&self) -> String {
        // Plain data with text keys always serialises; an empty line would be read as "unknown".
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Whether the process named here has ended. While the device is still held, that means that a process which it
    /// started holds it.
    pub fn has_ended(&self) -> bool {
        self.host == process::host()
            && self.pid_start_ticks.is_some()
            && process::start_ticks(self.pid) != self.pid_start_ticks
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "run {} (pid {}", plain(&self.run), self.pid)?;
        if self.has_ended() {
            formatter.write_str(", ended, but a process that it started goes on")?;
        }
        write!(formatter, ") of user {}", plain(&self.user))?;
        if self.host != process::host() {
            write!(formatter, " on {}", plain(&self.host))?;
        }
        Ok(())
    }
}

/// The time of day. Before 1970, where a clock without a battery may stand, there is no date to write.
fn now() -> SystemTime {
    SystemTime::now().max(SystemTime::UNIX_EPOCH)
}

/// What the lock file says, if it can be read.
pub(super) fn read(mut file: &File) -> Option<Holder> {
    let mut content = Vec::new();
    file.rewind().ok()?;
    file.take(MOST_BYTES).read_to_end(&mut content).ok()?;
    Holder::parse(&content)
}

/// Replaces what the lock file says. Only for who holds the lock.
///
/// The new line is written over the old one before the rest is cut off, so that a reader never finds an empty file.
pub(super) fn write(file: &File, holder: &Holder) -> io::Result<()> {
    let line = holder.to_line();
    file.write_all_at(line.as_bytes(), 0)?;
    file.set_len(line.len() as u64)
}

/// Text of another user, made safe for a terminal: no control characters, and not endless.
pub fn plain(text: &str) -> String {
    let shown = text.chars().take(SHOWN_CHARACTERS);
    let mut plain: String = shown.map(|character| if character.is_control() { '?' } else { character }).collect();
    if text.chars().nth(SHOWN_CHARACTERS).is_some() {
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(run: &str) -> Holder {
        Holder {
            run: run.to_owned(),
            pid: 311,
            pid_start_ticks: None,
            host: process::host(),
            user: "x".to_owned(),
            model: Some("bge-m3".to_owned()),
            since: "2026-11-21T10:02:13Z".to_owned(),
            epoch: 7,
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(content: Vec<u8>) {
            let _ = Holder::parse(&content);
        }

        #[test]
        fn what_is_written_is_read_back(
            run: String, pid: u32, pid_start_ticks: Option<u64>, host: String, user: String, model: Option<String>,
            epoch: u64, behind: Vec<u8>,
        ) {
            let written = Holder { run, pid, pid_start_ticks, host, user, model, epoch, ..holder("") };
            let line = written.to_line();
            prop_assert_eq!(line.matches('\n').count(), 1);
            // The end of a longer line that was there before.
            let content = [line.as_bytes(), &behind].concat();
            prop_assert_eq!(Holder::parse(&content), Some(written));
        }

        #[test]
        fn a_line_that_was_cut_off_is_no_holder(cut in 0_usize..100) {
            let line = holder("42").to_line();
            prop_assert_eq!(Holder::parse(&line.as_bytes()[..cut.min(line.len() - 2)]), None);
        }

        #[test]
        fn nothing_reaches_the_terminal_but_text(run: String) {
            let shown = holder(&run).to_string();
            prop_assert!(!shown.chars().any(char::is_control), "{:?}", shown);
        }
    }

    #[test]
    fn a_shorter_line_replaces_a_longer_one() {
        let file = tempfile::tempfile().unwrap();
        write(&file, &holder(&"long".repeat(3000))).unwrap();
        assert_eq!(read(&file).unwrap().run.len(), 12_000);
        write(&file, &holder("short")).unwrap();
        assert_eq!(read(&file), Some(holder("short")));
        assert_eq!(file.metadata().unwrap().len(), holder("short").to_line().len() as u64);
    }

    #[test]
    fn a_holder_is_described_in_words() {
        assert_eq!(holder("42").to_string(), "run 42 (pid 311) of user x");
        let elsewhere = Holder { host: "another".to_owned(), ..holder("\u{1b}[2J") };
        assert_eq!(elsewhere.to_string(), "run ?[2J (pid 311) of user x on another");
        let ended = Holder { pid: u32::MAX, pid_start_ticks: Some(1), ..holder("42") };
        assert!(ended.to_string().contains("ended"), "{ended}");
    }
}
