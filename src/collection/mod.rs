//! Input: finds collections of chunks under a root and streams their chunks, whatever the format of their files.
//!
//! A collection is a first-level directory of the root, read recursively in sorted path order. Files are JSON
//! (an array of chunks, an object with the list under `chunks`, `data`, `records` or `items`, one chunk, a bare
//! string), JSON Lines, both also as gzip or zstd, and Parquet. BEIR directories (`corpus.jsonl`, `queries.jsonl`)
//! are collections like others: `text` is embedded as given, and the title stays in the metadata.
//!
//! Nothing is dropped and nothing stops the run. An entry that cannot be used keeps its row, with the reason; a
//! file that breaks off is reported where it does, and what came before stands. Everything that is not the text is
//! carried along byte for byte. Memory is one entry (at most [`ENTRY_LIMIT_BYTES`]) or one small batch of table rows,
//! plus some 40 bytes a chunk to know repeated ids.
//!
//! A file whose name is not UTF-8 is read; ids and sources show its name with U+FFFD, and a warning says so. A
//! directory with such a name cannot name its output and is reported instead.

mod decode;
mod discover;
mod document;
mod format;
mod identity;
mod json_rows;
mod lines;
mod piece;
mod reader;
mod scan;
mod stored;
mod table;
#[cfg(test)]
mod tests;
mod walk;

use std::path::{Path, PathBuf};

pub use discover::{DiscoverError, Discovery, Request, discover};
pub use reader::{CollectionReader, ENTRY_LIMIT_BYTES, Entry};

use crate::domain::CollectionName;

/// A named set of chunk files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    name: CollectionName,
    root: PathBuf,
    files: u64,
    bytes: u64,
    other_files: u64,
}

impl Collection {
    /// What the collection, and its directory in the output, is called.
    pub fn name(&self) -> &CollectionName {
        &self.name
    }

    /// Its directory, or its only file: the input root as given, joined with the rest.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Chunk files at discovery.
    pub fn files(&self) -> u64 {
        self.files
    }

    /// Stored bytes of the chunk files at discovery.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Files at discovery that are neither chunk files nor hidden, and are left alone.
    pub fn other_files(&self) -> u64 {
        self.other_files
    }

    /// Reads the collection from its beginning; each call reads anew.
    pub fn read(&self) -> CollectionReader {
        CollectionReader::new(&self.root, ENTRY_LIMIT_BYTES)
    }
}
