//! Progress on standard error: a bar on a terminal, a line now and then elsewhere, JSON on request.
//!
//! The rate and the time left count tokens, not rows, for a row may be two tokens or two hundred. How many tokens there
//! will be is not known before they are read, so it is estimated from the bytes still unread.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::epoch_seconds;
use super::event::{Event, Observer};
use super::log::Plain;
use crate::domain::Fetching;

/// Between two lines where there is no bar: often enough to see that work goes on, seldom enough for a log file.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// How to show progress, when the choice is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A bar that redraws itself.
    Bar,
    /// A line for people.
    Plain,
    /// A line for programs.
    Json,
    /// Nothing.
    Nothing,
}

/// Shows how far the run is.
pub struct Progress {
    shown: Shown,
    terminal: MultiProgress,
    state: Mutex<State>,
}

struct State {
    meter: Meter,
    bar: Option<ProgressBar>,
    arrival: Option<Arrival>,
    last_line: Instant,
}

/// A file of a model on its way here.
#[derive(Debug)]
struct Arrival {
    file: String,
    start: Instant,
    /// What was here at the start.
    first_bytes: Option<u64>,
    bytes: u64,
    total_bytes: u64,
}

/// What is shown of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct ArrivalReading<'a> {
    file: &'a str,
    bytes: u64,
    total_bytes: u64,
    bytes_per_second: f64,
    eta_seconds: Option<f64>,
}

impl Arrival {
    fn read(&self, now: Instant) -> ArrivalReading<'_> {
        let elapsed = now.duration_since(self.start).as_secs_f64();
        let arrived = self.bytes.saturating_sub(self.first_bytes.unwrap_or(0)) as f64;
        let rate = if elapsed > 0.0 { arrived / elapsed } else { 0.0 };
        let left = self.total_bytes.saturating_sub(self.bytes) as f64;
        ArrivalReading {
            file: &self.file,
            bytes: self.bytes,
            total_bytes: self.total_bytes,
            bytes_per_second: rate,
            eta_seconds: (rate > 0.0).then(|| left / rate),
        }
    }
}

impl ArrivalReading<'_> {
    fn sentence(&self) -> String {
        let left =
            self.eta_seconds.map_or_else(|| "time left unknown".to_owned(), |it| format!("about {} left", span(it)));
        let [bytes, total, rate] =
            [self.bytes as f64, self.total_bytes as f64, self.bytes_per_second].map(|it| it / 1e6);
        format!("fetching {}: {bytes:.1} of {total:.1} MB, {rate:.1} MB/s, {left}", Plain(self.file))
    }
}

/// The figures behind the display.
#[derive(Debug, Default)]
struct Meter {
    collection: String,
    rows: u64,
    tokens_encoded: u64,
    tokens_read: u64,
    total_bytes: u64,
    /// How often the input is read, where models take turns.
    turns: u64,
    /// Of collections that are finished.
    bytes_before: u64,
    /// Of the collection under way.
    bytes_read: u64,
    /// Of rows that needed no encoding.
    bytes_skipped: u64,
    first_batch: Option<Instant>,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Reading<'a> {
    collection: &'a str,
    rows: u64,
    tokens: u64,
    estimated_tokens: u64,
    tokens_per_second: f64,
    eta_seconds: Option<f64>,
}

impl Meter {
    fn observe(&mut self, event: &Event) {
        match event {
            Event::CollectionFound { bytes, .. } => self.total_bytes += bytes,
            Event::Planned { turns, .. } => self.turns = *turns,
            Event::CollectionStarted { collection, model } if self.turns > 1 => {
                self.collection = format!("{collection} ({model})");
            }
            Event::CollectionStarted { collection, .. } => collection.as_str().clone_into(&mut self.collection),
            Event::Tokenized { tokens, bytes_read, .. } => {
                if *tokens == 0 {
                    self.bytes_skipped += bytes_read.saturating_sub(self.bytes_read);
                }
                self.bytes_read = *bytes_read;
                self.tokens_read += tokens;
            }
            Event::BatchEncoded { rows, tokens, seconds, .. } => {
                let start = Instant::now().checked_sub(Duration::from_secs_f64(*seconds));
                self.first_batch = self.first_batch.or(start);
                self.rows += rows;
                self.tokens_encoded += tokens;
            }
            Event::VectorsReused { known, repeated, .. } => self.rows += known + repeated,
            // Several models may finish a collection that was read once.
            Event::CollectionFinished { .. } => self.bytes_before += std::mem::take(&mut self.bytes_read),
            _ => {}
        }
    }

    fn read(&self, now: Instant) -> Reading<'_> {
        let elapsed = self.first_batch.map_or(0.0, |start| now.duration_since(start).as_secs_f64());
        let rate = if elapsed > 0.0 { self.tokens_encoded as f64 / elapsed } else { 0.0 };
        let useful_bytes = (self.bytes_before + self.bytes_read).saturating_sub(self.bytes_skipped);
        let unread_bytes = (self.total_bytes * self.turns.max(1)).saturating_sub(self.bytes_before + self.bytes_read);
        let tokens_unread = match useful_bytes {
            0 => 0.0,
            useful => self.tokens_read as f64 * (unread_bytes as f64 / useful as f64),
        };
        let tokens_left = tokens_unread + self.tokens_read.saturating_sub(self.tokens_encoded) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
        let estimated_tokens = self.tokens_encoded + tokens_left as u64;
        Reading {
            collection: &self.collection,
            rows: self.rows,
            tokens: self.tokens_encoded,
            estimated_tokens,
            tokens_per_second: rate,
            eta_seconds: (rate > 0.0).then(|| tokens_left / rate),
        }
    }
}

impl Reading<'_> {
    fn sentence(&self) -> String {
        let left = match self.eta_seconds {
            Some(seconds) => format!("about {} left", span(seconds)),
            None => "time left unknown".to_owned(),
        };
        let (tokens, total) = (count(self.tokens), count(self.estimated_tokens));
        format!(
            "{}: {} rows, {tokens} of about {total} tokens, {:.0} tokens/s, {left}",
            Plain(self.collection),
            self.rows,
            self.tokens_per_second
        )
    }
}

/// A number of tokens in four characters or so.
fn count(tokens: u64) -> String {
    match tokens {
        0..10_000 => tokens.to_string(),
        10_000..10_000_000 => format!("{:.0}k", tokens as f64 / 1e3),
        _ => format!("{:.1}M", tokens as f64 / 1e6),
    }
}

/// A time span to two units.
fn span(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
    let seconds = seconds.ceil() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

impl Progress {
    /// Shows progress as asked.
    pub fn new(shown: Shown) -> Self {
        let target = if shown == Shown::Bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            shown,
            terminal: MultiProgress::with_draw_target(target),
            state: Mutex::new(State { meter: Meter::default(), bar: None, arrival: None, last_line: Instant::now() }),
        }
    }

    /// What suits the place that standard error leads to: a bar on a terminal, lines in a pipe or a file.
    pub fn automatic() -> Shown {
        if io::stderr().is_terminal() { Shown::Bar } else { Shown::Plain }
    }

    /// A writer to standard error that does not tear the bar; for log messages.
    pub fn writer(&self) -> impl Fn() -> BesideBar + Send + Sync + 'static {
        let terminal = self.terminal.clone();
        move || BesideBar(terminal.clone())
    }

    /// Whether to show something now: always on a bar, now and then as a line.
    fn is_time(&self, state: &mut State, now: Instant) -> bool {
        let is_time = self.shown == Shown::Bar || now.duration_since(state.last_line) >= LINE_INTERVAL;
        if is_time {
            state.last_line = now;
        }
        is_time
    }

    fn show_arrival(&self, state: &mut State, file: &str, bytes: u64, total_bytes: u64) {
        let now = Instant::now();
        let arrival = match state.arrival.take() {
            Some(arrival) if bytes > 0 && arrival.file == file => {
                Arrival { first_bytes: arrival.first_bytes.or(Some(bytes)), bytes, ..arrival }
            }
            _ => Arrival { file: file.to_owned(), start: now, first_bytes: None, bytes, total_bytes },
        };
        let reading = arrival.read(now);
        if bytes == total_bytes {
            if let Some(bar) = state.bar.take() {
                bar.finish_and_clear();
            }
        } else if self.is_time(state, now) {
            match self.shown {
                Shown::Bar => {
                    let bar = state.bar.get_or_insert_with(|| self.terminal.add(bar()));
                    bar.set_length(total_bytes.max(1));
                    bar.set_position(bytes);
                    bar.set_message(reading.sentence());
                }
                // A closed standard error is no reason to stop working.
                Shown::Plain => drop(writeln!(io::stderr(), "{}", reading.sentence())),
                Shown::Json => {
                    let line = serde_json::json!({ "timestamp": epoch_seconds(), "fetching": reading });
                    drop(writeln!(io::stderr(), "{line}"));
                }
                Shown::Nothing => {}
            }
        }
        state.arrival = Some(arrival);
    }

    fn show(&self, state: &mut State) {
        let now = Instant::now();
        if !self.is_time(state, now) {
            return;
        }
        let reading = state.meter.read(now);
        match self.shown {
            Shown::Bar => {
                let bar = state.bar.get_or_insert_with(|| self.terminal.add(bar()));
                bar.set_length(reading.estimated_tokens.max(1));
                bar.set_position(reading.tokens);
                bar.set_message(reading.sentence());
            }
            // A closed standard error is no reason to stop working.
            Shown::Plain => drop(writeln!(io::stderr(), "{}", reading.sentence())),
            Shown::Json => {
                let line = serde_json::json!({ "timestamp": epoch_seconds(), "progress": reading });
                drop(writeln!(io::stderr(), "{line}"));
            }
            Shown::Nothing => {}
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24.cyan/blue} {percent:>3} % {wide_msg}");
    ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Observer for Progress {
    fn observe(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.meter.observe(event);
        match event {
            Event::BatchEncoded { .. } => self.show(&mut state),
            Event::ModelFetching { what: Fetching::File { file, bytes, total_bytes }, .. } => {
                self.show_arrival(&mut state, file, *bytes, *total_bytes);
            }
            Event::RunFinished { .. } => {
                if let Some(bar) = state.bar.take() {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
    }
}

/// Standard error, with the bar out of the way while something is written.
pub struct BesideBar(MultiProgress);

impl Write for BesideBar {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::CollectionName;

    fn batch(tokens: u64, seconds: f64) -> Event {
        let (model, device) = ("m".to_owned(), "cpu".to_owned());
        Event::BatchEncoded {
            model,
            device,
            worker: 0,
            rows: 1,
            tokens,
            padded_tokens: tokens,
            longest: tokens,
            seconds,
        }
    }

    #[test]
    fn the_time_left_follows_the_tokens_of_the_bytes_unread() {
        let collection = CollectionName::new("c").unwrap();
        let mut meter = Meter::default();
        meter.observe(&Event::CollectionFound { collection: collection.clone(), files: 1, bytes: 1000 });
        meter.observe(&Event::CollectionStarted { collection, model: "m".into() });
        // The first half was embedded by an earlier run; the third quarter gives 300 tokens, 100 of them encoded.
        meter.observe(&Event::Tokenized { rows: 5, tokens: 0, bytes_read: 500 });
        meter.observe(&Event::Tokenized { rows: 5, tokens: 300, bytes_read: 750 });
        meter.observe(&batch(100, 2.0));
        let reading = meter.read(meter.first_batch.unwrap() + Duration::from_secs(2));
        assert_eq!((reading.tokens, reading.estimated_tokens), (100, 600));
        assert!((reading.tokens_per_second - 50.0).abs() < 1e-9, "{reading:?}");
        assert!((reading.eta_seconds.unwrap() - 10.0).abs() < 1e-9, "{reading:?}");
        assert_eq!(reading.sentence(), "c: 1 rows, 100 of about 600 tokens, 50 tokens/s, about 10 s left");
    }

    #[test]
    fn the_rate_of_a_file_is_that_of_the_bytes_that_came_now() {
        let start = Instant::now();
        let file = "model.safetensors".to_owned();
        let arrival =
            Arrival { file, start, first_bytes: Some(40_000_000), bytes: 50_000_000, total_bytes: 90_000_000 };
        let reading = arrival.read(start + Duration::from_secs(5));
        let sentence = "fetching model.safetensors: 50.0 of 90.0 MB, 2.0 MB/s, about 20 s left";
        assert_eq!(reading.sentence(), sentence);
    }

    #[test]
    fn figures_are_short() {
        assert_eq!((count(9_999), count(12_345), count(12_345_678)), ("9999".into(), "12k".into(), "12.3M".into()));
        assert_eq!(
            (span(59.2), span(3599.5), span(7260.0)),
            ("1 min 0 s".into(), "1 h 0 min".into(), "2 h 1 min".into())
        );
    }
}
