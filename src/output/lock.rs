//! One run at a time writes into an output directory, or several shares of one job, each once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::place::{parse_share_name, share_name};
use crate::domain::Share;

const LOCK_FILE: &str = ".lock";

/// Whoever asks whether a lock is held has it for a moment; whoever wants it waits so long for that.
const PATIENCE: Duration = Duration::from_millis(200);
const PATIENCE_STEP: Duration = Duration::from_millis(20);

/// The right to write into an output directory, given back when dropped or when the process ends, however it ends.
///
/// A run holds the directory's lock alone. A share holds it together with the other shares, and alone a lock of its own.
/// What counts is the operating system's lock on the open file; the file itself stays, since removing it would let
/// two runs lock two files of one name, and the process number in it is for people.
#[derive(Debug)]
pub struct OutputLock {
    _file: File,
    _of_share: Option<File>,
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
    /// Shares of a job are being written there.
    #[error("{} is being written by shares of a job (wait for them, or choose another directory with --output-dir)", directory.display())]
    HeldByShares {
        /// The output directory.
        directory: PathBuf,
    },
    /// Another process does the same share.
    #[error("share {share} is being written into {} by another run{} (give each machine another share)", directory.display(), in_words(*holder))]
    ShareHeld {
        /// The output directory.
        directory: PathBuf,
        /// The share.
        share: Share,
        /// Process number of the other run on its machine, where it could be read.
        holder: Option<u32>,
    },
    /// Shares of another division are being written.
    #[error("share {found} is being written into {}, so that share {wanted} has no place there (give all machines one number of shares, or another --output-dir)", directory.display())]
    OtherShares {
        /// The output directory.
        directory: PathBuf,
        /// The share that was found.
        found: Share,
        /// The share that was wanted.
        wanted: Share,
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
    /// When another run holds it, or shares do, or the directory cannot be written.
    pub fn acquire(output_dir: &Path) -> Result<Self, LockError> {
        let (path, mut file) = open(output_dir, LOCK_FILE)?;
        if taken(&path, || file.try_lock())? {
            write_holder(&mut file).map_err(|source| LockError::Lock { path, source })?;
            return Ok(Self { _file: file, _of_share: None });
        }
        let directory = output_dir.to_owned();
        match file.try_lock_shared() {
            Ok(()) => Err(LockError::HeldByShares { directory }),
            Err(_) => Err(LockError::Held { directory, holder: read_holder(&mut file) }),
        }
    }

    /// Takes the lock of one share of an output directory, which is created where there is none.
    ///
    /// # Errors
    /// When somebody else holds it, a run without shares or shares of another number are at work, or the directory
    /// cannot be written.
    pub fn acquire_share(output_dir: &Path, share: Share) -> Result<Self, LockError> {
        let directory = output_dir.to_owned();
        let (path, mut file) = open(output_dir, LOCK_FILE)?;
        if !taken(&path, || file.try_lock_shared())? {
            return Err(LockError::Held { directory, holder: read_holder(&mut file) });
        }
        let (path, mut of_share) = open(output_dir, &share_lock_file(share))?;
        if !taken(&path, || of_share.try_lock())? {
            return Err(LockError::ShareHeld { directory, share, holder: read_holder(&mut of_share) });
        }
        write_holder(&mut of_share).map_err(|source| LockError::Lock { path, source })?;
        // Each looks after it has its own, so that of two that come at the same time one sees the other.
        let held = held_shares(output_dir).into_iter().map(|(found, _)| found);
        match held.into_iter().find(|found| found.of() != share.of()) {
            Some(found) => Err(LockError::OtherShares { directory, found, wanted: share }),
            None => Ok(Self { _file: file, _of_share: Some(of_share) }),
        }
    }

    /// Removes the lock files of all shares, which none can hold while this lock is held; then gives it back.
    pub(super) fn release_without_share_locks(self, output_dir: &Path) {
        let Self { _file: file, .. } = self;
        for (_, path) in share_locks(output_dir) {
            // One that stays does no harm.
            let _ = fs::remove_file(path);
        }
        drop(file);
    }
}

/// Who is writing into an output directory at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writers {
    /// Nobody; or nobody who could be seen.
    None,
    /// A run, with its process number on its machine where it could be read.
    Run(Option<u32>),
    /// These shares.
    Shares(Vec<Share>),
}

/// Looks who is writing into an output directory. Nothing is written, and nothing is held afterwards.
pub fn writers(output_dir: &Path) -> Writers {
    match look(&output_dir.join(LOCK_FILE)) {
        State::Held(holder) => Writers::Run(holder),
        State::Free => match held_shares(output_dir) {
            shares if shares.is_empty() => Writers::None,
            shares => Writers::Shares(shares.into_iter().map(|(share, _)| share).collect()),
        },
    }
}

fn share_lock_file(share: Share) -> String {
    format!("{LOCK_FILE}.{}", share_name(share))
}

/// Lock files of shares, held or not.
fn share_locks(output_dir: &Path) -> Vec<(Share, PathBuf)> {
    let entries = fs::read_dir(output_dir).into_iter().flatten().flatten();
    let lock = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let share = parse_share_name(name.strip_prefix(LOCK_FILE)?.strip_prefix('.')?)?;
        Some((share, entry.path()))
    };
    let mut locks: Vec<_> = entries.filter_map(lock).collect();
    locks.sort_unstable();
    locks
}

fn held_shares(output_dir: &Path) -> Vec<(Share, PathBuf)> {
    share_locks(output_dir).into_iter().filter(|(_, path)| look(path) != State::Free).collect()
}

/// Whether somebody has a lock alone, and who, as far as its file tells.
#[derive(PartialEq, Eq)]
enum State {
    Held(Option<u32>),
    /// Or it cannot be asked.
    Free,
}

fn look(path: &Path) -> State {
    let Ok(mut file) = File::open(path) else { return State::Free };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => State::Held(read_holder(&mut file)),
        _ => State::Free,
    }
}

/// Opens a lock file.
fn open(output_dir: &Path, name: &str) -> Result<(PathBuf, File), LockError> {
    let path = output_dir.join(name);
    let opened = fs::create_dir_all(output_dir)
        .and_then(|()| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path));
    match opened {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(LockError::Lock { path, source }),
    }
}

/// Whether a lock could be taken.
fn taken(path: &Path, mut try_lock: impl FnMut() -> Result<(), TryLockError>) -> Result<bool, LockError> {
    let mut waited = Duration::ZERO;
    loop {
        match try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if waited >= PATIENCE => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PATIENCE_STEP),
            Err(TryLockError::Error(source)) => return Err(LockError::Lock { path: path.to_owned(), source }),
        }
        waited += PATIENCE_STEP;
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
    fn shares_are_beside_each_other_and_nobody_else() {
        let root = tempfile::tempdir().unwrap();
        let share = |text: &str| text.parse::<Share>().unwrap();
        let acquire = |text: &str| OutputLock::acquire_share(root.path(), share(text));
        assert_eq!(writers(root.path()), Writers::None);
        let (first, second) = (acquire("0/3").unwrap(), acquire("2/3").unwrap());
        assert_eq!(writers(root.path()), Writers::Shares(vec![share("0/3"), share("2/3")]));
        assert!(matches!(acquire("0/3"), Err(LockError::ShareHeld { holder: Some(_), .. })));
        assert!(matches!(acquire("0/2"), Err(LockError::OtherShares { .. })));
        assert!(matches!(OutputLock::acquire(root.path()), Err(LockError::HeldByShares { .. })));
        drop(first);
        drop((acquire("0/3").unwrap(), second));
        let run = OutputLock::acquire(root.path()).unwrap();
        assert_eq!(writers(root.path()), Writers::Run(Some(std::process::id())));
        assert!(matches!(acquire("1/3"), Err(LockError::Held { .. })));
        run.release_without_share_locks(root.path());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
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
