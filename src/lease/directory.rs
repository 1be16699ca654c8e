//! Where the lock files are: one directory for all users of a machine.
//!
//! Users do not trust each other with their files, yet all must be able to lock: the directory is open to all and
//! sticky like `/tmp`, the files are open to all whatever the umask, and nothing that somebody planted under the name
//! of a lock file is followed. Files are opened relative to the open directory, so that its path is looked at once.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::DeviceKey;
use super::level::LockName;

/// Where the lock files of all users are if nobody says otherwise.
pub const SHARED_DIRECTORY: &str = "/run/lock/embed-collections";

/// Tries to open a file that others keep removing; nobody does that but on purpose.
pub(super) const MOST_ATTEMPTS: usize = 8;

/// Open to all; only the owner of a file may remove it.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o1777);
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);

/// Directories in which leases may be, best first.
#[derive(Debug, Clone)]
pub struct Candidates {
    /// What the user asks for; then nothing else counts.
    pub chosen: Option<PathBuf>,
    /// That of all users.
    pub shared: PathBuf,
    /// That of one user, for machines where the shared one cannot be made.
    pub private: Option<PathBuf>,
}

impl Candidates {
    /// The usual ones: `chosen` alone if there is one, else [`SHARED_DIRECTORY`], else a directory in the user's
    /// runtime directory.
    pub fn new(chosen: Option<PathBuf>, runtime: Option<&Path>) -> Self {
        let private = runtime.map(|runtime| runtime.join("embed-collections"));
        Self { chosen, shared: SHARED_DIRECTORY.into(), private }
    }

    /// Each of them, best first: the chosen one alone if there is one.
    pub fn in_order(&self) -> Vec<(&Path, Reach)> {
        match &self.chosen {
            Some(chosen) => vec![(chosen.as_path(), Reach::AllUsers)],
            None => [
                Some((self.shared.as_path(), Reach::AllUsers)),
                self.private.as_deref().map(|path| (path, Reach::OneUser)),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    }
}

/// Whose leases a directory can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those of every user who may write it.
    AllUsers,
    /// Those of this user alone.
    OneUser,
}

/// An open directory of lock files.
#[derive(Debug)]
pub struct LeaseDirectory {
    path: PathBuf,
    descriptor: OwnedFd,
    reach: Reach,
}

/// There is no directory for leases.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// This one must be used and cannot be.
    #[error("leases cannot be kept in {}: {}; put it right, or set EMBED_LEASE_DIR to a directory that all users can write", path.display(), reason(.source))]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// None can be made.
    #[error("no directory for leases ({}); set EMBED_LEASE_DIR to a directory that all users can write", list(.tried))]
    None {
        /// Each directory with what the operating system said.
        tried: Vec<(PathBuf, io::Error)>,
    },
}

/// A lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Somebody put something else there.
    #[error("{} is a symbolic link, a directory or the like, not a lock file; remove it", path.display())]
    NotRegular {
        /// Its path.
        path: PathBuf,
    },
    /// No lock file can be made.
    #[error("cannot make a lock file in {}: {source}; make the directory writable for all users (mode 1777), or set EMBED_LEASE_DIR to another", directory.display())]
    Create {
        /// The directory.
        directory: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It cannot be opened, locked or written.
    #[error("cannot use the lock file {}: {source}; it must be readable and writable for all users (mode 666), on a file system with locks", path.display())]
    Use {
        /// Its path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

fn reason(source: &io::Error) -> String {
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        // A link as last component is either of these, depending on the system.
        Some(Errno::LOOP | Errno::NOTDIR) => "it is a symbolic link or no directory".to_owned(),
        _ => source.to_string(),
    }
}

fn list(tried: &[(PathBuf, io::Error)]) -> String {
    let mut parts: Vec<String> =
        tried.iter().map(|(path, source)| format!("{}: {}", path.display(), reason(source))).collect();
    if parts.len() < 2 {
        parts.push("XDG_RUNTIME_DIR is not set".to_owned());
    }
    parts.join("; ")
}

impl LeaseDirectory {
    /// Opens the first candidate that is there or can be made.
    ///
    /// A shared directory that is there but cannot be used is an error, for going on elsewhere would mean not to see
    /// the leases in it.
    ///
    /// # Errors
    /// If none is there, can be used and can be made.
    pub fn open(candidates: &Candidates) -> Result<Self, DirectoryError> {
        if let Some(path) = &candidates.chosen {
            let made = path
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| Self::open_or_create(path, Reach::AllUsers));
            return made.map_err(|source| DirectoryError::Unusable { path: path.clone(), source });
        }
        if let Some(shared) = Self::open_existing(&candidates.shared, Reach::AllUsers)? {
            return Ok(shared);
        }
        let mut tried = Vec::new();
        for (path, reach) in candidates.in_order() {
            match Self::open_or_create(path, reach) {
                Ok(directory) => return Ok(directory),
                Err(source) => tried.push((path.to_owned(), source)),
            }
        }
        Err(DirectoryError::None { tried })
    }

    /// The directory that [`open`](Self::open) would use, if it is there already.
    ///
    /// # Errors
    /// If one is there and cannot be used.
    pub fn find(candidates: &Candidates) -> Result<Option<Self>, DirectoryError> {
        for (path, reach) in candidates.in_order() {
            if let Some(found) = Self::open_existing(path, reach)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose leases it can hold.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// The devices that have a lock file, in order.
    pub(super) fn devices(&self) -> Result<Vec<DeviceKey>, DirectoryError> {
        let unusable = |source| DirectoryError::Unusable { path: self.path.clone(), source };
        let mut devices = Vec::new();
        let entries = rustix::fs::Dir::read_from(&self.descriptor).map_err(|errno| unusable(errno.into()))?;
        for entry in entries {
            let entry = entry.map_err(|errno| unusable(errno.into()))?;
            devices.extend(entry.file_name().to_str().ok().and_then(LockName::device_of_outer));
        }
        devices.sort();
        Ok(devices)
    }

    /// Opens the lock file of a device, which is made if there is none.
    pub(super) fn lock_file(&self, name: LockName<'_>) -> Result<File, FileError> {
        let create = |errno: Errno| FileError::Create { directory: self.path.clone(), source: errno.into() };
        for _ in 0..MOST_ATTEMPTS {
            if let Some(file) = self.existing_lock_file(name, OFlags::RDWR)? {
                return Ok(file);
            }
            self.create_lock_file(name).map_err(create)?;
        }
        Err(create(Errno::NOENT))
    }

    /// Opens the lock file of a device if there is one.
    ///
    /// Without `O_CREAT`: in a sticky directory the kernel refuses it for files of others (`fs.protected_regular`).
    pub(super) fn existing_lock_file(&self, name: LockName<'_>, access: OFlags) -> Result<Option<File>, FileError> {
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        match rustix::fs::openat(&self.descriptor, name.file_name(), flags, Mode::empty()) {
            Ok(descriptor) => {
                let file = File::from(descriptor);
                let is_regular = file.metadata().map_err(|source| self.unusable(name, source))?.is_file();
                if is_regular { Ok(Some(file)) } else { Err(FileError::NotRegular { path: self.file_path(name) }) }
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Err(FileError::NotRegular { path: self.file_path(name) }),
            Err(errno) => Err(self.unusable(name, errno.into())),
        }
    }

    /// Whether an open file is still the one that others will find. One that was removed meanwhile locks nothing.
    pub(super) fn is_current(&self, file: &File, name: LockName<'_>) -> Result<bool, FileError> {
        let failed = |errno: Errno| self.unusable(name, errno.into());
        let open = rustix::fs::fstat(file).map_err(failed)?;
        match rustix::fs::statat(&self.descriptor, name.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed(errno)),
        }
    }

    pub(super) fn unusable(&self, name: LockName<'_>, source: io::Error) -> FileError {
        FileError::Use { path: self.file_path(name), source }
    }

    fn file_path(&self, name: LockName<'_>) -> PathBuf {
        self.path.join(name.file_name())
    }

    /// Makes a lock file that every user can open from its first instant: it gets its name after its mode. A crash in
    /// between leaves a file without meaning, never one that locks others out.
    fn create_lock_file(&self, name: LockName<'_>) -> Result<(), Errno> {
        let unfinished = format!(".new-{:016x}", RandomState::new().hash_one(name));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.descriptor, &*unfinished, flags, FILE_MODE)?;
        let linked = rustix::fs::fchmod(&file, FILE_MODE).and_then(|()| {
            rustix::fs::linkat(&self.descriptor, &*unfinished, &self.descriptor, name.file_name(), AtFlags::empty())
        });
        rustix::fs::unlinkat(&self.descriptor, &*unfinished, AtFlags::empty())?;
        match linked {
            // Somebody else was faster.
            Err(Errno::EXIST) => Ok(()),
            outcome => outcome,
        }
    }

    fn open_existing(path: &Path, reach: Reach) -> Result<Option<Self>, DirectoryError> {
        match Self::open_as_it_is(path, reach) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(DirectoryError::Unusable { path: path.to_owned(), source: errno.into() }),
        }
    }

    fn open_or_create(path: &Path, reach: Reach) -> io::Result<Self> {
        let mode = match reach {
            Reach::AllUsers => DIRECTORY_MODE,
            Reach::OneUser => Mode::RWXU,
        };
        let created = match rustix::fs::mkdir(path, mode) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno.into()),
        };
        let directory = Self::open_as_it_is(path, reach)?;
        // What the umask took away. A directory that somebody else made keeps the mode that they gave it.
        if created && directory.is_ours()? {
            rustix::fs::fchmod(&directory.descriptor, mode)?;
        }
        Ok(directory)
    }

    fn open_as_it_is(path: &Path, reach: Reach) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), descriptor, reach })
    }

    fn is_ours(&self) -> Result<bool, Errno> {
        let status = rustix::fs::fstat(&self.descriptor)?;
        debug_assert!(FileType::from_raw_mode(status.st_mode).is_dir());
        Ok(status.st_uid == rustix::process::geteuid().as_raw())
    }
}

#[cfg(test)]
mod tests;
