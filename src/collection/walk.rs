//! Finds the chunk files under a directory, in sorted path order, without holding their names.
//!
//! Discovery walks to count and the reader walks again to read, so a collection of any number of files costs the
//! names of one directory at a time. Links are followed, since collections are often assembled from links; a loop
//! of them is a fault and not a hang.

use std::ffi::OsStr;
use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::format::{Format, is_hidden, is_summary};
use crate::domain::LoadingError;

/// What a walk meets.
#[derive(Debug)]
pub(super) enum Found {
    /// A file of chunks.
    File(FoundFile),
    /// A directory. Only met when the walk is not recursive.
    Directory(PathBuf),
    /// A regular file of another kind; it is left alone.
    Other,
    /// Something that cannot be read.
    Fault(LoadingError),
}

/// A file of chunks.
#[derive(Debug)]
pub(super) struct FoundFile {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    /// Stored size, as far as it is known.
    pub(super) bytes: u64,
}

/// How far a walk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// The entries of the directory.
    Entries,
    /// Everything below it.
    All,
}

/// A walk in sorted path order, component by component.
pub(super) struct Walk {
    entries: walkdir::FilterEntry<walkdir::IntoIter, fn(&DirEntry) -> bool>,
    depth: Depth,
    /// Where the walk really is; `None` when that cannot be told.
    root: Option<PathBuf>,
}

impl Walk {
    /// Starts at a directory, whatever its own name is.
    pub(super) fn new(root: &Path, depth: Depth) -> Self {
        let walk = WalkDir::new(root).follow_links(true).sort_by_file_name();
        let walk = match depth {
            Depth::Entries => walk.max_depth(1),
            Depth::All => walk,
        };
        Self {
            entries: walk.into_iter().filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name())),
            depth,
            root: root.canonicalize().ok(),
        }
    }

    /// The directory to which a link leads, if the walk is inside it. `walkdir` knows only loops below the root of a
    /// walk, and the root of a collection is itself inside something.
    fn leads_back(&self, entry: &DirEntry) -> Option<PathBuf> {
        let target = entry.path_is_symlink().then(|| entry.path().canonicalize().ok()).flatten()?;
        self.root.as_ref()?.starts_with(&target).then_some(target)
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            return Some(match self.entries.next()? {
                Err(error) if error.depth() > 0 && error.path().and_then(Path::file_name).is_some_and(is_hidden) => {
                    continue;
                }
                Err(error) => Found::Fault(walk_fault(&error)),
                Ok(entry) if entry.file_type().is_dir() => {
                    if entry.depth() == 0 {
                        continue;
                    }
                    if let Some(target) = self.leads_back(&entry) {
                        if self.depth == Depth::All {
                            self.entries.skip_current_dir();
                        }
                        return Some(Found::Fault(fault(entry.path(), loop_reason(&target))));
                    }
                    if self.depth == Depth::All {
                        continue;
                    }
                    Found::Directory(entry.into_path())
                }
                Ok(entry) => match Format::of(entry.file_name()) {
                    Some(_) if is_summary(entry.file_name()) => continue,
                    Some(_) if !entry.file_type().is_file() => {
                        Found::Fault(fault(entry.path(), special_file_reason(entry.file_type())))
                    }
                    Some(format) => {
                        let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
                        Found::File(FoundFile { path: entry.into_path(), format, bytes })
                    }
                    None => Found::Other,
                },
            });
        }
    }
}

/// The path below `base`, with `/` between components, and whether it is exact: names that are not UTF-8 have
/// U+FFFD where they cannot be shown.
pub(super) fn relative_path(base: &Path, path: &Path) -> (String, bool) {
    let relative = path.strip_prefix(base).ok().filter(|relative| !relative.as_os_str().is_empty());
    let relative = relative.unwrap_or_else(|| path.file_name().map_or(path, Path::new));
    let names: Vec<_> = relative.iter().map(OsStr::to_string_lossy).collect();
    (names.join("/"), relative.to_str().is_some())
}

/// A fault of a whole path.
pub(super) fn fault(path: &Path, reason: impl Into<String>) -> LoadingError {
    LoadingError { path: path.display().to_string(), line: None, column: None, index: None, reason: reason.into() }
}

/// Why a file that is neither regular nor a directory is not read.
pub(super) fn special_file_reason(file_type: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if file_type.is_fifo() {
            return "a named pipe, not a regular file; it is not opened";
        }
        if file_type.is_socket() {
            return "a socket, not a regular file; it is not opened";
        }
    }
    let _ = file_type;
    "not a regular file; it is not opened"
}

fn walk_fault(error: &walkdir::Error) -> LoadingError {
    let path = error.path().unwrap_or(Path::new(""));
    let reason = match (error.loop_ancestor(), error.io_error()) {
        (Some(ancestor), _) => loop_reason(ancestor),
        (None, Some(error)) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            "a symbolic link to nothing".to_owned()
        }
        (None, Some(error)) => format!("cannot be read: {error}"),
        (None, None) => "cannot be read".to_owned(),
    };
    fault(path, reason)
}

fn loop_reason(ancestor: &Path) -> String {
    format!("a symbolic link that leads back to {}", ancestor.display())
}
