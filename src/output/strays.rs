//! Files in an output directory that no manifest tells of: left by a run that was interrupted, or somebody else's.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::manifest::{ChunksState, MANIFEST_FILE, Manifest, read_manifest};
use super::place::{
    CHUNKS_FILE, CHUNKS_MANIFEST_FILE, Place, REMOVED_FILE, is_ours, parse_share_name, share_of_manifest,
};
use super::previous::PREVIOUS_DIRECTORY;
use super::survey::{directories, file_names};
use crate::domain::CollectionName;

/// A file that no manifest lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Stray {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub kind: StrayKind,
}

/// What a file is that no manifest lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StrayKind {
    /// This program made it and did not finish; the next run that writes there removes it or goes on with it.
    Stale,
    /// Not this program's; it is left alone.
    Foreign,
}

/// All files and directories that do not belong. While somebody writes, what is in progress is not stale.
pub(super) fn find(output_dir: &Path, known: &[(CollectionName, String)], nobody_writes: bool) -> Vec<Stray> {
    let mut strays = Strays { found: Vec::new(), nobody_writes };
    for name in file_names(output_dir).unwrap_or_default() {
        let report = |beginning: &str, end: &str| {
            let rest = name.strip_prefix(beginning).and_then(|rest| rest.strip_suffix(end));
            rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.').and_then(parse_share_name).is_some())
        };
        if name.starts_with(".lock") || report("run-summary", ".json") || report("events", ".jsonl") {
            continue;
        }
        let kind = if report("run-summary", ".json.partial") { StrayKind::Stale } else { StrayKind::Foreign };
        strays.push(output_dir.join(&name), kind);
    }
    for directory in directories(output_dir).unwrap_or_default() {
        // A cache of vectors or the like that somebody keeps here out of sight.
        if directory.starts_with('.') {
            continue;
        }
        let path = output_dir.join(&directory);
        let models: Vec<&str> = known
            .iter()
            .filter(|(collection, _)| collection.as_str() == directory)
            .map(|(_, model)| model.as_str())
            .collect();
        let names = file_names(&path).unwrap_or_default();
        let is_chunks =
            |name: &String| name == CHUNKS_FILE || (name.starts_with("chunks.") && name.ends_with(".partial"));
        if models.is_empty() && !names.iter().any(is_chunks) {
            // A run that was killed before its first commit has made directories and nothing else, or the beginnings of
            // files.
            let kind = if only_beginnings(&path) { StrayKind::Stale } else { StrayKind::Foreign };
            strays.push(path, kind);
            continue;
        }
        strays.in_collection(&path, &models, &names);
    }
    strays.found.sort_unstable();
    strays.found
}

fn only_beginnings(collection: &Path) -> bool {
    let no_files = file_names(collection).is_ok_and(|names| names.is_empty());
    let is_beginning = |model: String| {
        let model = collection.join(model);
        directories(&model).is_ok_and(|inside| inside.is_empty())
            && file_names(&model).is_ok_and(|names| names.iter().all(|name| is_ours(name)))
    };
    no_files && directories(collection).is_ok_and(|models| models.into_iter().all(is_beginning))
}

struct Strays {
    found: Vec<Stray>,
    nobody_writes: bool,
}

impl Strays {
    fn push(&mut self, path: PathBuf, kind: StrayKind) {
        if kind == StrayKind::Foreign || self.nobody_writes {
            self.found.push(Stray { path, kind });
        }
    }

    fn in_collection(&mut self, collection: &Path, models: &[&str], names: &[String]) {
        let mut in_use: HashSet<PathBuf> = HashSet::new();
        for model in directories(collection).unwrap_or_default().into_iter().filter(|it| it != PREVIOUS_DIRECTORY) {
            let path = collection.join(&model);
            if models.contains(&model.as_str()) {
                in_use.extend(self.in_model(collection, &model));
            } else {
                let ours = file_names(&path).is_ok_and(|names| names.iter().all(|name| is_ours(name)));
                self.push(path, if ours { StrayKind::Stale } else { StrayKind::Foreign });
            }
        }
        for name in names {
            let path = collection.join(name);
            if [CHUNKS_FILE, CHUNKS_MANIFEST_FILE, REMOVED_FILE].contains(&name.as_str()) || in_use.contains(&path) {
                continue;
            }
            let ours = ["chunks.", REMOVED_FILE].iter().any(|beginning| name.starts_with(beginning))
                && name.ends_with(".partial");
            self.push(path, if ours { StrayKind::Stale } else { StrayKind::Foreign });
        }
    }

    /// Looks at a model's directory; returns the ledgers in progress that its manifests count on.
    fn in_model(&mut self, collection: &Path, model: &str) -> Vec<PathBuf> {
        let whole = Place::in_collection(collection, model);
        let names = file_names(&whole.model).unwrap_or_default();
        let (mut listed, mut pending) = (HashSet::new(), Vec::new());
        for name in &names {
            let place = match share_of_manifest(name) {
                Some(share) => whole.of_share(share),
                None if name == MANIFEST_FILE => whole.clone(),
                None => continue,
            };
            listed.insert(name.clone());
            let Ok(Manifest { shards, chunks, .. }) = read_manifest(&place.manifest()) else { continue };
            listed.extend(shards.into_iter().flat_map(|shard| shard.files).map(|file| file.name));
            if chunks != ChunksState::Published {
                pending.push(place.pending_chunks());
            }
        }
        for name in names.iter().filter(|name| !listed.contains(*name)) {
            self.push(whole.model.join(name), if is_ours(name) { StrayKind::Stale } else { StrayKind::Foreign });
        }
        for directory in directories(&whole.model).unwrap_or_default() {
            self.push(whole.model.join(directory), StrayKind::Foreign);
        }
        pending
    }
}
