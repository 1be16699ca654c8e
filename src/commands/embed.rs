//! `embed-collections` without a sub-command: embeds collections with one model or several.

use std::io::Write;

use super::signals;
use crate::config::Resolved;
use crate::embedder::{EmbedError, Embedder};
use crate::pipeline::StopSwitch;
use crate::telemetry::event::Observers;
use crate::telemetry::{Log, Plain, Progress};

/// Embeds what the settings ask for, and says on `out` what came of it; returns the exit code.
///
/// # Errors
/// [`EmbedError`], which knows its exit code.
pub fn embed(resolved: Resolved, progress: &Progress, out: &mut dyn Write) -> Result<u8, EmbedError> {
    let output_dir = resolved.settings.output_dir.clone();
    let share = resolved.settings.share();
    signals::survive_file_size_limit();
    let embedder = Embedder::new(resolved)?;
    let (stop, log) = (StopSwitch::default(), Log::default());
    let finished = std::thread::scope(|scope| {
        let _listening = signals::listen(scope, &stop);
        embedder.run(&stop, &Observers(vec![progress, &log]))
    })?;
    for line in finished.summary.closing_lines(&output_dir) {
        // A reader that has gone away does not change the result.
        drop(writeln!(out, "{}", Plain(&line)));
    }
    if let Some(share) = share {
        let state = if finished.complete { "complete" } else { "not complete yet" };
        drop(writeln!(
            out,
            "share {share} is {state}; when all {} are, run: embed-collections merge {}",
            share.of(),
            output_dir.display()
        ));
    }
    Ok(finished.exit_code)
}
