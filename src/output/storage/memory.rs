//! Storage in memory that dies when it is told to, and then forgets what a machine would forget.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Storage, StoredFile};

/// What survives the end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::output) enum Crash {
    /// `kill -9`: the operating system still writes out everything that it was given.
    Kill,
    /// Loss of power at its worst: only synced bytes under names in synced directories are left.
    PowerLoss,
    /// Loss of power when the file system had got ahead of itself: the latest change of a name has reached the
    /// medium, earlier ones that were not synced have not.
    PowerLossOutOfOrder,
}

/// Clones share their files.
#[derive(Clone, Default)]
pub(in crate::output) struct Memory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    contents: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    /// The latest change of a name: what it means from then on, and the name that was given up for it.
    latest_change: Option<(PathBuf, Option<usize>, Option<PathBuf>)>,
    operations: usize,
    dies_at: Option<usize>,
}

#[derive(Default, Clone)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

impl Memory {
    /// Every operation from this one on fails (counted from 0 and from now), until `restart`.
    pub(in crate::output) fn die_at(&self, operation: usize) {
        let mut state = self.state();
        state.operations = 0;
        state.dies_at = Some(operation);
    }

    /// A new process finds what the crash has left.
    pub(in crate::output) fn restart(&self, crash: Crash) {
        let mut state = self.state();
        state.dies_at = None;
        let latest_change = state.latest_change.take();
        if crash != Crash::Kill {
            if let Some((name, content, given_up)) = latest_change.filter(|_| crash == Crash::PowerLossOutOfOrder) {
                match content {
                    Some(content) => state.synced_names.insert(name, content),
                    None => state.synced_names.remove(&name),
                };
                given_up.map(|name| state.synced_names.remove(&name));
            }
            state.names = state.synced_names.clone();
            state.contents.iter_mut().for_each(|content| content.bytes = content.synced.clone());
        }
    }

    /// All files with their bytes.
    pub(in crate::output) fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(path, &content)| (path.clone(), state.contents[content].bytes.clone())).collect()
    }

    /// Puts a file there, durably, as somebody else would.
    pub(in crate::output) fn plant(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        state.contents.push(Content { bytes: bytes.to_vec(), synced: bytes.to_vec() });
        let content = state.contents.len() - 1;
        state.names.insert(path.to_owned(), content);
        state.synced_names.insert(path.to_owned(), content);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The state for one operation, unless the process is dead.
    fn operate(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.operations += 1;
        if state.dies_at.is_some_and(|dies_at| state.operations > dies_at) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(state)
    }
}

impl State {
    fn content(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for Memory {
    fn create_directories(&self, _: &Path) -> io::Result<()> {
        self.operate().map(drop)
    }

    fn files(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.operate()?;
        let names = state.names.keys().filter(|path| path.parent() == Some(directory));
        Ok(names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let state = self.operate()?;
        Ok(Box::new(Cursor::new(state.contents[state.content(path)?].bytes.clone())))
    }

    fn read_from(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut reader = self.read(path)?;
        io::copy(&mut (&mut reader).take(bytes), &mut io::sink())?;
        Ok(reader)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StoredFile>> {
        self.continue_at(path, 0)
    }

    fn continue_at(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn StoredFile>> {
        let mut state = self.operate()?;
        let content = state.content(path).unwrap_or_else(|_| {
            state.contents.push(Content::default());
            let content = state.contents.len() - 1;
            state.latest_change = Some((path.to_owned(), Some(content), None));
            content
        });
        state.names.insert(path.to_owned(), content);
        state.contents[content].bytes.resize(usize::try_from(bytes).unwrap(), 0);
        Ok(Box::new(MemoryFile { memory: self.clone(), content }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        let content = state.content(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), content);
        state.latest_change = Some((to.to_owned(), Some(content), Some(from.to_owned())));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        state.content(path)?;
        state.names.remove(path);
        state.latest_change = Some((path.to_owned(), None, None));
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        let inside = |path: &PathBuf| path.parent() == Some(directory);
        let now: Vec<_> = state.names.iter().filter(|(path, _)| inside(path)).map(|(p, &c)| (p.clone(), c)).collect();
        state.synced_names.retain(|path, _| !inside(path));
        state.synced_names.extend(now);
        state.latest_change.take_if(|(name, ..)| inside(name));
        Ok(())
    }
}

struct MemoryFile {
    memory: Memory,
    content: usize,
}

impl Write for MemoryFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let (outcome, taken) = match self.memory.operate() {
            Ok(_) => (Ok(buffer.len()), buffer.len()),
            // The write in progress is torn; none comes after it.
            Err(error) => {
                let state = self.memory.state();
                let torn = state.dies_at.is_some_and(|dies_at| state.operations == dies_at + 1);
                (Err(error), if torn { buffer.len() / 2 } else { 0 })
            }
        };
        self.memory.state().contents[self.content].bytes.extend_from_slice(&buffer[..taken]);
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StoredFile for MemoryFile {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.memory.operate()?;
        let content = &mut state.contents[self.content];
        content.synced = content.bytes.clone();
        Ok(())
    }
}
