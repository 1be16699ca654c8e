//! Who this process is, for people who want to know who holds a device.

use std::fs;

/// A process as others can find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) start_ticks: Option<u64>,
    pub(super) host: String,
    pub(super) user: String,
}

impl Process {
    pub(super) fn this() -> Self {
        let pid = std::process::id();
        let uid = || format!("uid {}", rustix::process::geteuid().as_raw());
        let user = whoami::username().ok().filter(|name| !name.is_empty()).unwrap_or_else(uid);
        Self { pid, start_ticks: start_ticks(pid), host: host(), user }
    }
}

/// The name of this machine, or of this container.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// When a process began, in clock ticks since the machine started: with it, a process can be told from a later one
/// with the same number. `None` where there is no such process, and outside Linux.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    start_ticks_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `proc_pid_stat(5)`. Field 2, the name, may itself hold blanks and brackets, so count from its end.
fn start_ticks_in(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_behind_any_name() {
        let stat = "311 (a) b (c) S 1 311 311 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 22 23";
        assert_eq!(start_ticks_in(stat), Some(987_654));
        assert_eq!(start_ticks_in("311 (cut off"), None);
    }

    #[test]
    fn this_process_has_a_start_and_an_impossible_one_has_none() {
        let this = Process::this();
        assert!(this.start_ticks.is_some() && !this.host.is_empty() && !this.user.is_empty(), "{this:?}");
        assert_eq!(start_ticks(u32::MAX), None);
    }
}
