//! Rows in a file of their own, apart from any output: what a cache of vectors is made of.
//!
//! A segment is an Arrow file that is named after the digest of its bytes, so that it vouches for itself: several runs
//! may add to one directory without knowing of each other, and one that is damaged is found by its name.

use std::fs::File;
use std::io::Seek;
use std::path::{Path, PathBuf};

use super::arrow::{self, Arrow};
use super::format::{About, Sink, SinkError};
use super::place::partial;
use super::read::{ReadContentError, ReadError, StoredShard, survive};
use super::storage::{At, Disk, FillError, Storage, StorageError, fill_file};
use crate::domain::{Digest, DigestReader, Shard};

/// Ending of a segment's name.
const EXTENSION: &str = "arrow";

/// A segment could not be written. Nothing is left under a final name.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The rows cannot be put into the format.
    #[error("cannot make {}", path.display())]
    Sink {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SinkError,
    },
    /// The file could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Writes rows as a segment into a directory, which is made where there is none; its path, once it is durable. `name`
/// tells the file in progress from those of other runs.
///
/// # Errors
/// [`SegmentError`].
pub fn write_segment(directory: &Path, name: &str, vector_space: &str, rows: &Shard) -> Result<PathBuf, SegmentError> {
    Disk.create_directories(directory).at("create", directory)?;
    let working = partial(&directory.join(name));
    let about = About { model: "", vector_space };
    let file = Disk.create(&working).at("create", &working)?;
    let written = fill_file(file, &working, |out| Arrow.write(rows, &about, out));
    let (_, sha256) = written.map_err(|error| {
        // Gives the space back; the first error is the one worth telling.
        let _ = Disk.remove(&working);
        match error {
            FillError::Storage(error) => error.into(),
            FillError::Content(source) => SegmentError::Sink { path: working.clone(), source },
        }
    })?;
    let path = directory.join(format!("{sha256}.{EXTENSION}"));
    Disk.rename(&working, &path).at("rename to its final name", &path)?;
    Disk.sync_directory(directory).at("sync", directory)?;
    Ok(path)
}

/// The segments of a directory in the order of their names; none where there is no directory.
///
/// # Errors
/// When it cannot be listed.
pub fn segments(directory: &Path) -> Result<Vec<PathBuf>, StorageError> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let names = Disk.files(directory).at("list", directory)?;
    let paths = names.into_iter().map(|name| directory.join(name));
    Ok(paths.filter(|path| digest_of(path).is_some()).collect())
}

/// Reads a segment, once the whole of it has been held against its name.
///
/// # Errors
/// When it cannot be read, has other bytes than its name says, or is of another vector space.
pub fn read_segment(path: &Path, vector_space: &str) -> Result<StoredShard, ReadError> {
    let read = |source| ReadError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let (found, _) = DigestReader::drain(&file).map_err(read)?;
    if digest_of(path) != Some(found) {
        return Err(ReadError::Changed { path: path.to_owned() });
    }
    file.rewind().map_err(read)?;
    let content = |source| ReadError::Content { path: path.to_owned(), source };
    if survive(|| arrow::vector_space(&file)).map_err(content)?.as_deref() != Some(vector_space) {
        return Err(content(ReadContentError::Column { name: "vector_space" }));
    }
    file.rewind().map_err(read)?;
    survive(|| arrow::read(&mut [Some(file)])).map_err(content)
}

/// The digest that the name of a segment tells.
fn digest_of(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(EXTENSION)?.strip_suffix('.')?.parse().ok()
}
