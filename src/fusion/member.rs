//! One member's finished output, read row by row with one shard in memory.

use std::path::{Path, PathBuf};

use super::error::FuseError;
use super::status::status_by_ledger;
use crate::domain::{CollectionName, RowRecord, RowStatus};
use crate::output::{
    Checkpoint, ChunksManifest, CommittedShard, MANIFEST_FILE, Manifest, StoredShard, directory_name, read_manifest,
    read_shard,
};

pub(super) struct MemberReader {
    pub(super) manifest: Manifest,
    collection: CollectionName,
    directory: PathBuf,
    shard: Option<StoredShard>,
}

/// What a member has of a row.
pub(super) struct MemberRow<'a> {
    pub(super) status: RowStatus,
    pub(super) tokens: u32,
    /// All NaN, or empty, where there is none.
    pub(super) vector: &'a [f32],
}

impl MemberReader {
    /// Opens the output of a model, which must be complete.
    pub(super) fn open(output_dir: &Path, collection: &CollectionName, model: &str) -> Result<Self, FuseError> {
        let directory = output_dir.join(collection.as_str()).join(directory_name(model));
        let path = directory.join(MANIFEST_FILE);
        let manifest = read_manifest(&path).map_err(|source| FuseError::Member {
            collection: collection.clone(),
            model: model.to_owned(),
            source,
        })?;
        if (manifest.model.as_str(), manifest.collection.as_str()) != (model, collection.as_str()) {
            let (found_model, found_collection) = (manifest.model, manifest.collection);
            return Err(FuseError::AnotherOutput { path, model: model.to_owned(), found_model, found_collection });
        }
        if !manifest.complete {
            let (model, rows) = (manifest.model, manifest.totals.rows);
            return Err(FuseError::Incomplete { collection: collection.clone(), model, rows });
        }
        Ok(Self { manifest, collection: collection.clone(), directory, shard: None })
    }

    /// Whether all rows are those of the ledger, as far as manifests tell.
    pub(super) fn check_input(&self, ledger: &ChunksManifest) -> Result<(), FuseError> {
        if self.manifest.totals.rows != ledger.rows {
            return Err(self.rows_differ(ledger.rows));
        }
        if ledger.is_of(&self.manifest) {
            return Ok(());
        }
        let checkpoint = |shard: &CommittedShard| Checkpoint { rows: shard.end_row(), input_chain: shard.input_chain };
        let mut checkpoints = self.manifest.shards.iter().map(checkpoint);
        let contradicted = checkpoints.find(|&checkpoint| ledger.contradicts(checkpoint));
        Err(FuseError::InputDiffers {
            collection: self.collection.clone(),
            model: self.manifest.model.clone(),
            ledger_model: ledger.model.clone(),
            row: contradicted.map_or(ledger.rows, |checkpoint| checkpoint.rows),
        })
    }

    /// A row, which must be the ledger's; its shard is read if it is not at hand.
    pub(super) fn row(&mut self, row: u64, ledger: &RowRecord) -> Result<MemberRow<'_>, FuseError> {
        let holds =
            |shard: &StoredShard| (shard.first_row.0..shard.first_row.0 + shard.ids.len() as u64).contains(&row);
        let shard = match self.shard.take().filter(holds) {
            Some(shard) => shard,
            // The last shard is gone before the next one comes.
            None => self.read_shard_of(row)?,
        };
        let shard = self.shard.insert(shard);
        let index = usize::try_from(row - shard.first_row.0).unwrap_or(usize::MAX);
        let state = shard.states.as_ref().map(|states| &states[index]);
        if shard.ids[index] != ledger.id {
            return Err(FuseError::OtherChunk {
                collection: self.collection.clone(),
                model: self.manifest.model.clone(),
                row,
                expected: ledger.id.clone(),
                found: shard.ids[index].clone(),
            });
        }
        if state.is_some_and(|state| state.text_sha256 != ledger.text_sha256) {
            let (collection, model) = (self.collection.clone(), self.manifest.model.clone());
            return Err(FuseError::OtherText { collection, model, row, id: ledger.id.clone() });
        }
        let vector = &shard.vectors[index * shard.dimension..(index + 1) * shard.dimension];
        Ok(MemberRow {
            status: state.map_or_else(|| status_by_ledger(ledger, vector), |state| state.status),
            tokens: state.map_or(ledger.tokens, |state| state.tokens),
            vector,
        })
    }

    fn read_shard_of(&self, row: u64) -> Result<StoredShard, FuseError> {
        let shards = &self.manifest.shards;
        let number = shards.partition_point(|shard| shard.end_row() <= row);
        let committed = shards.get(number).filter(|shard| shard.first_row <= row);
        let committed = committed.ok_or_else(|| self.rows_differ(row + 1))?;
        let shard = read_shard(&self.directory, committed)?;
        let (dimension, rows) = (shard.dimension, shard.ids.len());
        // Without any vector, json lines have no dimension.
        let expected = if dimension == 0 { 0 } else { self.manifest.dimension };
        let states = shard.states.as_ref().map_or(rows, Vec::len);
        if dimension != expected || shard.vectors.len() != rows * dimension || states != rows {
            return Err(FuseError::Dimension {
                collection: self.collection.clone(),
                model: self.manifest.model.clone(),
                row: committed.first_row,
                expected: self.manifest.dimension,
            });
        }
        Ok(shard)
    }

    fn rows_differ(&self, expected: u64) -> FuseError {
        FuseError::Rows {
            collection: self.collection.clone(),
            model: self.manifest.model.clone(),
            found: self.manifest.totals.rows,
            expected,
        }
    }
}
