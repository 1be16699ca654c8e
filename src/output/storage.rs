//! The few file operations that commits are made of.
//!
//! A trait, because the order of these operations is what makes a crash harmless: the tests run the same writer over
//! an in-memory twin that stops at any operation they choose and forgets whatever was not synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::manifest::FileRecord;
use crate::domain::DigestWriter;

#[cfg(test)]
pub(super) mod memory;

/// Bytes gathered before a write reaches the operating system; large enough that system calls cost nothing beside
/// formatting, small beside a shard.
const BUFFER_BYTES: usize = 256 * 1024;

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}{}", path.display(), way_out(source))]
pub struct StorageError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

impl StorageError {
    /// A file that is shorter than it was a moment ago.
    pub(super) fn short(path: &Path) -> Self {
        Self { action: "read", path: path.to_owned(), source: io::ErrorKind::UnexpectedEof.into() }
    }
}

/// What a person can do about a failure; empty where nothing general can be said.
fn way_out(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            return " (raise the limit on open files, `ulimit -n`, and run the same command again; what was committed is kept)";
        }
        Some(Errno::IO) => {
            return " (the disk reports a fault, see `dmesg`; what was committed is kept, and the same command goes on from there)";
        }
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            " (raise the limit on the size of files, `ulimit -f`, or lower --shard-rows; what was committed is kept)"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free some space and run the same command again; what was committed is kept)"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (make it writable, or choose another directory with --output-dir)"
        }
        io::ErrorKind::CrossesDevices => {
            " (a file must stay on the filesystem of its directory; choose another directory with --output-dir)"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
            " (something else has that name; move it away, or choose another directory with --output-dir)"
        }
        _ => "",
    }
}

/// Names the operation and the path in an error of the operating system.
pub(super) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StorageError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StorageError> {
        self.map_err(|source| StorageError { action, path: path.to_owned(), source })
    }
}

/// A file that is being written.
pub(super) trait StoredFile: Write + Send {
    /// Returns once everything written is on the medium.
    fn sync(&mut self) -> io::Result<()>;
}

/// Where outputs live.
pub(super) trait Storage: Send + Sync {
    /// Creates a directory and its parents, durably; those that exist are left alone.
    fn create_directories(&self, directory: &Path) -> io::Result<()>;
    /// Names of the plain files in a directory; names that are not Unicode are not ours and left out.
    fn files(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Opens for reading.
    fn read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;
    /// Opens for reading from so many bytes on.
    fn read_from(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn Read + Send>>;
    /// Creates a file, or empties the one that has the name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>>;
    /// Opens at the end of the first `bytes` bytes and drops the rest; creates the file where there is none.
    fn continue_at(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn StoredFile>>;
    /// Gives a file its new name, in place of the file that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns once creations, renames and removals in a directory are on the medium.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// The file system.
pub(super) struct Disk;

impl StoredFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Storage for Disk {
    fn create_directories(&self, directory: &Path) -> io::Result<()> {
        if directory.as_os_str().is_empty() || directory.is_dir() {
            return Ok(());
        }
        let parent = directory.parent().unwrap_or(Path::new(""));
        self.create_directories(parent)?;
        match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            other => other?,
        }
        self.sync_directory(parent)
    }

    fn files(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type() {
                Ok(kind) if kind.is_file() => names.extend(entry.file_name().into_string().ok()),
                // Other machines may be at work in the directory.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(path)?))
    }

    fn read_from(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = File::open(path)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(bytes))?;
        Ok(Box::new(file))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn continue_at(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn StoredFile>> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.set_len(bytes)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(bytes))?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    #[cfg(unix)]
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        match File::open(directory)?.sync_all() {
            // Some network and FUSE file systems cannot sync a directory, and say so; there is nothing better to do.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            other => other,
        }
    }

    #[cfg(not(unix))]
    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Why a file could not be made: the storage, or whatever fills it.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError<E> {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Content(E),
}

/// Writes, syncs and renames: under its final name the file is complete. The directory is not synced, so that
/// several files of one directory share that cost.
pub(super) fn write_complete<E>(
    storage: &dyn Storage,
    partial: &Path,
    path: &Path,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), E>,
) -> Result<FileRecord, FillError<E>> {
    let written = fill_file(storage.create(partial).at("create", partial)?, partial, fill);
    let (bytes, sha256) = match written {
        Ok(written) => written,
        Err(error) => {
            // Gives the space back; the first error is the one worth telling.
            let _ = storage.remove(partial);
            return Err(error);
        }
    };
    storage.rename(partial, path).at("rename to its final name", path)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(FileRecord { name, bytes, sha256 })
}

/// Replaces a file as a whole and durably: whoever reads it meanwhile sees the old one or the new one. For files
/// beside the collections.
///
/// # Errors
/// When the directory cannot be written.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let partial = super::place::partial(path);
    match write_complete(&Disk, &partial, path, |out| out.write_all(bytes)) {
        Ok(_) => {}
        Err(FillError::Storage(error)) => return Err(error),
        Err(FillError::Content(source)) => return Err(source).at("write", path),
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    Disk.sync_directory(directory).at("sync", directory)
}

/// Fills and syncs an open file; returns the number and the digest of the bytes that this call wrote.
pub(super) fn fill_file<E>(
    target: Box<dyn StoredFile>,
    path: &Path,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), E>,
) -> Result<(u64, crate::domain::Digest), FillError<E>> {
    let watched = Watched { inner: target, failure: None };
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, DigestWriter::new(watched));
    let filled = fill(&mut writer).map_err(FillError::Content);
    let flushed = writer.flush();
    // What is still buffered after a failure is of no use.
    let (mut watched, sha256, bytes) = writer.into_parts().0.finish();
    if let Some(source) = watched.failure.take() {
        return Err(FillError::Storage(StorageError { action: "write", path: path.to_owned(), source }));
    }
    filled?;
    flushed.at("write", path)?;
    watched.inner.sync().at("sync", path)?;
    Ok((bytes, sha256))
}

/// Remembers the first failure of the medium, which encoders may wrap beyond recognition on its way up.
struct Watched {
    inner: Box<dyn StoredFile>,
    failure: Option<io::Error>,
}

impl Watched {
    fn watch<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.failure.get_or_insert_with(|| match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => error.kind().into(),
            });
        }
        result
    }
}

impl Write for Watched {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let result = self.inner.write(buffer);
        self.watch(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.inner.flush();
        self.watch(result)
    }
}
