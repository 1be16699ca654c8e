//! Finds the collections of an input root.

use std::io;
use std::path::{Path, PathBuf};

use super::Collection;
use super::format::{Format, READ_NAMES, collection_stem};
use super::walk::{Depth, Found, FoundFile, Walk, fault};
use crate::domain::{CollectionName, LoadingError};

/// What a root should look like, for messages.
const LAYOUT: &str = "a root has one directory per collection with chunk files in it, or chunk files alone";

/// Where to look, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// A directory of collections, a directory that is one collection, or one chunk file.
    pub root: &'a Path,
    /// Names of the collections that are wanted; all, when empty.
    pub only: &'a [String],
}

/// What lies under a root.
#[derive(Debug, Default)]
pub struct Discovery {
    /// In the order of their paths.
    pub collections: Vec<Collection>,
    /// First-level directories without a chunk file: to be reported, there is nothing to schedule.
    pub empty: Vec<PathBuf>,
    /// What belongs to no collection and could not be read. Faults inside a collection are told by its reader, so
    /// that each is told once.
    pub faults: Vec<LoadingError>,
}

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The root does not exist or cannot be looked at.
    #[error("the input root {} cannot be read; {LAYOUT}", root.display())]
    Root {
        /// As given.
        root: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root is a file that is not known to hold chunks.
    #[error("the input root {} is neither a directory nor a chunk file ({READ_NAMES})", root.display())]
    NotChunks {
        /// As given.
        root: PathBuf,
    },
    /// The root is to be one collection, and its name cannot be that of an output directory.
    #[error(
        "the input root {} is one collection, and cannot name its output directory; put its files into a \
         directory with a plain name", root.display()
    )]
    UnusableName {
        /// As given.
        root: PathBuf,
    },
    /// There is no chunk file where one was looked for.
    #[error(
        "there is no chunk file ({READ_NAMES}) in {}{}; {LAYOUT}",
        root.display(),
        faults.first().map(|fault| format!(" ({} could not be read, first {fault})", faults.len())).unwrap_or_default()
    )]
    NoChunkFile {
        /// As given.
        root: PathBuf,
        /// First-level directories without a chunk file.
        empty: Vec<PathBuf>,
        /// What could not be read.
        faults: Vec<LoadingError>,
    },
    /// Collections were asked for that are not there.
    #[error("{} has no collection {}; there are {}", root.display(), quoted(unknown), quoted(existing))]
    Unknown {
        /// As given.
        root: PathBuf,
        /// What was asked for and is not there.
        unknown: Vec<String>,
        /// What is there.
        existing: Vec<String>,
    },
}

/// Finds the collections under a root. First-level directories are collections; a root with chunk files and no
/// sub-directory with any is itself one; a root that is a file is a collection of one file.
///
/// # Errors
/// See [`DiscoverError`]; whatever concerns only a part of the root is in [`Discovery::faults`] instead.
pub fn discover(request: &Request) -> Result<Discovery, DiscoverError> {
    let root = request.root;
    let metadata = std::fs::metadata(root).map_err(|source| DiscoverError::Root { root: root.to_owned(), source })?;
    if metadata.is_dir() {
        return select(survey_root(root)?, request);
    }
    let chunk_file = metadata.is_file() && root.file_name().and_then(Format::of).is_some();
    if !chunk_file {
        return Err(DiscoverError::NotChunks { root: root.to_owned() });
    }
    let name =
        root.file_name().and_then(|name| name.to_str()).and_then(|name| CollectionName::new(collection_stem(name)));
    let name = name.ok_or_else(|| DiscoverError::UnusableName { root: root.to_owned() })?;
    let count = Count { files: 1, bytes: metadata.len(), ..Count::default() };
    let survey = Survey {
        directories: vec![(name.to_string(), Part::Collection(collection(name, root, &count)))],
        ..Survey::default()
    };
    select(survey, request)
}

/// A root as it is, before anything is chosen.
#[derive(Debug, Default)]
struct Survey {
    /// Name and nature of each would-be collection, in path order.
    directories: Vec<(String, Part)>,
    /// What belongs to none of them.
    faults: Vec<LoadingError>,
}

#[derive(Debug)]
enum Part {
    Collection(Collection),
    /// No chunk file, and this that could not be read.
    Empty(PathBuf, Vec<LoadingError>),
    UnusableName(LoadingError),
}

#[derive(Debug, Default)]
struct Count {
    files: u64,
    bytes: u64,
    others: u64,
    faults: Vec<LoadingError>,
}

fn survey_root(root: &Path) -> Result<Survey, DiscoverError> {
    let mut survey = Survey::default();
    let mut loose = Count::default();
    let mut loose_files = Vec::new();
    let mut any_directory_has_chunks = false;
    for found in Walk::new(root, Depth::Entries) {
        match found {
            Found::File(file) => {
                loose.add(&file);
                loose_files.push(file.path);
            }
            Found::Other => loose.others += 1,
            Found::Fault(fault) => survey.faults.push(fault),
            Found::Directory(path) => {
                let count = count(&path);
                any_directory_has_chunks |= count.files > 0;
                loose.others += count.others;
                survey.directories.push(part(path, count));
            }
        }
    }
    if any_directory_has_chunks {
        survey.faults.extend(loose_files.iter().map(|path| {
            fault(
                path,
                "belongs to no collection, because the root has directories with chunk files; move it into a \
                 directory, or give it as the root",
            )
        }));
    } else if loose.files > 0 {
        return whole(root, &loose).map(|collection| Survey {
            directories: vec![(collection.name().to_string(), Part::Collection(collection))],
            // Its reader walks over all that was found here.
            faults: Vec::new(),
        });
    }
    Ok(survey)
}

fn whole(root: &Path, count: &Count) -> Result<Collection, DiscoverError> {
    // `.` and `..` have no name of their own; any other name is taken as typed, not as a link resolves.
    let resolved;
    let named = if root.file_name().is_some() {
        root
    } else {
        resolved = root.canonicalize().map_err(|source| DiscoverError::Root { root: root.to_owned(), source })?;
        &resolved
    };
    let name = named.file_name().and_then(|name| name.to_str()).and_then(CollectionName::new);
    let name = name.ok_or_else(|| DiscoverError::UnusableName { root: root.to_owned() })?;
    Ok(collection(name, root, count))
}

fn part(path: PathBuf, count: Count) -> (String, Part) {
    let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = path.file_name().and_then(|name| name.to_str()).and_then(CollectionName::new);
    let part = match name {
        _ if count.files == 0 => Part::Empty(path, count.faults),
        Some(name) => Part::Collection(collection(name, &path, &count)),
        None => Part::UnusableName(fault(
            &path,
            format!(
                "not read: the directory's name cannot be that of an output directory; rename it ({} files)",
                count.files
            ),
        )),
    };
    (shown, part)
}

fn count(directory: &Path) -> Count {
    let mut count = Count::default();
    for found in Walk::new(directory, Depth::All) {
        match found {
            Found::File(file) => count.add(&file),
            Found::Other => count.others += 1,
            Found::Fault(fault) if count.files == 0 => count.faults.push(fault),
            // The reader of the collection tells it.
            Found::Fault(_) | Found::Directory(_) => {}
        }
    }
    count
}

impl Count {
    fn add(&mut self, file: &FoundFile) {
        self.files += 1;
        self.bytes += file.bytes;
    }
}

fn collection(name: CollectionName, root: &Path, count: &Count) -> Collection {
    Collection { name, root: root.to_owned(), files: count.files, bytes: count.bytes, other_files: count.others }
}

fn select(survey: Survey, request: &Request) -> Result<Discovery, DiscoverError> {
    let existing: Vec<_> = survey.directories.iter().map(|(name, _)| name.clone()).collect();
    let unknown: Vec<_> = request.only.iter().filter(|name| !existing.contains(name)).cloned().collect();
    if !unknown.is_empty() {
        return Err(DiscoverError::Unknown { root: request.root.to_owned(), unknown, existing });
    }
    let mut discovery = Discovery::default();
    if request.only.is_empty() {
        discovery.faults = survey.faults;
    }
    for (name, part) in survey.directories {
        if !request.only.is_empty() && !request.only.contains(&name) {
            continue;
        }
        match part {
            Part::Collection(collection) => discovery.collections.push(collection),
            Part::UnusableName(fault) => discovery.faults.push(fault),
            Part::Empty(path, faults) => {
                // What cannot be read is not known to be empty.
                if faults.is_empty() {
                    discovery.empty.push(path);
                }
                discovery.faults.extend(faults);
            }
        }
    }
    if discovery.collections.is_empty() {
        let Discovery { empty, faults, .. } = discovery;
        return Err(DiscoverError::NoChunkFile { root: request.root.to_owned(), empty, faults });
    }
    Ok(discovery)
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
