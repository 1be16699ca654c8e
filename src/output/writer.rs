//! Commits shards, in row order, each all or nothing.
//!
//! A commit writes the shard's files, then its part of the ledger, then the manifest that lists both. Whatever the
//! instant of a crash, the manifest on the disk tells of complete things only; the rest is stale and written again.

use std::path::PathBuf;
use std::sync::Arc;

use super::format::{About, SinkError};
use super::input::{InputChain, InputRow};
use super::ledger::{self, Checkpoint, ChunksManifest, LedgerRowError, Settlement};
use super::manifest::{ChunksState, CollectionTotals, CommittedShard, FileRecord, Manifest, Segment};
use super::open::stale_files;
use super::place::{Place, partial, shard_file};
use super::shard_check::{InvalidShard, check_shard};
use super::storage::{At, FillError, Storage, StorageError, fill_file, write_complete};
use crate::domain::Shard;

/// Writes the output of one model for one collection.
pub struct CollectionWriter {
    storage: Arc<dyn Storage>,
    place: Place,
    manifest: Manifest,
    /// The ledger as it was when the output was opened.
    published: Option<ChunksManifest>,
}

/// A shard could not be committed. The output is as it was before, and the commit can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The shard does not follow, or is not sound.
    #[error("shard {shard} cannot be written")]
    Invalid {
        /// The shard.
        shard: u32,
        /// Why.
        #[source]
        source: InvalidShard,
    },
    /// Everything is there already.
    #[error("{} is complete", path.display())]
    Complete {
        /// The manifest.
        path: PathBuf,
    },
    /// The shard cannot be written in a format.
    #[error("cannot make {}", path.display())]
    Sink {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SinkError,
    },
    /// The shard's rows cannot be put into the ledger.
    #[error("cannot append to {}", path.display())]
    Ledger {
        /// The ledger.
        path: PathBuf,
        /// Why.
        #[source]
        source: LedgerRowError,
    },
    /// The ledger tells of another input.
    #[error("{} was written by {model} for another input, which differs before row {row} (pass --incremental or --overwrite to replace it, or choose another --output-dir)", path.display())]
    InputDiffers {
        /// The ledger.
        path: PathBuf,
        /// The model that wrote it.
        model: String,
        /// A row after the difference.
        row: u64,
    },
    /// The ledger was there when the output was opened and has gone since.
    #[error("{} has gone or was changed since the run began (put it back, or pass --overwrite to embed everything again)", path.display())]
    LedgerLost {
        /// The ledger.
        path: PathBuf,
    },
    /// Not as many rows were committed as were read.
    #[error("{read} rows were read for {}, but {committed} were committed", path.display())]
    RowsLost {
        /// The manifest.
        path: PathBuf,
        /// Rows of the input.
        read: u64,
        /// Rows of the output.
        committed: u64,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl CollectionWriter {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        place: Place,
        manifest: Manifest,
        published: Option<ChunksManifest>,
    ) -> Self {
        Self { storage, place, manifest, published }
    }

    /// What is committed so far.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The model's directory.
    pub fn directory(&self) -> &std::path::Path {
        &self.place.model
    }

    /// Commits the next shard; once this returns, it survives a crash of the program and of the machine.
    ///
    /// # Errors
    /// When the shard does not follow the last one, is not sound, is of another input than the ledger, or cannot be
    /// written. Nothing is committed then.
    pub fn commit(&mut self, shard: &Shard) -> Result<&CommittedShard, CommitError> {
        if self.manifest.complete {
            return Err(CommitError::Complete { path: self.place.manifest() });
        }
        check_shard(shard, &self.manifest).map_err(|source| CommitError::Invalid { shard: shard.number, source })?;
        let mut committed = CommittedShard::of(shard, self.follow_input(shard)?.state());
        committed.files = self.write_files(shard)?;
        committed.chunks = match self.manifest.chunks {
            ChunksState::Pending | ChunksState::Replacing => Some(self.append_chunks(shard)?),
            ChunksState::Published => None,
        };
        let mut manifest = self.manifest.clone();
        manifest.push(committed);
        self.write_manifest(&manifest)?;
        self.manifest = manifest;
        Ok(&self.manifest.shards[shard.number as usize])
    }

    /// Marks the output complete and publishes the ledger, unless another model has done so. Where the ledger should
    /// not depend on timing, models that worked at the same time finish in their order. Does nothing the second time.
    ///
    /// # Errors
    /// When rows are missing, the ledger tells of another input, or files cannot be written. What was committed stays.
    pub fn finish(mut self, input: CollectionTotals) -> Result<Manifest, CommitError> {
        let committed = self.manifest.totals.rows;
        if input.rows != committed {
            return Err(CommitError::RowsLost { path: self.place.manifest(), read: input.rows, committed });
        }
        if self.manifest.complete {
            return Ok(self.manifest);
        }
        let path = self.place.chunks();
        match ledger::publish(&*self.storage, &self.place, &self.manifest)? {
            Settlement::Publish | Settlement::Keep => {}
            Settlement::Lost => return Err(CommitError::LedgerLost { path }),
            Settlement::Refuse { model } => return Err(CommitError::InputDiffers { path, model, row: committed }),
        }
        self.manifest.complete = true;
        self.manifest.input = Some(input);
        self.manifest.chunks = ChunksState::Published;
        self.manifest.shards.iter_mut().for_each(|shard| shard.chunks = None);
        self.write_manifest(&self.manifest)?;
        self.remove_stale()?;
        Ok(self.manifest)
    }

    /// Removes what this module has made and the manifest does not tell of.
    pub(super) fn remove_stale(&self) -> Result<(), StorageError> {
        let Self { storage, place, manifest, .. } = self;
        let names = storage.files(&place.model).at("list", &place.model)?;
        let mut stale: Vec<_> = stale_files(names, manifest).iter().map(|name| place.model.join(name)).collect();
        let mut pending = vec![place.pending_chunks_manifest()];
        if manifest.shards.is_empty() || manifest.chunks == ChunksState::Published {
            pending.push(place.pending_chunks());
        }
        for path in pending {
            if ledger::open_if_there(&**storage, &path)?.is_some() {
                stale.push(path);
            }
        }
        stale.iter().try_for_each(|path| storage.remove(path).at("remove", path))?;
        let changed = |directory: &&PathBuf| stale.iter().any(|path| path.parent() == Some(directory.as_path()));
        let mut directories = [&place.model, &place.collection].into_iter().filter(changed);
        directories.try_for_each(|directory| storage.sync_directory(directory).at("sync", directory))
    }

    pub(super) fn write_manifest(&self, manifest: &Manifest) -> Result<(), StorageError> {
        ledger::write_json(&*self.storage, &partial(&self.place.manifest()), &self.place.manifest(), manifest)?;
        self.storage.sync_directory(&self.place.model).at("sync", &self.place.model)
    }

    /// The input chain after the shard, held against the ledger wherever both have a state.
    fn follow_input(&self, shard: &Shard) -> Result<InputChain, CommitError> {
        let published = self.published.as_ref().filter(|_| self.manifest.chunks == ChunksState::Published);
        let mut chain = self.manifest.input_chain();
        for (row, record, _) in shard.rows() {
            chain.push(&InputRow::from(record));
            let checkpoint = Checkpoint { rows: row.0 + 1, input_chain: chain.state() };
            if let Some(ledger) = published.filter(|ledger| ledger.contradicts(checkpoint)) {
                let (path, model) = (self.place.chunks(), ledger.model.clone());
                return Err(CommitError::InputDiffers { path, model, row: row.0 + 1 });
            }
        }
        Ok(chain)
    }

    fn write_files(&self, shard: &Shard) -> Result<Vec<FileRecord>, CommitError> {
        let about = About { model: &self.manifest.model, vector_space: &self.manifest.vector_space };
        let mut files = Vec::new();
        let widths = self.manifest.widths();
        for sink in self.manifest.formats.iter().flat_map(|format| format.sinks_of(widths)) {
            let path = self.place.model.join(shard_file(shard.number, sink.extension()));
            let file = write_complete(&*self.storage, &partial(&path), &path, |out| sink.write(shard, &about, out));
            files.push(file.map_err(|error| match error {
                FillError::Storage(error) => error.into(),
                FillError::Content(source) => CommitError::Sink { path, source },
            })?);
        }
        self.storage.sync_directory(&self.place.model).at("sync", &self.place.model)?;
        Ok(files)
    }

    /// Appends to the pending ledger after the part that is committed, over whatever a failed attempt has left.
    fn append_chunks(&self, shard: &Shard) -> Result<Segment, CommitError> {
        let (path, start) = (self.place.pending_chunks(), self.manifest.chunks_bytes());
        let file = self.storage.continue_at(&path, start).at("open", &path)?;
        let (bytes, sha256) =
            fill_file(file, &path, |out| ledger::write_rows(shard, out)).map_err(|error| match error {
                FillError::Storage(error) => error.into(),
                FillError::Content(source) => CommitError::Ledger { path: path.clone(), source },
            })?;
        if start == 0 {
            self.storage.sync_directory(&self.place.collection).at("sync", &self.place.collection)?;
        }
        Ok(Segment { bytes, sha256 })
    }
}
