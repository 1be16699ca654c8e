//! What was learned of the memory of models, kept from one run to the next: a small file among the user's caches.
//!
//! It makes the first batches of the next run larger or safer, and nothing depends on it: a file that cannot be read is
//! told of and replaced.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::batch::{Costs, MemoryModel};
use crate::output::replace_file;

/// Of the file; another one is not read.
const VERSION: u32 = 1;

/// Models on devices that are kept; the oldest leave.
const MOST_ENTRIES: usize = 256;

/// What a model of memory is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    /// Digests of its weights.
    pub weights: Vec<String>,
    /// Arithmetic of its layers.
    pub dtype: String,
    /// The device's name, as its driver has it.
    pub device: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    subject: Subject,
    memory: MemoryModel,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    entries: Vec<Entry>,
}

/// The file.
pub(super) struct Learned {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Learned {
    /// Reads the file of a directory, if there is one; with a note if it is of no use.
    pub(super) fn read(directory: &Path) -> (Self, Option<String>) {
        let path = directory.join("memory.json");
        let (entries, note) = match entries(&path) {
            Ok(entries) => (entries, None),
            Err(reason) => {
                let note = format!("{} is of no use and will be replaced: {reason}", path.display());
                (Vec::new(), Some(note))
            }
        };
        (Self { path, entries }, note)
    }

    /// What is known, if it is about a model of these sizes.
    pub(super) fn of(&self, subject: &Subject, costs: Costs) -> Option<MemoryModel> {
        let entry = self.entries.iter().find(|entry| entry.subject == *subject)?;
        entry.memory.is_sound_for(costs).then(|| entry.memory.clone())
    }

    /// Keeps what was learned in a run; another run may have written meanwhile.
    ///
    /// # Errors
    /// [`NotKept`], if the file cannot be written.
    pub(super) fn store(&self, learned: Vec<(Subject, MemoryModel)>) -> Result<(), NotKept> {
        let mut entries = entries(&self.path).unwrap_or_default();
        for (subject, memory) in learned {
            entries.retain(|entry| entry.subject != subject);
            entries.push(Entry { subject, memory });
        }
        let too_many = entries.len().saturating_sub(MOST_ENTRIES);
        entries.drain(..too_many);
        let text =
            serde_json::to_vec_pretty(&File { version: VERSION, entries }).map_err(|error| NotKept(error.into()))?;
        std::fs::create_dir_all(self.path.parent().unwrap_or(Path::new("."))).map_err(|error| NotKept(error.into()))?;
        replace_file(&self.path, &text).map_err(|error| NotKept(error.into()))
    }
}

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("what was learned of memory is not kept for the next run: {0}")]
pub(super) struct NotKept(Box<dyn std::error::Error + Send + Sync>);

/// Why the file is unusable.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("it is of version {0}")]
    Version(u32),
}

/// Nothing where there is no file.
fn entries(path: &Path) -> Result<Vec<Entry>, Unusable> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let file: File = serde_json::from_slice(&text)?;
    if file.version == VERSION { Ok(file.entries) } else { Err(Unusable::Version(file.version)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Evidence;

    const COSTS: Costs = Costs { token_bytes: 30_000, pair_bytes: 100 };

    fn subject(device: &str) -> Subject {
        Subject { weights: vec!["ab".into()], dtype: "f16".into(), device: device.into() }
    }

    fn model() -> MemoryModel {
        let mut model = MemoryModel::new(COSTS);
        model.observe(100_000, 100, 1 << 33, Evidence::Exact);
        model
    }

    #[test]
    fn what_is_stored_is_found_again_for_the_same_model_and_device_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache");
        let (learned, note) = Learned::read(&path);
        assert_eq!((learned.of(&subject("T4"), COSTS), note), (None, None));
        learned.store(vec![(subject("T4"), model())]).unwrap();
        learned.store(vec![(subject("H200"), MemoryModel::new(COSTS))]).unwrap();
        learned.store(vec![(subject("T4"), model())]).unwrap();
        let (learned, note) = Learned::read(&path);
        assert_eq!((learned.of(&subject("T4"), COSTS), note), (Some(model()), None));
        assert_eq!(learned.of(&subject("H200"), COSTS), Some(MemoryModel::new(COSTS)), "others are kept");
        assert_eq!(learned.entries.len(), 2);
        assert_eq!(learned.of(&Subject { dtype: "f32".into(), ..subject("T4") }, COSTS), None);
        assert_eq!(learned.of(&subject("T4"), Costs { token_bytes: 1, pair_bytes: 1 }), None, "of other sizes");
    }

    #[test]
    fn a_damaged_file_is_told_of_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("memory.json");
        for damage in [&b"{\"version\": 1, \"entr"[..], b"{\"version\": 9, \"entries\": []}", b"\xff"] {
            std::fs::write(&path, damage).unwrap();
            let (learned, note) = Learned::read(directory.path());
            assert!(note.is_some_and(|note| note.contains("memory.json is of no use")));
            assert_eq!(learned.of(&subject("T4"), COSTS), None);
            learned.store(vec![(subject("T4"), model())]).unwrap();
            assert!(Learned::read(directory.path()).1.is_none());
        }
    }

    #[test]
    fn the_oldest_leave() {
        let directory = tempfile::tempdir().unwrap();
        let (learned, _) = Learned::read(directory.path());
        let many = (0..300).map(|number| (subject(&number.to_string()), model())).collect();
        learned.store(many).unwrap();
        let (learned, _) = Learned::read(directory.path());
        assert_eq!(learned.entries.len(), MOST_ENTRIES);
        assert!(learned.of(&subject("0"), COSTS).is_none() && learned.of(&subject("299"), COSTS).is_some());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        let (learned, _) = Learned::read(&directory.path().join("file/below"));
        assert!(learned.store(Vec::new()).unwrap_err().to_string().contains("not kept"));
    }
}
