//! What holds a pass up, from where its time went.

use serde::Serialize;

use crate::telemetry::event::StageSeconds;

/// The stage that everything waits for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bottleneck {
    /// `read`, `tokenize`, `forward` or `write`.
    pub stage: &'static str,
    /// Part of their time that the encoders had nothing to do.
    pub encoders_idle: f64,
    /// Part of the time of encoders and tokenisers that tokenising took. They share the processor's cores: this is what
    /// it costs even where no encoder waits for it.
    pub tokenizing: f64,
    /// What would help.
    pub hint: &'static str,
}

/// Encoders that are idle for less of their time are what everything waits for: the rest is the beginning and the end.
const IDLE: f64 = 0.2;

impl Bottleneck {
    /// Of a pass with so many encoder threads, and as many that tokenise.
    pub(super) fn of(seconds: StageSeconds, threads: usize) -> Self {
        let StageSeconds { read, tokenize, forward, write, wait } = seconds;
        let part = |part: f64, rest: f64| if part + rest > 0.0 { part / (part + rest) } else { 0.0 };
        let (encoders_idle, tokenizing) = (part(wait, forward), part(tokenize, forward));
        // One thread reads and one writes.
        let (stage, _) = [("read", read), ("tokenize", tokenize / threads.max(1) as f64), ("write", write)]
            .into_iter()
            .max_by(|one, other| one.1.total_cmp(&other.1))
            .filter(|_| encoders_idle > IDLE)
            .unwrap_or(("forward", forward));
        let hint = match stage {
            "read" => "reading holds the model up: a faster disk, or input that is not compressed",
            "tokenize" => "tokenising holds the model up: more cores (--threads), or a shorter --max-length",
            "write" => "writing holds the model up: --format arrow or npy, or a faster disk",
            _ => "the model takes the time: more --threads or devices, a shorter --max-length, or a smaller model",
        };
        Self { stage, encoders_idle, tokenizing, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(read: f64, tokenize: f64, forward: f64, write: f64, wait: f64, expected: &str) {
        let found = Bottleneck::of(StageSeconds { read, tokenize, forward, write, wait }, 4);
        assert_eq!(found.stage, expected, "{found:?}");
    }

    #[test]
    fn the_stage_that_the_encoders_wait_for_is_named() {
        check(1.0, 9.0, 40.0, 3.0, 1.0, "forward");
        check(9.0, 9.0, 10.0, 3.0, 30.0, "read");
        check(1.0, 36.0, 10.0, 3.0, 30.0, "tokenize");
        check(1.0, 9.0, 10.0, 9.0, 30.0, "write");
        check(0.0, 0.0, 0.0, 0.0, 0.0, "forward");
    }

    #[test]
    fn what_tokenising_takes_from_the_encoders_is_told() {
        let seconds = StageSeconds { read: 1.0, tokenize: 2.0, forward: 6.0, write: 1.0, wait: 0.5 };
        assert!((Bottleneck::of(seconds, 2).tokenizing - 0.25).abs() < 1e-9);
    }
}
