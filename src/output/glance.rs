//! What can be said of an output without reading more of it than its manifests: whether files are there, have their lengths,
//! and whether manifests go together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::Totals;
use super::ledger::{Checkpoint, ChunksManifest};
use super::manifest::{ChunksState, CommittedShard, FileRecord, Manifest, SCHEMA_VERSION};
use super::place::{CHUNKS_FILE, CHUNKS_MANIFEST_FILE, Place};
use super::survey::Damaged;

/// The published ledger's manifest, and what is wrong with the two at first sight.
pub(super) fn ledger(place: &Place) -> (Option<ChunksManifest>, Vec<Damaged>) {
    let damaged = |path: PathBuf, what: String| (None, vec![Damaged::lasting(path, what)]);
    let length = fs::metadata(place.chunks()).map(|file| file.len());
    let json = match fs::read(place.chunks_manifest()) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match length {
                Ok(_) => damaged(place.chunks_manifest(), format!("is missing, though there is a {CHUNKS_FILE}")),
                Err(_) => (None, Vec::new()),
            };
        }
        Err(error) => return damaged(place.chunks_manifest(), format!("cannot be read: {error}")),
    };
    let manifest = match serde_json::from_slice::<ChunksManifest>(&json) {
        Ok(manifest) if manifest.schema_version == SCHEMA_VERSION => manifest,
        Ok(other) => {
            return damaged(place.chunks_manifest(), format!("has schema_version {}", other.schema_version));
        }
        Err(error) => return damaged(place.chunks_manifest(), format!("is not a manifest: {error}")),
    };
    match length {
        Ok(found) if found == manifest.file.bytes => (Some(manifest), Vec::new()),
        Ok(found) => damaged(place.chunks(), format!("has {found} bytes instead of {}", manifest.file.bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            damaged(place.chunks(), format!("is missing, though there is a {CHUNKS_MANIFEST_FILE}"))
        }
        Err(error) => damaged(place.chunks(), format!("cannot be read: {error}")),
    }
}

/// Files that are missing or have another length than was committed.
pub(super) fn lengths(place: &Place, manifest: &Manifest) -> Vec<Damaged> {
    let files = manifest.shards.par_iter().flat_map_iter(|shard| &shard.files);
    let mut faults: Vec<Damaged> = files.filter_map(|file| wrong_length(&place.model, file)).collect();
    faults.extend(pending_length(place, manifest));
    faults.sort_unstable();
    faults
}

fn wrong_length(directory: &Path, file: &FileRecord) -> Option<Damaged> {
    let path = directory.join(&file.name);
    let what = match fs::metadata(&path) {
        Ok(found) if found.len() == file.bytes => return None,
        Ok(found) => format!("has {} bytes instead of {}", found.len(), file.bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is missing".to_owned(),
        Err(error) => format!("cannot be read: {error}"),
    };
    Some(Damaged::redone(path, what))
}

fn pending_length(place: &Place, manifest: &Manifest) -> Option<Damaged> {
    let wanted = manifest.chunks_bytes();
    if manifest.chunks == ChunksState::Published || wanted == 0 {
        return None;
    }
    let found = fs::metadata(place.pending_chunks()).map_or(0, |file| file.len());
    let what = format!("has {found} bytes instead of {wanted} or more");
    (found < wanted).then(|| Damaged::redone(place.pending_chunks(), what))
}

/// Whether output and ledger are of different inputs.
pub(super) fn contradiction(manifest: &Manifest, ledger: Option<&ChunksManifest>) -> Option<String> {
    let Some(ledger) = ledger else {
        let lost = manifest.chunks == ChunksState::Published;
        return lost.then(|| format!("counts on a {CHUNKS_FILE}, which is not there"));
    };
    if manifest.chunks == ChunksState::Replacing {
        return None;
    }
    let checkpoint = |shard: &CommittedShard| Checkpoint { rows: shard.end_row(), input_chain: shard.input_chain };
    let contradicted = manifest.shards.iter().any(|shard| ledger.contradicts(checkpoint(shard)));
    let differs = contradicted || (manifest.complete && !ledger.is_of(manifest));
    differs.then(|| format!("is of another input than {CHUNKS_FILE}"))
}

/// Whether a manifest contradicts itself.
pub(super) fn inconsistency(manifest: &Manifest) -> Option<String> {
    let sum: Totals = manifest.shards.iter().map(|shard| shard.totals).sum();
    if sum != manifest.totals {
        return Some("does not add up: its parts have other rows together".to_owned());
    }
    let mut before = Manifest { shards: Vec::new(), totals: Totals::default(), ..manifest.clone() };
    for shard in &manifest.shards {
        if before.next_shard() != (u64::from(shard.number), shard.first_row) {
            return Some(format!("lists part {} where part {} should be", shard.number, before.next_shard().0));
        }
        before.totals.rows += shard.totals.rows;
        before.shards.push(shard.clone());
    }
    None
}
