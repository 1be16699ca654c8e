//! What ends a run early: signals and the time limit.

use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::Seconds;
use crate::exit;
use crate::pipeline::StopSwitch;
use crate::telemetry::event::{Event, Observer, StopCause};

/// Ends the listeners when it is dropped.
pub(super) struct Listening<'scope> {
    signals: Option<(signal_hook::iterator::Handle, ScopedJoinHandle<'scope, ()>)>,
    timer: Option<(Sender<()>, ScopedJoinHandle<'scope, ()>)>,
}

/// Throws the switch at the first signal or when the time is over, and ends the process at the second signal.
pub(super) fn listen<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stop: &'scope StopSwitch,
    limit: Option<Seconds>,
    observer: &'scope dyn Observer,
) -> Listening<'scope> {
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).ok().map(|mut signals| {
        let handle = signals.handle();
        let thread = scope.spawn(move || {
            for signal in &mut signals {
                let (cause, exit_code) = match signal {
                    SIGINT => (StopCause::Interrupt, exit::INTERRUPTED),
                    _ => (StopCause::Terminate, exit::TERMINATED),
                };
                if stop.cause().is_some() {
                    // What is committed is safe at any instant, so there is nothing to wait for.
                    std::process::exit(i32::from(exit_code));
                }
                stop.stop(cause);
                observer.observe(&Event::Stopping { cause });
            }
        });
        (handle, thread)
    });
    let timer = limit.map(|Seconds(limit)| {
        let (end, ended) = bounded::<()>(0);
        let deadline = Instant::now().checked_add(limit);
        let thread = scope.spawn(move || {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(left) {
                stop.stop(StopCause::TimeLimit);
                observer.observe(&Event::Stopping { cause: StopCause::TimeLimit });
            }
        });
        (end, thread)
    });
    Listening { signals, timer }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        if let Some((handle, thread)) = self.signals.take() {
            handle.close();
            let _ = thread.join();
        }
        if let Some((end, thread)) = self.timer.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}
