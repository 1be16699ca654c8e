//! The command line of embed-collections.

use std::process::ExitCode;

use clap::Parser;
use embed_collections::cli::Arguments;
use embed_collections::commands;

fn main() -> ExitCode {
    ExitCode::from(commands::run(Arguments::parse()))
}
