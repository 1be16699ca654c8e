//! What the program does, one file a command.

mod devices;
mod doctor;
pub mod embed;
pub mod lease;
mod models;
mod outputs;
mod signals;

use std::io::{self, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::cli::{Arguments, SubCommand};
use crate::config::{self, Environment, LogFormat, LogLevel, ProgressStyle, Settings};
use crate::embedder::with_causes;
use crate::exit;
use crate::output::Depth;
use crate::telemetry::{Plain, Progress, Shown};

/// Runs what the command line asks for; returns the exit code.
pub fn run(mut arguments: Arguments) -> u8 {
    // Only embedding is divided into shares.
    let environment = Environment::of_process().without_share();
    let ended = match arguments.command.take() {
        None => return embed(arguments),
        Some(SubCommand::Lease(command)) => {
            return lease::run(command, &environment).unwrap_or_else(|error| fail(&error, error.exit_code()));
        }
        Some(SubCommand::Models(command)) => {
            return models::run(command, &environment, &mut io::stdout())
                .unwrap_or_else(|error| fail(&error, error.exit_code()));
        }
        Some(SubCommand::Status(command)) => {
            return outputs::look(command, Depth::Lengths, &environment, &mut io::stdout())
                .unwrap_or_else(|error| fail(&error, error.exit_code()));
        }
        Some(SubCommand::Verify(command)) => {
            return outputs::look(command, Depth::Content, &environment, &mut io::stdout())
                .unwrap_or_else(|error| fail(&error, error.exit_code()));
        }
        Some(SubCommand::Merge(command)) => {
            return outputs::merge_shares(command, &environment, &mut io::stdout())
                .unwrap_or_else(|error| fail(&error, error.exit_code()));
        }
        Some(SubCommand::Devices(command)) => devices::run(command, &environment, &mut io::stdout()),
        Some(SubCommand::Doctor(command)) => doctor::run(command, &environment, &mut io::stdout()),
    };
    ended.unwrap_or_else(|error| fail(&error, exit::USAGE))
}

fn embed(arguments: Arguments) -> u8 {
    let resolved = match config::resolve(&arguments.into_settings(), &Environment::of_process()) {
        Ok(resolved) => resolved,
        Err(error) => return fail(&error, exit::USAGE),
    };
    let progress = Progress::new(shown(resolved.settings.progress));
    log_to(&resolved.settings, &progress);
    // Unwinding gives back locks and partial files; what is left is to say so with the right code.
    let outcome = catch_unwind(AssertUnwindSafe(|| embed::embed(resolved, &progress, &mut io::stdout())));
    match outcome {
        Ok(Ok(exit_code)) => exit_code,
        Ok(Err(error)) => fail(&error, error.exit_code()),
        Err(_) => {
            say("internal error, told above; what was committed is kept, and the same command goes on from there");
            exit::INTERNAL
        }
    }
}

/// Says what went wrong, with all causes.
fn fail(error: &dyn std::error::Error, exit_code: u8) -> u8 {
    say(&with_causes(error));
    exit_code
}

/// Writes an error to standard error. Names in it may come from anybody, so only text and line breaks reach the terminal.
fn say(error: &str) {
    let lines: Vec<String> = error.split('\n').map(|line| Plain(line).to_string()).collect();
    drop(writeln!(io::stderr(), "error: {}", lines.join("\n")));
}

fn shown(style: ProgressStyle) -> Shown {
    match style {
        ProgressStyle::Auto => Progress::automatic(),
        ProgressStyle::Bar => Shown::Bar,
        ProgressStyle::Plain => Shown::Plain,
        ProgressStyle::Json => Shown::Json,
        ProgressStyle::None => Shown::Nothing,
    }
}

/// Sends log messages to standard error, beside the bar.
fn log_to(settings: &Settings, progress: &Progress) {
    let level = match settings.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let of_libraries = level.min(LevelFilter::WARN);
    let filter = Targets::new().with_default(of_libraries).with_target("embed_collections", level);
    let format = tracing_subscriber::fmt::layer().with_writer(progress.writer()).with_ansi(io::stderr().is_terminal());
    let log: Box<dyn Layer<Registry> + Send + Sync> = match settings.log_format {
        LogFormat::Text => format.with_target(false).without_time().boxed(),
        LogFormat::Json => format.json().boxed(),
    };
    // A second subscriber in one process is refused; the first one stays, which only tests can notice.
    let _ = tracing_subscriber::registry().with(log.with_filter(filter)).try_init();
}
