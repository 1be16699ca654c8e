//! `status`, `verify` and `merge` as they are typed.

use std::path::PathBuf;

use clap::Args;

use crate::config::CommandLine;

const EXIT_CODES: &str = "\
Exit codes: 0 all is complete and sound, 3 something is missing or not complete, 8 something is damaged or does not go \
together, 4 there is nothing to look at or to merge, 9 the directory cannot be written or is being written (merge).";

/// An output directory to look at.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct OutputCommand {
    /// Output root [default: as for embedding, ./Embeddings]
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,

    /// One JSON object instead of text (schemas: configs/schemas/status.schema.json, merged.schema.json)
    #[arg(long)]
    pub json: bool,
}

impl OutputCommand {
    /// The settings that were typed.
    pub fn into_settings(self) -> CommandLine {
        CommandLine::default().with("output_dir", self.directory)
    }
}
