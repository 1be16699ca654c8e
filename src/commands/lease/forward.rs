//! Hands signals on to a command, so that ending the wrapper ends what it wraps.

use std::io;
use std::process::{Child, ExitStatus};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;

/// Signals that are meant for the command.
const FORWARDED: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];

/// `si_code` of a signal that the kernel itself sends (`sigaction(2)`). Ctrl-C at a terminal is one: the command is in
/// the same process group and has it already, and two of them may mean "at once" to it.
const FROM_KERNEL: i32 = 0x80;

/// Receives signals from now on.
pub(super) struct Forwarder {
    signals: SignalsInfo<WithRawSiginfo>,
}

impl Forwarder {
    pub(super) fn new() -> io::Result<Self> {
        // What this process ignores (nohup, or a background job of a script) the command is to ignore as well: a
        // handler here would become the default action there.
        let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_in(&status));
        let heeded = FORWARDED.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
        Ok(Self { signals: SignalsInfo::new(heeded)? })
    }

    /// Waits for the end of the command, handing on what comes meanwhile.
    pub(super) fn wait(mut self, child: &mut Child) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(child);
        let handle = self.signals.handle();
        let ended = thread::scope(|scope| {
            scope.spawn(|| {
                for information in &mut self.signals {
                    let signal = Signal::from_named_raw(information.si_signo);
                    if let Some(signal) = signal.filter(|_| information.si_code != FROM_KERNEL) {
                        // It fails if the command has just ended; then there is nothing to do.
                        let _ = kill_process(pid, signal);
                    }
                }
            });
            let ended = wait_without_reaping(pid);
            handle.close();
            ended
        });
        // Only now, when nobody sends signals any more, may the number of the process go to another one.
        ended?;
        child.wait()
    }
}

fn wait_without_reaping(pid: Pid) -> Result<(), Errno> {
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(Errno::INTR) => {}
            outcome => return outcome.map(drop),
        }
    }
}

/// The mask of ignored signals in `proc_pid_status(5)`.
fn ignored_in(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status_of_the_process() {
        assert_eq!(ignored_in("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n"), 0x1001);
        assert_eq!(ignored_in("Name:\tx\n"), 0);
    }
}
