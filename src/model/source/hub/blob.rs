//! One file on its way from the hub into the cache.
//!
//! What has come stays under another name until all of it is there and right: a cut connection, an end of the process or
//! a restart of the machine costs nothing that was here. Who wants the same file at the same time waits and finds it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::Url;
use sha1::{Digest as _, Sha1};

use super::answer::Answer;
use super::client::{Client, begins_at};
use super::error::{HubError, Question};
use super::patience::{Patience, TO_FETCH};
use crate::domain::{Digest, DigestReader, Fetching};

/// Between two events, for a bar that moves and a log that is not flooded.
const EVENT_INTERVAL: Duration = Duration::from_millis(100);

/// What the hub says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Promise {
    /// Its path in the repository.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) oid: Oid,
}

/// What the bytes of a file must give; the file is called after it in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Oid {
    /// SHA-256 of a large file.
    Sha256(Digest),
    /// git's name for a small one: SHA-1, in hexadecimal digits, of a head and the bytes.
    Git(String),
}

impl Oid {
    /// git's name, if it is one.
    pub(super) fn git(text: &str) -> Option<Self> {
        let is_name = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_name.then(|| Self::Git(text.to_ascii_lowercase()))
    }

    /// The name of the file in the cache, which is also how it is shown.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Sha256(digest) => digest.to_string(),
            Self::Git(name) => name.clone(),
        }
    }

    /// The same of a file that is here.
    fn of(&self, path: &Path) -> io::Result<String> {
        let mut file = File::open(path)?;
        match self {
            Self::Sha256(_) => Ok(DigestReader::drain(file)?.0.to_string()),
            Self::Git(_) => {
                let mut digest = Sha1::new_with_prefix(format!("blob {}\0", file.metadata()?.len()));
                let mut buffer = vec![0; 1 << 16];
                loop {
                    match file.read(&mut buffer)? {
                        0 => break,
                        count => digest.update(&buffer[..count]),
                    }
                }
                Ok(digest.finalize().iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hexadecimal).collect())
            }
        }
    }
}

fn hexadecimal(digit: u8) -> char {
    // Half a byte always is one.
    char::from_digit(digit.into(), 16).unwrap_or('?')
}

impl Promise {
    /// How a file that is here differs from what was promised, as what it is and what it should be; none if it is right.
    fn difference(&self, path: &Path) -> io::Result<Option<(String, String)>> {
        let bytes = fs::metadata(path)?.len();
        if bytes != self.bytes {
            return Ok(Some((format!("{bytes} bytes"), format!("{} bytes", self.bytes))));
        }
        let (found, expected) = (self.oid.of(path)?, self.oid.name());
        Ok((found != expected).then_some((found, expected)))
    }

    /// Whether a file is there and is the one.
    pub(super) fn is_kept_by(&self, path: &Path) -> bool {
        matches!(self.difference(path), Ok(None))
    }
}

/// A file and where it goes.
pub(super) struct Fetch<'run> {
    pub(super) client: &'run Client<'run>,
    pub(super) question: Question<'run>,
    pub(super) url: Url,
    pub(super) promise: &'run Promise,
    /// Its final path in the cache.
    pub(super) blob: PathBuf,
    /// Held while it is fetched, by all libraries of the hub.
    pub(super) lock: PathBuf,
    pub(super) on_event: &'run dyn Fn(Fetching),
}

impl Fetch<'_> {
    /// Brings the file to its final path, if it is not there and right.
    pub(super) fn run(&self) -> Result<(), HubError> {
        let _lock = self.locked()?;
        if self.promise.is_kept_by(&self.blob) {
            return Ok(());
        }
        let partial = self.blob.with_added_extension("incomplete");
        fs::create_dir_all(partial.parent().unwrap_or(&partial)).map_err(cache_error(&partial))?;
        let mut file =
            OpenOptions::new().create(true).append(true).read(true).open(&partial).map_err(cache_error(&partial))?;
        let kept = file.metadata().map_err(cache_error(&partial))?.len();
        let Promise { path, bytes: total_bytes, .. } = self.promise;
        (self.on_event)(Fetching::File { file: path.clone(), bytes: 0, total_bytes: *total_bytes });
        if (1..=*total_bytes).contains(&kept) {
            let (file, bytes) = (path.clone(), kept);
            (self.on_event)(Fetching::Resumed { file, bytes, total_bytes: *total_bytes });
        }
        self.fill(&mut file, &partial)?;
        let mut difference = self.promise.difference(&partial).map_err(cache_error(&partial))?;
        if difference.is_some() && kept > 0 {
            // The beginning may have been that of something else.
            file.set_len(0).map_err(cache_error(&partial))?;
            self.fill(&mut file, &partial)?;
            difference = self.promise.difference(&partial).map_err(cache_error(&partial))?;
        }
        if let Some((found, expected)) = difference {
            return Err(self.corrupt(&partial, found, expected));
        }
        file.sync_all().and_then(|()| fs::rename(&partial, &self.blob)).map_err(cache_error(&self.blob))
    }

    /// Takes the lock, telling so if somebody else has it. It is free again when the file is closed, even by a kill.
    fn locked(&self) -> Result<File, HubError> {
        fs::create_dir_all(self.lock.parent().unwrap_or(&self.lock)).map_err(cache_error(&self.lock))?;
        let file = OpenOptions::new().create(true).append(true).open(&self.lock).map_err(cache_error(&self.lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                (self.on_event)(Fetching::Queueing { file: self.promise.path.clone() });
                file.lock().map_err(cache_error(&self.lock))?;
            }
            Err(TryLockError::Error(source)) => return Err(cache_error(&self.lock)(source)),
        }
        Ok(file)
    }

    /// Appends what is missing, asking again where an answer breaks off.
    fn fill(&self, file: &mut File, partial: &Path) -> Result<(), HubError> {
        let mut patience = Patience::new(TO_FETCH);
        // What comes once more after a new beginning is no progress.
        let mut most = 0;
        let mut begun_anew = false;
        loop {
            let before = file.seek(SeekFrom::End(0)).map_err(cache_error(partial))?;
            if before > self.promise.bytes {
                file.set_len(0).map_err(cache_error(partial))?;
                continue;
            }
            if before == self.promise.bytes {
                return Ok(());
            }
            most = before.max(most);
            let Err(failure) = self.append(file, before) else { continue };
            let answer = match failure {
                Failure::Answer(answer) => answer,
                Failure::Write(source) => return Err(cache_error(partial)(source)),
                Failure::Length(found, expected) => return Err(self.corrupt(partial, found, expected)),
            };
            if before > 0 && matches!(answer, Answer::Status { status: 416, .. }) {
                // What is here is not the beginning of what is there; or there is no more of it, which shows the second
                // time.
                if begun_anew {
                    let expected = format!("{} bytes", self.promise.bytes);
                    return Err(self.corrupt(partial, format!("{before} bytes"), expected));
                }
                begun_anew = true;
                file.set_len(0).map_err(cache_error(partial))?;
                continue;
            }
            if file.metadata().map_err(cache_error(partial))?.len() > most {
                patience.renew();
            }
            let failed = |answer| self.question.failed(Some(&self.promise.path), answer);
            self.client.wait(&mut patience, answer).map_err(failed)?;
        }
    }

    /// One request, and all that comes of it.
    fn append(&self, file: &mut File, from: u64) -> Result<(), Failure> {
        let mut response = self.client.get(&self.url, from)?;
        let start = begins_at(&response)?;
        if start != from {
            if start != 0 {
                return Err(Answer::malformed("another part of the file than was asked for").into());
            }
            // The server knows no parts, and begins anew.
            file.set_len(0).map_err(Failure::Write)?;
        }
        let (mut here, total_bytes) = (start, self.promise.bytes);
        if let Some(length) = response.content_length().filter(|length| start + length != total_bytes) {
            return Err(Failure::Length(format!("{} bytes", start + length), format!("{total_bytes} bytes")));
        }
        let mut buffer = vec![0; 1 << 18];
        let mut told = Instant::now();
        loop {
            let count = response.read(&mut buffer).map_err(Answer::Cut)?;
            here += count as u64;
            if here > total_bytes {
                return Err(Failure::Length(format!("more than {total_bytes} bytes"), format!("{total_bytes} bytes")));
            }
            file.write_all(&buffer[..count]).map_err(Failure::Write)?;
            if here == total_bytes || told.elapsed() > EVENT_INTERVAL {
                told = Instant::now();
                let file = self.promise.path.clone();
                (self.on_event)(Fetching::File { file, bytes: here, total_bytes });
            }
            if here == total_bytes {
                return Ok(());
            }
            if count == 0 {
                return Err(Answer::Cut(io::ErrorKind::UnexpectedEof.into()).into());
            }
        }
    }

    /// Deletes what came, so that the next attempt does not go on with it.
    fn corrupt(&self, partial: &Path, found: String, expected: String) -> HubError {
        match fs::remove_file(partial) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => cache_error(partial)(source),
            _ => HubError::Corrupt { file: self.promise.path.clone(), found, expected },
        }
    }
}

enum Failure {
    Answer(Answer),
    Write(io::Error),
    /// Another length than was promised: what there is, what there should be.
    Length(String, String),
}

impl From<Answer> for Failure {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

pub(super) fn cache_error(path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_owned();
    |source| HubError::Cache { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_gits_name_or_its_sha256() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "hello\n").unwrap();
        // As `git hash-object` and `sha256sum` give them.
        let git = Oid::git("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".parse().unwrap();
        for oid in [git, Oid::Sha256(sha256)] {
            let promise = Promise { path: "file".to_owned(), bytes: 6, oid };
            assert!(promise.is_kept_by(&path), "{promise:?}");
            fs::write(&path, "hellO\n").unwrap();
            assert!(!promise.is_kept_by(&path), "{promise:?}");
            fs::write(&path, "hello\n").unwrap();
            assert!(!Promise { bytes: 7, ..promise }.is_kept_by(&path));
        }
        assert_eq!(Oid::git("../../../../etc/passwd"), None);
    }
}
