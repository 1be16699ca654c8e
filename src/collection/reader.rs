//! Reads a collection: its files one after the other, their entries with rows and ids.

use std::collections::VecDeque;
use std::iter::once;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::document::Document;
use super::format::{Format, Layout};
use super::identity::Identities;
use super::lines::Lines;
use super::piece::{EntryPiece, Piece, Place};
use super::stored::{Seal, StoredFile};
use super::table::Table;
use super::walk::{Depth, Found, FoundFile, Walk, fault, relative_path};
use crate::domain::{Chunk, ChunkText, LoadingError, Row, Source};

/// Longest entry that is read, decompressed. A text of this size is some fifty million tokens, far beyond any model;
/// the limit keeps a hostile file from taking the machine's memory.
pub const ENTRY_LIMIT_BYTES: usize = 256 << 20;

/// One step through a collection. What is told of a chunk comes before the chunk itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A chunk, usable or not; its row is one more than the row of the chunk before.
    Chunk(Chunk),
    /// Something could not be read. If it has an index, it is about that entry: either the chunk that follows, whose
    /// text is unusable, or an entry in which a file broke off, and which has no row.
    Fault(LoadingError),
    /// Worth telling, but nothing is lost: a repeated id was replaced, an id or a file name was unusable.
    Warning(LoadingError),
}

/// The entries of a collection, in path order and then in the order of each file.
pub struct CollectionReader {
    files: Box<dyn Iterator<Item = Found> + Send>,
    base: PathBuf,
    open: Option<OpenFile>,
    /// What is told before the next step is taken.
    ready: VecDeque<Entry>,
    identities: Identities,
    next_row: u64,
    /// Stored bytes of the files that are done.
    bytes_done: u64,
    /// Stored bytes of the open file that are read.
    bytes_open: Arc<AtomicU64>,
    entry_limit_bytes: usize,
}

struct OpenFile {
    path: PathBuf,
    relative: Arc<str>,
    seal: Seal,
    pieces: Box<dyn Iterator<Item = Piece> + Send>,
    next_index: u64,
}

impl CollectionReader {
    pub(super) fn new(root: &Path, entry_limit_bytes: usize) -> Self {
        // A root that is a file was given by hand and is read whatever its name.
        let one = root.file_name().and_then(Format::of).filter(|_| !root.is_dir());
        let files: Box<dyn Iterator<Item = Found> + Send> = match one {
            Some(format) => Box::new(once(Found::File(FoundFile { path: root.to_owned(), format, bytes: 0 }))),
            None => Box::new(Walk::new(root, Depth::All)),
        };
        Self {
            files,
            base: root.to_owned(),
            open: None,
            ready: VecDeque::new(),
            identities: Identities::default(),
            next_row: 0,
            bytes_done: 0,
            bytes_open: Arc::default(),
            entry_limit_bytes,
        }
    }

    /// Bytes read so far of the files as they are stored, compressed or not; never more than [`super::Collection::bytes`]
    /// unless files grow.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_done + self.bytes_open.load(Ordering::Relaxed)
    }

    fn open_file(&mut self, path: PathBuf, format: Format) {
        let (relative, exact) = relative_path(&self.base, &path);
        if !exact {
            let reason = format!("the name is not UTF-8; ids and sources call the file {relative:?}");
            self.ready.push_back(Entry::Warning(fault(&path, reason)));
        }
        let file = StoredFile::new(&path, format, Arc::clone(&self.bytes_open));
        let seal = match file.open() {
            Ok(seal) => seal,
            Err(error) => {
                self.ready.push_back(Entry::Fault(fault(&path, format!("cannot be opened: {error}"))));
                return;
            }
        };
        let pieces: Box<dyn Iterator<Item = Piece> + Send> = match format.layout {
            Layout::Document => Box::new(Document::new(file, self.entry_limit_bytes)),
            Layout::Lines => Box::new(Lines::new(file, self.entry_limit_bytes)),
            Layout::Table => Box::new(Table::new(file)),
        };
        self.open = Some(OpenFile { path, relative: relative.into(), seal, pieces, next_index: 0 });
    }

    fn close_file(&mut self, open: &OpenFile) {
        if let Some(change) = open.seal.change() {
            self.ready.push_back(Entry::Fault(fault(&open.path, change)));
        }
        self.bytes_open.store(0, Ordering::Relaxed);
        self.bytes_done += open.seal.bytes();
    }

    fn take(&mut self, piece: Piece, open: &mut OpenFile) {
        let index = open.next_index;
        match piece {
            Piece::Fault { place, in_entry, reason } => {
                self.ready.push_back(Entry::Fault(open.told(place, in_entry.then_some(index), reason)));
            }
            Piece::Warning { place, reason } => {
                self.ready.push_back(Entry::Warning(open.told(place, None, reason)));
            }
            Piece::Entry(entry) => {
                open.next_index += 1;
                self.take_entry(*entry, index, open);
            }
        }
    }

    fn take_entry(&mut self, entry: EntryPiece, index: u64, open: &OpenFile) {
        let EntryPiece { place, text, id, refused_id, metadata, extra } = entry;
        let source = Source { file: Arc::clone(&open.relative), index };
        let identity = self.identities.assign(id, &source);
        if let ChunkText::Unusable { reason } = &text {
            self.ready.push_back(Entry::Fault(open.told(place, Some(index), reason.clone())));
        }
        if let Some(reason) = refused_id {
            self.ready.push_back(Entry::Warning(open.told(place, Some(index), reason)));
        }
        if let Some(taken) = identity.taken {
            let reason = format!(
                "the collection has had the id {:?} before; this chunk is called {:?}",
                taken.as_str(),
                identity.id.as_str()
            );
            self.ready.push_back(Entry::Warning(open.told(place, Some(index), reason)));
        }
        let row = Row(self.next_row);
        self.next_row += 1;
        self.ready.push_back(Entry::Chunk(Chunk { row, id: identity.id, source, text, metadata, extra }));
    }
}

impl OpenFile {
    fn told(&self, place: Option<Place>, index: Option<u64>, reason: String) -> LoadingError {
        LoadingError {
            path: self.path.display().to_string(),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            index,
            reason,
        }
    }
}

impl Iterator for CollectionReader {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(entry);
            }
            if let Some(mut open) = self.open.take() {
                match open.pieces.next() {
                    Some(piece) => {
                        self.take(piece, &mut open);
                        self.open = Some(open);
                    }
                    None => self.close_file(&open),
                }
                continue;
            }
            match self.files.next()? {
                Found::File(file) => self.open_file(file.path, file.format),
                Found::Fault(fault) => return Some(Entry::Fault(fault)),
                Found::Other | Found::Directory(_) => {}
            }
        }
    }
}
