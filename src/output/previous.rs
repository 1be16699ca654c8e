//! Outputs that are set aside while others take their place: what an incremental run takes unchanged vectors from.
//!
//! A model's directory becomes `<collection>/.previous/<model>/<n>` by one rename, and is gone once the new output is
//! complete. Interrupted between, the next run finds it there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, read_manifest};
use super::place::{Place, is_ours};
use super::storage::{At, Disk, Storage, StorageError};
use crate::domain::CollectionName;

/// Hidden from whoever lists the models of a collection.
pub(super) const PREVIOUS_DIRECTORY: &str = ".previous";

impl Place {
    /// Where the outputs of the model lie that were set aside.
    fn previous(&self) -> PathBuf {
        let name = self.model.file_name().unwrap_or_default();
        self.collection.join(PREVIOUS_DIRECTORY).join(name)
    }
}

/// Sets the output of a model aside. What others have put into its directory stays there.
///
/// # Errors
/// When directories cannot be made or renamed.
pub fn set_aside(output_dir: &Path, collection: &CollectionName, model: &str) -> Result<(), StorageError> {
    let place = Place::new(output_dir, collection, model);
    let previous = place.previous();
    Disk.create_directories(&previous).at("create", &previous)?;
    let taken = numbers(&previous)?;
    let target = previous.join((taken.last().map_or(0, |last| last + 1)).to_string());
    fs::rename(&place.model, &target).at("set aside", &place.model)?;
    for directory in [&previous, &place.collection] {
        Disk.sync_directory(directory).at("sync", directory)?;
    }
    Disk.create_directories(&place.model).at("create", &place.model)?;
    give_back(&target, &place.model)
}

/// Moves what others have put into an output that was set aside to where it was.
fn give_back(previous: &Path, model: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(previous).at("list", previous)? {
        let name = entry.at("list", previous)?.file_name();
        if !name.to_str().is_some_and(is_ours) {
            let (from, to) = (previous.join(&name), model.join(&name));
            // Over a file of that name it would be lost.
            let free = if to.exists() { Err(io::ErrorKind::AlreadyExists.into()) } else { Ok(()) };
            free.and_then(|()| fs::rename(&from, &to)).at("move back", &from)?;
        }
    }
    Ok(())
}

/// The outputs of a model that were set aside, the last one first, with their manifests; those without a manifest that
/// can be read are left out.
///
/// # Errors
/// When they cannot be listed.
pub fn previous(
    output_dir: &Path,
    collection: &CollectionName,
    model: &str,
) -> Result<Vec<(PathBuf, Manifest)>, StorageError> {
    let directory = Place::new(output_dir, collection, model).previous();
    let numbers = numbers(&directory)?;
    let output = |number: &u64| {
        let directory = directory.join(number.to_string());
        let manifest = read_manifest(&directory.join(super::MANIFEST_FILE)).ok()?;
        Some((directory, manifest))
    };
    Ok(numbers.iter().rev().filter_map(output).collect())
}

/// Removes the outputs of a model that were set aside.
///
/// # Errors
/// When they cannot be removed.
pub fn forget_previous(output_dir: &Path, collection: &CollectionName, model: &str) -> Result<(), StorageError> {
    let place = Place::new(output_dir, collection, model);
    let previous = place.previous();
    // A run that was interrupted while it set the output aside may have left what others put there.
    for number in numbers(&previous)? {
        give_back(&previous.join(number.to_string()), &place.model)?;
    }
    match fs::remove_dir_all(&previous) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.at("remove", &previous)?,
    }
    // The last model takes the directory of all along; that of others is not empty.
    let all = place.collection.join(PREVIOUS_DIRECTORY);
    let _ = fs::remove_dir(&all);
    Disk.sync_directory(&place.collection).at("sync", &place.collection)
}

/// The numbers of the outputs in a directory, in order.
fn numbers(directory: &Path) -> Result<Vec<u64>, StorageError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", directory)?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.at("list", directory)?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture::{plan, shards};
    use crate::output::{CollectionWriter, Existing};

    #[test]
    fn an_output_is_set_aside_as_a_whole_and_found_again_until_it_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let collection = CollectionName::new("Docling").unwrap();
        let write = |rows| {
            let opened = CollectionWriter::open(root.path(), &collection, &plan("m", Existing::Resume)).unwrap();
            let mut writer = opened.writer;
            for shard in shards(rows, 3) {
                writer.commit(&shard).unwrap();
            }
        };
        let found = || previous(root.path(), &collection, "m").unwrap();
        let rows = || found().iter().map(|(_, manifest)| manifest.totals.rows).collect::<Vec<_>>();
        write(6);
        fs::write(root.path().join("Docling/m/notes.txt"), "mine").unwrap();
        set_aside(root.path(), &collection, "m").unwrap();
        write(3);
        set_aside(root.path(), &collection, "m").unwrap();
        assert_eq!(rows(), [3, 6]);
        assert_eq!(fs::read_to_string(root.path().join("Docling/m/notes.txt")).unwrap(), "mine");
        assert!(found()[0].0.join("part-00000.jsonl").is_file());
        // As if the run had been killed before it moved this back.
        fs::write(root.path().join("Docling/.previous/m/0/more.txt"), "mine too").unwrap();
        forget_previous(root.path(), &collection, "m").unwrap();
        assert_eq!(fs::read_to_string(root.path().join("Docling/m/more.txt")).unwrap(), "mine too");
        forget_previous(root.path(), &collection, "m").unwrap();
        assert_eq!(rows(), [0_u64; 0]);
        assert!(!root.path().join("Docling/.previous").exists());
    }
}
