//! Signals that end a run early.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{Scope, ScopedJoinHandle};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::{Handle, Signals};

use crate::exit;
use crate::pipeline::StopSwitch;
use crate::telemetry::event::StopCause;

/// From now on a write beyond the limit on the size of files (`ulimit -f`) is an error like any other, instead of a signal
/// that ends the process without a word.
pub(super) fn survive_file_size_limit() {
    // Where it cannot be had, the process ends as it would have; what is committed is safe.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Ends the listener when it is dropped.
pub(super) struct Listening<'scope>(Option<(Handle, ScopedJoinHandle<'scope, ()>)>);

/// Throws the switch at the first signal, and ends the process at the second.
pub(super) fn listen<'scope>(scope: &'scope Scope<'scope, '_>, stop: &'scope StopSwitch) -> Listening<'scope> {
    Listening(Signals::new([SIGINT, SIGTERM, SIGHUP]).ok().map(|mut signals| {
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
            }
        });
        (handle, thread)
    }))
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        if let Some((handle, thread)) = self.0.take() {
            handle.close();
            let _ = thread.join();
        }
    }
}
