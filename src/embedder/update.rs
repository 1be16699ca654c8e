//! Incremental runs: what of earlier outputs the input still goes with, and what has become of the rest.
//!
//! An output of the input as it is now is gone on with. Any other is set aside, and written anew with the vectors of the
//! texts that it has already; ids that are in the input no more are listed in `removed.jsonl`, for whoever keeps them in a
//! database.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::EmbedError;
use super::job::Job;
use crate::collection::{Collection, Entry};
use crate::config::Settings;
use crate::domain::{ChunkId, Digest};
use crate::output::{
    Examined, Existing, InputCheck, InputRow, Ledger, OpenError, Plan, REMOVED_FILE, StorageError, examine,
    replace_file, set_aside,
};
use crate::telemetry::event::{Changes, Event};

/// A row that is in the input no more.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Removed {
    id: String,
    source: RemovedSource,
    text_sha256: Option<Digest>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RemovedSource {
    file: String,
    index: u64,
}

/// An earlier output, while the input is held against it.
struct Candidate {
    examined: Examined,
    check: InputCheck,
    changed: bool,
}

/// Sets outputs aside that the input or the layout does not go with any more; what their plans become.
///
/// # Errors
/// When an output is of another vector space, or files cannot be read or renamed.
pub(super) fn prepare(job: Job<'_>, collection: &Collection, plans: &mut [Plan]) -> Result<(), EmbedError> {
    let Settings { output_dir, .. } = job.settings;
    let name = collection.name();
    let mut candidates = Vec::new();
    for plan in &mut *plans {
        let Some(examined) = examine(output_dir, name, plan)? else {
            // Set aside by a run that was interrupted right then, or never there.
            plan.existing = Existing::Overwrite;
            candidates.push(None);
            continue;
        };
        let (check, changed) = (InputCheck::new(&examined.manifest.shards), examined.has_other_layout);
        candidates.push(Some(Candidate { examined, check, changed }));
    }
    if candidates.iter().all(Option::is_none) {
        return Ok(());
    }
    let mut ledger = LedgerRows::read(output_dir, collection);
    let mut rows = 0;
    for entry in collection.read() {
        // Faults are told of when the input is read to be embedded.
        let Entry::Chunk(chunk) = entry else { continue };
        rows += 1;
        let row = InputRow::from(&chunk);
        ledger.see(&row);
        for candidate in candidates.iter_mut().flatten() {
            candidate.changed |= candidate.check.push(&row).is_err();
        }
    }
    let is_stale = |candidate: &Option<Candidate>| candidate.as_ref().is_some_and(|it| it.is_of_other_input(rows));
    let stale: Vec<bool> = candidates.iter().map(is_stale).collect();
    if stale.contains(&true) {
        // First, while there are outputs that tell a run after an interruption that something has changed.
        let changes = ledger.changes(output_dir, collection).map_err(OpenError::from)?;
        job.observer.observe(&Event::InputUpdated { collection: name.clone(), changes });
    }
    for (plan, _) in plans.iter_mut().zip(stale).filter(|(_, is_stale)| *is_stale) {
        set_aside(output_dir, name, &plan.model).map_err(OpenError::from)?;
        plan.existing = Existing::Overwrite;
    }
    Ok(())
}

impl Candidate {
    /// Whether the output is not of the input, which has so many rows.
    fn is_of_other_input(&self, rows: u64) -> bool {
        let manifest = &self.examined.manifest;
        let ends_short = manifest.shards.last().is_some_and(|last| last.totals.rows < u64::from(manifest.shard_rows));
        let is_whole = manifest.complete || ends_short;
        self.changed || self.check.finish().is_err() || (is_whole && rows > manifest.totals.rows)
    }
}

/// The rows that the ledger tells of, as far as they have not been seen in the input, and those removed before.
struct LedgerRows {
    /// Text and row, by the first half of the digest of the id.
    unseen: HashMap<u128, Option<u128>>,
    removed_before: BTreeMap<u64, Removed>,
    places: HashMap<u128, u64>,
    changes: Changes,
}

impl LedgerRows {
    /// None where there is no ledger that can be read.
    fn read(output_dir: &Path, collection: &Collection) -> Self {
        let mut unseen = HashMap::new();
        if let Ok(ledger) = Ledger::open(output_dir, collection.name()) {
            for record in ledger.map_while(Result::ok) {
                unseen.insert(key_of_id(&record.id), record.text_sha256.as_ref().map(half));
            }
        }
        let text =
            fs::read_to_string(output_dir.join(collection.name().as_str()).join(REMOVED_FILE)).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Removed>(line).ok());
        let removed_before: BTreeMap<u64, Removed> = (0..).zip(lines).collect();
        let place = |(place, removed): (&u64, &Removed)| (half(&Digest::of(removed.id.as_bytes())), *place);
        let places = removed_before.iter().map(place).collect();
        Self { unseen, removed_before, places, changes: Changes::default() }
    }

    /// A row of the input.
    fn see(&mut self, row: &InputRow<'_>) {
        let key = key_of_id(row.id);
        if let Some(place) = self.places.remove(&key) {
            self.removed_before.remove(&place);
        }
        let count = match self.unseen.remove(&key) {
            Some(text) if text == row.text_sha256.as_ref().map(half) => &mut self.changes.kept,
            Some(_) => &mut self.changes.changed,
            None => &mut self.changes.new,
        };
        *count += 1;
    }

    /// What has changed; the rows that are no more are put on record, beside those of before.
    fn changes(mut self, output_dir: &Path, collection: &Collection) -> Result<Changes, StorageError> {
        self.changes.removed = self.unseen.len() as u64;
        let mut lines = Vec::new();
        let mut add = |removed: &Removed| {
            // Strings and numbers can always be written, into memory as well.
            let _ = serde_json::to_writer(&mut lines, removed);
            lines.push(b'\n');
        };
        self.removed_before.values().for_each(&mut add);
        if let Ok(ledger) = Ledger::open(output_dir, collection.name()) {
            for record in ledger.map_while(Result::ok).filter(|record| self.unseen.contains_key(&key_of_id(&record.id)))
            {
                let source = RemovedSource { file: record.source.file.to_string(), index: record.source.index };
                add(&Removed { id: record.id.as_str().to_owned(), source, text_sha256: record.text_sha256 });
            }
        }
        let path = output_dir.join(collection.name().as_str()).join(REMOVED_FILE);
        if lines.is_empty() {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StorageError { action: "remove", path, source });
                }
                _ => return Ok(self.changes),
            }
        }
        replace_file(&path, &lines)?;
        Ok(self.changes)
    }
}

fn key_of_id(id: &ChunkId) -> u128 {
    half(&Digest::of(id.as_str().as_bytes()))
}

/// The first half of a digest, which tells rows apart as well as the whole.
fn half(digest: &Digest) -> u128 {
    digest.as_bytes().iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte))
}
