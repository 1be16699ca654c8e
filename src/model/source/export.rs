//! A model's files as a directory that can be carried elsewhere.
//!
//! Of a directory, a snapshot in the hub's cache or an unpacked package, what a run reads is copied and nothing else;
//! links are followed. All is written under another name, read back, and gets its own name only when it is whole, so
//! that half a model never stands where a whole one is looked for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use walkdir::WalkDir;

use super::{blob_digest, files};
use crate::domain::{Digest, DigestReader, DigestWriter};

/// Why a model was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Something is there already.
    #[error("{} is not empty; name another directory, or pass --overwrite to replace it", target.display())]
    Exists {
        /// The directory.
        target: PathBuf,
    },
    /// What is there is not a model, and will not be deleted for one.
    #[error("{} is not empty and holds no model; it is not replaced, name another directory", target.display())]
    NoModel {
        /// The directory.
        target: PathBuf,
    },
    /// The model would be written into itself, or over what holds it.
    #[error("{} and the model's directory {} lie within each other; name another directory", target.display(), source_directory.display())]
    Within {
        /// Where it should go.
        target: PathBuf,
        /// Where it is.
        source_directory: PathBuf,
    },
    /// There is nothing to write.
    #[error("{} has no weights that can be read", directory.display())]
    NoWeights {
        /// The model's directory.
        directory: PathBuf,
    },
    /// Somebody else writes there.
    #[error("another program is writing {}; wait for it", target.display())]
    Busy {
        /// The directory.
        target: PathBuf,
    },
    /// What was read back is not what was written, or what was read is not what the hub gave.
    #[error("{} has the digest {found} instead of {expected}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Its digest.
        found: Digest,
        /// What it should be.
        expected: Digest,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl ExportError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::File { path, source }
    }
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Its path in the directory, with `/`.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its digest, as it was read back.
    pub sha256: Digest,
}

/// A copy that does not have its own name yet. It is gone when dropped.
#[derive(Debug)]
pub struct Export {
    target: PathBuf,
    partial: PathBuf,
    files: Vec<Exported>,
    is_committed: bool,
    /// The lock on the partial directory, which ends with this.
    _lock: File,
}

impl Export {
    /// Copies the model in `directory` to beside `target`.
    ///
    /// # Errors
    /// [`ExportError`]; nothing is left behind then.
    pub fn write(directory: &Path, target: &Path, overwrite: bool) -> Result<Self, ExportError> {
        let directory = directory.canonicalize().map_err(ExportError::file(directory))?;
        let target = std::path::absolute(target).map_err(ExportError::file(target))?;
        check_target(&directory, &target, overwrite)?;
        let selection = select(&directory)?;
        let partial = target.with_added_extension("partial");
        fs::create_dir_all(&partial).map_err(ExportError::file(&partial))?;
        let lock = File::open(&partial).map_err(ExportError::file(&partial))?;
        // Whoever wrote it may have given it its own name between the two lines above.
        if lock.try_lock().is_err() || !partial.is_dir() {
            return Err(ExportError::Busy { target });
        }
        let mut export = Self { target, partial, files: Vec::new(), is_committed: false, _lock: lock };
        export.clear()?;
        for path in selection {
            let (bytes, sha256) = copy(&directory.join(&path), &export.partial.join(&path))?;
            export.files.push(Exported { path, bytes, sha256 });
        }
        for entry in WalkDir::new(&export.partial).into_iter().flatten().filter(|entry| entry.file_type().is_dir()) {
            sync(entry.path())?;
        }
        Ok(export)
    }

    /// Where the copy is until it is committed.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Gives the copy its own name. What is there is moved away first and then deleted, so that the name never stands for
    /// a part of a model.
    ///
    /// # Errors
    /// [`ExportError::File`].
    pub fn commit(mut self) -> Result<(PathBuf, Vec<Exported>), ExportError> {
        let old = self.target.with_added_extension("old");
        remove(&old)?;
        let is_there = self.target.exists();
        if is_there {
            fs::rename(&self.target, &old).map_err(ExportError::file(&self.target))?;
        }
        fs::rename(&self.partial, &self.target).map_err(ExportError::file(&self.target))?;
        self.is_committed = true;
        sync(self.target.parent().unwrap_or(&self.target))?;
        remove(&old)?;
        Ok((self.target.clone(), std::mem::take(&mut self.files)))
    }

    /// Removes what an interrupted export left.
    fn clear(&self) -> Result<(), ExportError> {
        for entry in fs::read_dir(&self.partial).map_err(ExportError::file(&self.partial))? {
            let path = entry.map_err(ExportError::file(&self.partial))?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(ExportError::file(&path))?;
        }
        Ok(())
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if !self.is_committed {
            // What cannot be removed now is removed by the next export to the same place.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

fn check_target(directory: &Path, target: &Path, overwrite: bool) -> Result<(), ExportError> {
    let resolved = target.canonicalize().unwrap_or_else(|_| target.to_owned());
    if resolved.starts_with(directory) || directory.starts_with(&resolved) {
        return Err(ExportError::Within { target: target.to_owned(), source_directory: directory.to_owned() });
    }
    let has_files = match fs::read_dir(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(ExportError::File { path: target.to_owned(), source }),
        Ok(mut entries) => entries.next().is_some(),
    };
    let target = target.to_owned();
    match (has_files, overwrite) {
        (false, _) => Ok(()),
        (true, false) => Err(ExportError::Exists { target }),
        (true, true) if ["config.json", "modules.json"].iter().any(|name| target.join(name).is_file()) => Ok(()),
        (true, true) => Err(ExportError::NoModel { target }),
    }
}

/// The paths of what a run reads, with `/`.
fn select(directory: &Path) -> Result<Vec<String>, ExportError> {
    let mut sizes = BTreeMap::new();
    for entry in WalkDir::new(directory).follow_links(true).max_depth(4) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(directory).to_owned();
            ExportError::File { path, source: error.into() }
        })?;
        let relative = entry.path().strip_prefix(directory).ok().and_then(Path::to_str);
        if let (Some(path), true) = (relative, entry.file_type().is_file()) {
            sizes.insert(path.replace(std::path::MAIN_SEPARATOR, "/"), entry.metadata().map_or(0, |it| it.len()));
        }
    }
    let modules = files::module_directories(&directory.join(files::MODULES));
    let selection = files::select_among(&sizes, |path| files::is_wanted_with(path, &modules));
    if !files::has_weights(&selection) {
        return Err(ExportError::NoWeights { directory: directory.to_owned() });
    }
    Ok(selection.into_iter().map(|(path, _)| path).collect())
}

/// Copies one file through to the disk and reads it back.
fn copy(from: &Path, to: &Path) -> Result<(u64, Digest), ExportError> {
    let (read_error, write_error) = (|| ExportError::file(from), || ExportError::file(to));
    fs::create_dir_all(to.parent().unwrap_or(to)).map_err(write_error())?;
    let mut reader = File::open(from).map_err(read_error())?;
    let mut writer = DigestWriter::new(File::create_new(to).map_err(write_error())?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer).map_err(read_error())? {
            0 => break,
            count => writer.write_all(&buffer[..count]).map_err(write_error())?,
        }
    }
    let (file, written, bytes) = writer.finish();
    file.sync_all().map_err(write_error())?;
    if let Some(expected) = blob_digest(from).filter(|expected| *expected != written) {
        return Err(ExportError::Corrupt { path: from.to_owned(), found: written, expected });
    }
    let (found, _) = File::open(to).and_then(DigestReader::drain).map_err(read_error())?;
    if found != written {
        return Err(ExportError::Corrupt { path: to.to_owned(), found, expected: written });
    }
    Ok((bytes, found))
}

fn remove(path: &Path) -> Result<(), ExportError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ExportError::file(path)(error)),
        _ => Ok(()),
    }
}

/// Makes names in a directory last.
fn sync(directory: &Path) -> Result<(), ExportError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(ExportError::file(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("modules.json", r#"[{"path": ""}, {"path": "pool"}]"#),
            ("config.json", "{}"),
            ("model.safetensors", "weights"),
            ("pytorch_model.bin", "the same weights"),
            ("README.md", "read me"),
            ("onnx/model.onnx", "other weights"),
            ("pool/config.json", "{ }"),
            ("pool/notes.txt", ""),
        ] {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_run_reads_is_copied_and_nothing_has_the_name_before_all_is_there() {
        let (model, place) = (model(), tempfile::tempdir().unwrap());
        let target = place.path().join("out");
        let export = Export::write(model.path(), &target, false).unwrap();
        assert!(!target.exists() && export.partial().is_dir());
        let (_, files) = export.commit().unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["config.json", "modules.json", "pool/config.json", "model.safetensors"]);
        assert_eq!((files[3].bytes, files[3].sha256), (7, Digest::of(b"weights")));
        assert_eq!(names(&target), ["config.json", "model.safetensors", "modules.json", "pool"]);
        assert_eq!(
            (names(&target.join("pool")), names(place.path())),
            (vec!["config.json".into()], vec!["out".into()])
        );
    }

    #[test]
    fn a_copy_that_is_given_up_leaves_nothing_and_one_that_was_killed_is_in_nobodys_way() {
        let (model, place) = (model(), tempfile::tempdir().unwrap());
        let target = place.path().join("out");
        drop(Export::write(model.path(), &target, false).unwrap());
        assert!(names(place.path()).is_empty());
        fs::create_dir_all(place.path().join("out.partial/pool")).unwrap();
        fs::write(place.path().join("out.partial/vocab.txt"), "of another model").unwrap();
        Export::write(model.path(), &target, false).unwrap().commit().unwrap();
        assert!(!target.join("vocab.txt").exists());
    }

    #[test]
    fn two_exports_to_one_place_do_not_mix() {
        let (model, place) = (model(), tempfile::tempdir().unwrap());
        let target = place.path().join("out");
        let first = Export::write(model.path(), &target, false).unwrap();
        let second = Export::write(model.path(), &target, false);
        assert!(matches!(second, Err(ExportError::Busy { .. })), "{second:?}");
        first.commit().unwrap();
        assert!(target.join("model.safetensors").is_file());
    }

    #[test]
    fn only_an_empty_directory_or_another_model_is_replaced_and_the_latter_on_request() {
        let (model, place) = (model(), tempfile::tempdir().unwrap());
        let target = place.path().join("out");
        fs::create_dir(&target).unwrap();
        Export::write(model.path(), &target, false).unwrap().commit().unwrap();
        let again = Export::write(model.path(), &target, false);
        assert!(matches!(again, Err(ExportError::Exists { .. })), "{again:?}");
        fs::write(target.join("vocab.txt"), "of another model").unwrap();
        Export::write(model.path(), &target, true).unwrap().commit().unwrap();
        assert!(!target.join("vocab.txt").exists());
        assert_eq!(names(place.path()), ["out"]);

        let home = place.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::write(home.join("thesis.tex"), "years").unwrap();
        let over = Export::write(model.path(), &home, true);
        assert!(matches!(over, Err(ExportError::NoModel { .. })), "{over:?}");
        for inside in [model.path().join("copy"), model.path().to_owned(), model.path().parent().unwrap().to_owned()] {
            let error = Export::write(model.path(), &inside, true);
            assert!(matches!(error, Err(ExportError::Within { .. })), "{error:?}");
        }
    }

    #[test]
    fn a_blob_that_is_not_what_its_name_says_is_not_carried_on() {
        let (model, place) = (model(), tempfile::tempdir().unwrap());
        let blob = place.path().join("blobs").join(Digest::of(b"weights").to_string());
        fs::create_dir(blob.parent().unwrap()).unwrap();
        fs::rename(model.path().join("model.safetensors"), &blob).unwrap();
        std::os::unix::fs::symlink(&blob, model.path().join("model.safetensors")).unwrap();
        let target = place.path().join("out");
        let (_, files) = Export::write(model.path(), &target, false).unwrap().commit().unwrap();
        assert_eq!(files.len(), 4);
        assert!(!target.join("model.safetensors").is_symlink());
        fs::write(&blob, "weighty").unwrap();
        let error = Export::write(model.path(), &target, true);
        assert!(matches!(error, Err(ExportError::Corrupt { .. })), "{error:?}");
        assert_eq!(fs::read(target.join("model.safetensors")).unwrap(), b"weights", "what was there is still there");
    }
}
