//! Where a model's files are, once they have been fetched.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use walkdir::WalkDir;

use super::{Report, inside};
use crate::model::source::{ModelFiles, Provenance};

/// What `models pull` says.
#[derive(Debug, Serialize)]
pub(super) struct Pulled {
    name: String,
    directory: PathBuf,
    #[serde(flatten)]
    provenance: Provenance,
    files: Vec<File>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    bytes: u64,
}

impl Pulled {
    pub(super) fn new(files: ModelFiles) -> Self {
        let ModelFiles { name, directory, provenance, notes } = files;
        // The hub's cache has links to its files.
        let entries = WalkDir::new(&directory).follow_links(true).sort_by_file_name().into_iter().flatten();
        let listed = entries
            .filter_map(|entry| {
                let metadata = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
                Some(File { path: inside(entry.path(), &directory), bytes: metadata.len() })
            })
            .collect();
        Self { name, directory, provenance, files: listed, notes }
    }
}

impl Report for Pulled {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        let count = self.files.len();
        let at = self.provenance.revision().map(|revision| format!(" at {revision}")).unwrap_or_default();
        writeln!(out, "{}: {count} files, {:.1} MB, {}{at}", self.name, bytes as f64 / 1e6, self.provenance)?;
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
        writeln!(out, "{}", self.directory.display())
    }
}
