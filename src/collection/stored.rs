//! A chunk file as it lies on disk: opened only if it is a regular file, decompressed, and watched.
//!
//! Every other file of the module reads from here, so that progress counts stored bytes whatever the compression,
//! and a file that changes under the reader is told from one that did not.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::format::{Compression, Format};

/// Large enough that system calls do not matter, small enough for any cache.
const BUFFER_BYTES: usize = 64 << 10;

/// Decompressed text of a file, without its byte order mark.
pub(super) type Text = Box<dyn BufRead + Send>;

/// A chunk file.
#[derive(Debug, Clone)]
pub(super) struct StoredFile {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    /// Stored bytes that were read for the first time.
    progress: Arc<AtomicU64>,
}

/// What a file was when it was opened.
#[derive(Debug)]
pub(super) struct Seal {
    file: File,
    bytes: u64,
    modified: Option<SystemTime>,
}

/// Whether a pass over a file moves the progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Looks ahead; the bytes are read again.
    Ahead,
    /// Reads the entries.
    Entries,
}

impl StoredFile {
    /// Names a file; nothing is opened. `progress` starts from zero.
    pub(super) fn new(path: &Path, format: Format, progress: Arc<AtomicU64>) -> Self {
        progress.store(0, Ordering::Relaxed);
        Self { path: path.to_owned(), format, progress }
    }

    /// Opens the file, if it is still a regular one, and remembers its size and time.
    pub(super) fn open(&self) -> io::Result<Seal> {
        let regular = |metadata: &std::fs::Metadata| {
            if metadata.is_file() { Ok(()) } else { Err(io::Error::other("it is not a regular file any more")) }
        };
        // Opening a pipe would wait for a writer, so the name is looked at first, and the descriptor once more.
        regular(&std::fs::metadata(&self.path)?)?;
        let file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        regular(&metadata)?;
        Ok(Seal { file, bytes: metadata.len(), modified: metadata.modified().ok() })
    }

    /// Opens the file again and decompresses it.
    pub(super) fn text(&self, pass: Pass) -> io::Result<Text> {
        let progress = match pass {
            Pass::Ahead => Arc::default(),
            Pass::Entries => Arc::clone(&self.progress),
        };
        let stored = Counted { file: self.open()?.file, progress };
        let text: Text = match self.format.compression {
            Compression::None => Box::new(BufReader::with_capacity(BUFFER_BYTES, stored)),
            Compression::Gzip => Box::new(BufReader::with_capacity(
                BUFFER_BYTES,
                flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, stored)),
            )),
            Compression::Zstd => Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::stream::Decoder::new(stored)?)),
        };
        without_byte_order_mark(text)
    }

    /// What to say of an error that reading gave.
    pub(super) fn read_reason(&self, error: &io::Error) -> String {
        match self.format.compression {
            Compression::None => format!("cannot be read: {error}"),
            compression => format!("cannot be read as {compression}: {error}"),
        }
    }

    /// Notes that about `done` of `total` parts are read, for formats that are not read front to back.
    pub(super) fn note_progress(&self, done: u64, total: u64, bytes: u64) {
        let part = if total == 0 { 1.0 } else { done as f64 / total as f64 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a file's size")]
        self.progress.store((bytes as f64 * part) as u64, Ordering::Relaxed);
    }
}

impl Seal {
    /// The open file.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Stored bytes at opening.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What has changed since the file was opened.
    pub(super) fn change(&self) -> Option<String> {
        let metadata = self.file.metadata().ok()?;
        if metadata.len() != self.bytes {
            Some(format!("changed while it was read: {} bytes at first, {} at the end", self.bytes, metadata.len()))
        } else if metadata.modified().ok() != self.modified {
            Some("changed while it was read".to_owned())
        } else {
            None
        }
    }
}

struct Counted {
    file: File,
    progress: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.progress.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

fn without_byte_order_mark(mut text: Text) -> io::Result<Text> {
    let mut head = Vec::with_capacity(3);
    text.by_ref().take(3).read_to_end(&mut head)?;
    match head.as_slice() {
        [0xef, 0xbb, 0xbf] => Ok(text),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "it is UTF-16; store it as UTF-8"))
        }
        _ => Ok(Box::new(Cursor::new(head).chain(text))),
    }
}
