//! Whether to ask once more, and when.

use std::time::{Duration, SystemTime};

use super::answer::Answer;

/// Attempts to ask a question. Of a hub that cannot be reached the third one fails within a minute.
pub(super) const TO_ASK: u32 = 3;
/// Attempts to get on with a file, counted from the last byte that came.
pub(super) const TO_FETCH: u32 = 5;
/// Before the second attempt; it doubles with each one.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// Before the next attempt where the hub says that there were too many, and not how long to wait.
const UNASKED_DELAY: Duration = Duration::from_secs(5);
/// Whoever is to wait for longer is told so and decides.
const LONGEST_DELAY: Duration = Duration::from_mins(10);

/// How many more attempts there are, and how long to wait before the next one.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    attempts: u32,
    failed: u32,
}

impl Patience {
    pub(super) fn new(attempts: u32) -> Self {
        Self { attempts, failed: 0 }
    }

    /// Something has come; what failed before does not count any more.
    pub(super) fn renew(&mut self) {
        self.failed = 0;
    }

    /// The time to wait before asking again; none if that is of no use, or there have been enough attempts.
    pub(super) fn after(&mut self, answer: &Answer) -> Option<Duration> {
        self.failed += 1;
        if self.failed >= self.attempts || !answer.may_change() {
            return None;
        }
        let doubled = FIRST_DELAY * 2_u32.saturating_pow(self.failed - 1);
        let delay = match answer {
            Answer::Status { wait: Some(asked), .. } => *asked,
            Answer::Status { status: 429, .. } => UNASKED_DELAY.max(doubled),
            _ => doubled,
        };
        (delay <= LONGEST_DELAY).then_some(delay)
    }
}

/// The time that an answer asks to wait for: `Retry-After`, in seconds or as a date, or `t=` of the hub's `RateLimit`.
pub(super) fn asked_delay(retry_after: Option<&str>, rate_limit: Option<&str>, now: SystemTime) -> Option<Duration> {
    let after = || {
        let text = retry_after?.trim();
        let until = || Some(date(text)?.duration_since(now).unwrap_or_default());
        text.parse().map(Duration::from_secs).ok().or_else(until)
    };
    let reset = || rate_limit?.split([';', ',']).find_map(|part| part.trim().strip_prefix("t=")?.parse().ok());
    after().or_else(|| reset().map(Duration::from_secs))
}

/// A date as HTTP writes it: `Wed, 21 Oct 2026 07:28:00 GMT`.
fn date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, seconds: Option<u64>) -> Answer {
        Answer::Status { status, code: None, said: String::new(), wait: seconds.map(Duration::from_secs) }
    }

    #[track_caller]
    fn check(answer: &Answer, expected_seconds: &[f64]) {
        let mut patience = Patience::new(TO_FETCH);
        let delays: Vec<f64> = std::iter::from_fn(|| patience.after(answer)).map(|it| it.as_secs_f64()).collect();
        assert_eq!(delays, expected_seconds, "{answer:?}");
    }

    #[test]
    fn delays_double_unless_the_hub_says_how_long() {
        check(&status(500, None), &[0.5, 1.0, 2.0, 4.0]);
        check(&status(503, Some(3)), &[3.0; 4]);
        check(&status(429, Some(60)), &[60.0; 4]);
        check(&status(429, None), &[5.0; 4]);
        check(&status(429, Some(3600)), &[]);
        check(&status(404, None), &[]);
        check(&status(401, Some(1)), &[]);
    }

    #[test]
    fn whatever_comes_renews_the_patience() {
        let mut patience = Patience::new(2);
        for _ in 0..10 {
            assert_eq!(patience.after(&status(500, None)), Some(FIRST_DELAY));
            patience.renew();
        }
        assert!(patience.after(&status(500, None)).is_some() && patience.after(&status(500, None)).is_none());
    }

    #[test]
    fn the_time_to_wait_is_read_from_either_header() {
        let now = humantime::parse_rfc3339("2026-10-21T07:27:30Z").unwrap();
        let seconds = |after, limit| asked_delay(after, limit, now).map(|delay| delay.as_secs());
        assert_eq!(seconds(Some(" 7 "), None), Some(7));
        assert_eq!(seconds(None, Some(r#""api";r=0;t=55"#)), Some(55));
        assert_eq!(seconds(Some("2"), Some(r#""api";r=0;t=55"#)), Some(2));
        assert_eq!(seconds(Some("Wed, 21 Oct 2026 07:28:00 GMT"), Some("r=0")), Some(30));
        assert_eq!(seconds(Some("Wed, 21 Oct 2026 07:00:00 GMT"), None), Some(0), "it is over");
        assert_eq!(seconds(Some("soon"), Some("r=0")), None);
        assert_eq!(seconds(Some("Wed, 99 Oct 2026 07:28:00 GMT"), None), None);
    }
}
