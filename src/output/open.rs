//! Opens a model's output: fresh, or where an earlier run has left it.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::input_check::InputCheck;
use super::ledger::{self, Checkpoint, ChunksManifest};
use super::manifest::{
    ChunksState, CommittedShard, FileRecord, Manifest, ManifestError, SCHEMA_VERSION, Segment, Totals, parse_manifest,
};
use super::place::{Place, is_ours};
use super::plan::{Difference, Existing, Plan};
use super::storage::{At, Disk, Storage, StorageError};
use super::writer::CollectionWriter;
use crate::domain::{CollectionName, DigestReader};

/// An output that is ready for the rows after those it has.
pub struct Opened {
    /// Takes the following shards.
    pub writer: CollectionWriter,
    /// What is there already.
    pub committed: Committed,
    /// Whether everything is there: nothing is left to write.
    pub complete: bool,
    /// What was found damaged, if anything was; the shards from there on are not among the committed ones any more.
    pub damage: Option<Damage>,
}

/// Whose rows an output has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowsOf {
    /// The input's: the first such output to be complete publishes the ledger.
    Input,
    /// The published ledger's, which is left as it is even when overwriting.
    Ledger,
}

/// The rows that an output has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its shards.
    pub shards: Vec<CommittedShard>,
}

impl Committed {
    /// Number of rows: the row to go on with.
    pub fn rows(&self) -> u64 {
        self.shards.last().map_or(0, CommittedShard::end_row)
    }

    /// A check for the rows that a run skips because they are here.
    pub fn check(&self) -> InputCheck {
        InputCheck::new(&self.shards)
    }
}

/// A committed file that is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
    /// The shard it belongs to; it and the later ones are to be redone.
    pub shard: u32,
    /// How many shards that are.
    pub redone: u32,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, fault, shard, redone } = self;
        write!(f, "{} {fault}; {redone} shards from number {shard} on are redone", path.display())
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not there.
    Missing,
    /// It has another length.
    Length {
        /// Bytes there.
        found: u64,
        /// Bytes committed.
        committed: u64,
    },
    /// It has the right length and other bytes.
    Content,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Length { found, committed } => write!(f, "has {found} bytes instead of {committed}"),
            Self::Content => f.write_str("has other content than was committed"),
        }
    }
}

/// An output could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was written by another plan.
    #[error("{} was written with other settings: {} (pass --overwrite to replace it, or choose another --output-dir)", path.display(), join(differences))]
    Mismatch {
        /// The manifest.
        path: PathBuf,
        /// In what they differ; never empty.
        differences: Vec<Difference>,
    },
    /// There is one, and the plan wants none.
    #[error("{} exists (pass --resume to go on with it, --overwrite to replace it, or choose another --output-dir)", path.display())]
    Exists {
        /// The manifest.
        path: PathBuf,
    },
    /// Its rows are there, but the ledger is about other ones.
    #[error("{} tells of another input than {} (pass --incremental to embed what is new, --overwrite to embed everything again, or choose another --output-dir)", ledger.display(), path.display())]
    InputDiffers {
        /// The manifest.
        path: PathBuf,
        /// The ledger.
        ledger: PathBuf,
    },
    /// Its rows are there, but the ledger is not.
    #[error("{} is missing or damaged, though {} counts on it (put it back, pass --overwrite to embed everything again, or choose another --output-dir)", ledger.display(), path.display())]
    LedgerLost {
        /// The manifest.
        path: PathBuf,
        /// The ledger.
        ledger: PathBuf,
    },
    /// Its manifest cannot be understood.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn join(differences: &[Difference]) -> String {
    differences.iter().map(Difference::to_string).collect::<Vec<_>>().join("; ")
}

impl CollectionWriter {
    /// Opens the output of one model for one collection below `output_dir`. The caller holds the directory's
    /// [`super::OutputLock`]. Every file that was committed is read and compared with its digest.
    ///
    /// # Errors
    /// When there is an output that the plan does not go with, or files cannot be read or written.
    pub fn open(output_dir: &Path, collection: &CollectionName, plan: &Plan) -> Result<Opened, OpenError> {
        open_in(Arc::new(Disk), output_dir, collection, plan)
    }

    /// The same for an output that is made of other outputs, whose rows are read from the published ledger
    /// ([`super::Ledger`]) and so never written into one.
    ///
    /// # Errors
    /// As [`CollectionWriter::open`], and when no ledger is published.
    pub fn open_derived(output_dir: &Path, collection: &CollectionName, plan: &Plan) -> Result<Opened, OpenError> {
        open_derived_in(Arc::new(Disk), output_dir, collection, plan)
    }
}

pub(super) fn open_in(
    storage: Arc<dyn Storage>,
    output_dir: &Path,
    collection: &CollectionName,
    plan: &Plan,
) -> Result<Opened, OpenError> {
    open_rows(storage, output_dir, collection, plan, RowsOf::Input)
}

pub(super) fn open_derived_in(
    storage: Arc<dyn Storage>,
    output_dir: &Path,
    collection: &CollectionName,
    plan: &Plan,
) -> Result<Opened, OpenError> {
    open_rows(storage, output_dir, collection, plan, RowsOf::Ledger)
}

fn open_rows(
    storage: Arc<dyn Storage>,
    output_dir: &Path,
    collection: &CollectionName,
    plan: &Plan,
    rows_of: RowsOf,
) -> Result<Opened, OpenError> {
    let place = Place::new(output_dir, collection, &plan.model);
    storage.create_directories(&place.model).at("create", &place.model)?;
    if plan.existing == Existing::Overwrite {
        remove_manifest(&*storage, &place)?;
    }
    let manifest = read_existing(&*storage, &place)?;
    let published = ledger::published(&*storage, &place)?;
    if rows_of == RowsOf::Ledger && published.is_none() {
        return Err(OpenError::LedgerLost { path: place.manifest(), ledger: place.chunks() });
    }
    let (manifest, damage) = match manifest {
        None => (fresh(collection, plan, rows_of, published.as_ref()), None),
        Some(_) if plan.existing == Existing::Refuse => return Err(OpenError::Exists { path: place.manifest() }),
        Some(manifest) => resume(&*storage, &place, plan, manifest, published.as_ref())?,
    };
    let writer = CollectionWriter::new(storage, place, manifest, published);
    if damage.is_some() {
        // First, so that it never lists what is removed next.
        writer.write_manifest(writer.manifest())?;
    }
    writer.remove_stale()?;
    let committed = Committed { shards: writer.manifest().shards.clone() };
    Ok(Opened { committed, complete: writer.manifest().complete, writer, damage })
}

/// Without its manifest an output does not exist; its other files are then stale.
fn remove_manifest(storage: &dyn Storage, place: &Place) -> Result<(), StorageError> {
    match storage.remove(&place.manifest()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.and_then(|()| storage.sync_directory(&place.model)).at("remove", &place.manifest()),
    }
}

fn read_existing(storage: &dyn Storage, place: &Place) -> Result<Option<Manifest>, OpenError> {
    let path = place.manifest();
    let Some(mut reader) = ledger::open_if_there(storage, &path)? else { return Ok(None) };
    let mut json = Vec::new();
    reader.read_to_end(&mut json).at("read", &path)?;
    Ok(Some(parse_manifest(&json, &path)?))
}

fn fresh(collection: &CollectionName, plan: &Plan, rows_of: RowsOf, published: Option<&ChunksManifest>) -> Manifest {
    let chunks = match (rows_of, plan.existing, published) {
        (RowsOf::Ledger, ..) => ChunksState::Published,
        (_, Existing::Overwrite, _) => ChunksState::Replacing,
        (_, _, Some(_)) => ChunksState::Published,
        (_, _, None) => ChunksState::Pending,
    };
    Manifest {
        schema_version: SCHEMA_VERSION,
        collection: collection.as_str().to_owned(),
        model: plan.model.clone(),
        vector_space: plan.vector_space.clone(),
        dimension: plan.widths.dense.unwrap_or_default(),
        sparse_dimension: plan.widths.sparse,
        multi_dimension: plan.widths.multi,
        formats: plan.ordered_formats(),
        shard_rows: plan.shard_rows,
        complete: false,
        totals: Totals::default(),
        input: None,
        provenance: plan.provenance.clone(),
        chunks,
        shards: Vec::new(),
    }
}

/// An output as it is, before it is gone on with or set aside.
#[derive(Debug, Clone, PartialEq)]
pub struct Examined {
    /// What it says of itself; its files are not looked at.
    pub manifest: Manifest,
    /// Whether the plan wants other formats or shards, so that the output has to be written anew.
    pub has_other_layout: bool,
}

/// Looks at the output of a model for a collection, if there is one, and whether its vectors are those of the plan.
///
/// # Errors
/// When they are others, or the manifest cannot be read.
pub fn examine(output_dir: &Path, collection: &CollectionName, plan: &Plan) -> Result<Option<Examined>, OpenError> {
    let place = Place::new(output_dir, collection, &plan.model);
    let Some(manifest) = read_existing(&Disk, &place)? else { return Ok(None) };
    let all = plan.differences(&manifest);
    let is_of_layout = |difference: &Difference| ["formats", "shard_rows"].contains(&difference.key.as_str());
    let (layout, differences): (Vec<_>, Vec<_>) = all.into_iter().partition(is_of_layout);
    if !differences.is_empty() {
        return Err(OpenError::Mismatch { path: place.manifest(), differences });
    }
    Ok(Some(Examined { manifest, has_other_layout: !layout.is_empty() }))
}

/// The manifest to go on with: cut before the first shard that is not what it should be.
fn resume(
    storage: &dyn Storage,
    place: &Place,
    plan: &Plan,
    mut manifest: Manifest,
    published: Option<&ChunksManifest>,
) -> Result<(Manifest, Option<Damage>), OpenError> {
    let differences = plan.differences(&manifest);
    if !differences.is_empty() {
        return Err(OpenError::Mismatch { path: place.manifest(), differences });
    }
    let pending_there = ledger::open_if_there(storage, &place.pending_chunks())?.is_some();
    manifest.chunks = chunks_state(&manifest, pending_there, published);
    if manifest.chunks == ChunksState::Published {
        let (path, ledger) = (place.manifest(), place.chunks());
        let Some(published) = published else { return Err(OpenError::LedgerLost { path, ledger }) };
        let checkpoint = |shard: &CommittedShard| Checkpoint { rows: shard.end_row(), input_chain: shard.input_chain };
        let contradicted = manifest.shards.iter().any(|shard| published.contradicts(checkpoint(shard)));
        if contradicted || (manifest.complete && !published.is_of(&manifest)) {
            return Err(OpenError::InputDiffers { path, ledger });
        }
    }
    let in_shards = manifest.shards.par_iter().find_map_first(|shard| check_files(storage, place, shard).transpose());
    let damage = match (in_shards.transpose()?, check_pending_chunks(storage, place, &manifest)?) {
        (Some(shard), Some(pending)) => Some(if pending.shard < shard.shard { pending } else { shard }),
        (shard, pending) => shard.or(pending),
    };
    let damage = damage.map(|damage| {
        let shards = manifest.shards.len();
        let kept = damage.shard as usize;
        manifest.cut(kept);
        Damage { redone: u32::try_from(shards - kept).unwrap_or(u32::MAX), ..damage }
    });
    Ok((manifest, damage))
}

/// Where the model's ledger is by now: a run may have ended between publishing it and saying so.
fn chunks_state(manifest: &Manifest, pending_there: bool, published: Option<&ChunksManifest>) -> ChunksState {
    let own = |ledger: &ChunksManifest| {
        ledger.model == manifest.model && ledger.vector_space == manifest.vector_space && ledger.is_of(manifest)
    };
    match (manifest.chunks, published) {
        (ChunksState::Pending, Some(_)) if !pending_there => ChunksState::Published,
        (ChunksState::Replacing, Some(ledger)) if !pending_there && own(ledger) => ChunksState::Published,
        (state, _) => state,
    }
}

fn check_files(storage: &dyn Storage, place: &Place, shard: &CommittedShard) -> Result<Option<Damage>, StorageError> {
    for FileRecord { name, bytes, sha256 } in &shard.files {
        let path = place.model.join(name);
        let reader = ledger::open_if_there(storage, &path)?;
        if let Some(fault) =
            compare(reader, Segment { bytes: *bytes, sha256: *sha256 }, Extent::All).at("read", &path)?
        {
            return Ok(Some(Damage { path, fault, shard: shard.number, redone: 0 }));
        }
    }
    Ok(None)
}

fn check_pending_chunks(
    storage: &dyn Storage,
    place: &Place,
    manifest: &Manifest,
) -> Result<Option<Damage>, StorageError> {
    if manifest.chunks == ChunksState::Published {
        return Ok(None);
    }
    let path = place.pending_chunks();
    let mut reader = ledger::open_if_there(storage, &path)?;
    for shard in &manifest.shards {
        let segment = shard.chunks.map(|segment| compare(reader.as_mut(), segment, Extent::Prefix));
        if let Some(fault) = segment.unwrap_or(Ok(Some(Fault::Missing))).at("read", &path)? {
            return Ok(Some(Damage { path, fault, shard: shard.number, redone: 0 }));
        }
    }
    Ok(None)
}

/// How much of a file is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    All,
    Prefix,
}

fn compare(reader: Option<impl Read>, committed: Segment, extent: Extent) -> io::Result<Option<Fault>> {
    let Some(mut reader) = reader else { return Ok(Some(Fault::Missing)) };
    let (sha256, mut found) = DigestReader::drain((&mut reader).take(committed.bytes))?;
    if extent == Extent::All {
        found += io::copy(&mut reader, &mut io::sink())?;
    }
    Ok(match () {
        () if found != committed.bytes => Some(Fault::Length { found, committed: committed.bytes }),
        () if sha256 != committed.sha256 => Some(Fault::Content),
        () => None,
    })
}

/// Names of the files in the model's directory that this module made and the manifest does not list.
pub(super) fn stale_files(names: Vec<String>, manifest: &Manifest) -> Vec<String> {
    let listed: std::collections::HashSet<&str> =
        manifest.shards.iter().flat_map(|shard| &shard.files).map(|file| file.name.as_str()).collect();
    names
        .into_iter()
        .filter(|name| is_ours(name) && name != super::manifest::MANIFEST_FILE && !listed.contains(name.as_str()))
        .collect()
}
