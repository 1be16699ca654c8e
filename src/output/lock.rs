//! One run at a time writes into an output directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = ".lock";

/// The right to write into an output directory, given back when dropped or when the process ends, however it ends.
///
/// What counts is the operating system's lock on the open file; the file itself stays, since removing it would let
/// two runs lock two files of one name, and the process number in it is for people.
#[derive(Debug)]
pub struct OutputLock {
    _file: File,
}

/// An output directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another run holds it.
    #[error("{} is being written by another run{} (wait for it, or choose another directory with --output-dir)", directory.display(), in_words(*holder))]
    Held {
        /// The output directory.
        directory: PathBuf,
        /// Process number of the other run, where it could be read.
        holder: Option<u32>,
    },
    /// The lock file could not be made or locked.
    #[error("cannot lock {} (an output directory must be writable and on a file system with locks)", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

fn in_words(holder: Option<u32>) -> String {
    holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

impl OutputLock {
    /// Takes the lock of an output directory, which is created where there is none.
    ///
    /// # Errors
    /// When another run holds it, or the directory cannot be written.
    pub fn acquire(output_dir: &Path) -> Result<Self, LockError> {
        let path = output_dir.join(LOCK_FILE);
        let lock = |source| LockError::Lock { path: path.clone(), source };
        fs::create_dir_all(output_dir).map_err(lock)?;
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(lock)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { directory: output_dir.to_owned(), holder: read_holder(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(lock(source)),
        }
        write_holder(&mut file).map_err(lock)?;
        Ok(Self { _file: file })
    }
}

fn read_holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().strip_prefix("pid ")?.parse().ok()
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "pid {}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_refused_until_the_first_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("Embeddings");
        let first = OutputLock::acquire(&directory).unwrap();
        let refused = OutputLock::acquire(&directory).unwrap_err().to_string();
        let expected = format!(
            "{} is being written by another run (pid {}) (wait for it, or choose another directory with --output-dir)",
            directory.display(),
            std::process::id()
        );
        assert_eq!(refused, expected);
        drop(first);
        OutputLock::acquire(&directory).unwrap();
    }

    #[test]
    fn a_lock_file_left_behind_does_not_lock() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(LOCK_FILE), "pid 4000000000000 and more than that").unwrap();
        let _lock = OutputLock::acquire(root.path()).unwrap();
        let text = fs::read_to_string(root.path().join(LOCK_FILE)).unwrap();
        assert_eq!(text, format!("pid {}\n", std::process::id()));
    }
}
