//! The module as its users see it: files on disk in, entries out.

mod discovery;
mod documents;
mod hazards;
mod properties;
mod tables;

use std::path::{Path, PathBuf};

use super::*;
use crate::domain::{Chunk, ChunkText, RawJson};

/// A root that goes away with the test.
struct Root {
    directory: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let root = Self::new();
        for (path, content) in files {
            root.write(path, content.as_bytes());
        }
        root
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, path: &str, content: &[u8]) -> PathBuf {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn discover(&self) -> Discovery {
        discover(&Request { root: self.path(), only: &[] }).unwrap()
    }

    /// The path of a fault without the temporary part.
    fn shown(&self, path: &str) -> String {
        path.strip_prefix(self.path().to_str().unwrap()).unwrap_or(path).trim_start_matches('/').to_owned()
    }
}

/// Entries in few words: `row id text` for chunks, `! place: reason` for faults, `? place: reason` for warnings.
fn told(root: &Root, reader: impl Iterator<Item = Entry>) -> Vec<String> {
    let place = |mut error: crate::domain::LoadingError| {
        error.path = root.shown(&error.path);
        error.to_string()
    };
    reader
        .map(|entry| match entry {
            Entry::Fault(error) => format!("! {}", place(error)),
            Entry::Warning(error) => format!("? {}", place(error)),
            Entry::Chunk(chunk) => match chunk.text {
                ChunkText::Present(text) => format!("{} {} {text}", chunk.row, chunk.id),
                ChunkText::Unusable { .. } => format!("{} {} -", chunk.row, chunk.id),
            },
        })
        .collect()
}

/// What a file that is given as the root tells.
fn told_of_file(name: &str, content: &[u8]) -> Vec<String> {
    let root = Root::new();
    let path = root.write(name, content);
    let discovery = discover(&Request { root: &path, only: &[] }).unwrap();
    told(&root, discovery.collections[0].read())
}

#[track_caller]
fn check_file(name: &str, content: impl AsRef<[u8]>, expected: &[&str]) {
    assert_eq!(told_of_file(name, content.as_ref()), expected, "{}", String::from_utf8_lossy(content.as_ref()));
}

fn chunks(reader: impl Iterator<Item = Entry>) -> Vec<Chunk> {
    reader
        .filter_map(|entry| match entry {
            Entry::Chunk(chunk) => Some(chunk),
            _ => None,
        })
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn raw(json: Option<&RawJson>) -> Option<&str> {
    json.map(RawJson::as_str)
}
