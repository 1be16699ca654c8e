//! Committed shards, read back: what fusion and evaluation start from.

use std::fs::File;
use std::io::{self, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::format::{Format, Sink};
use super::manifest::{CommittedShard, FileRecord};
use crate::domain::{ChunkId, Digest, DigestError, DigestReader, MultiVectors, Row, RowStatus, SparseVector};

/// The rows of one shard as they were committed.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredShard {
    /// Number of the shard.
    pub number: u32,
    /// Row of the first id.
    pub first_row: Row,
    /// Length of a dense vector; 0 when there are none, or no row has one and the format does not tell.
    pub dimension: usize,
    /// One id a row.
    pub ids: Vec<ChunkId>,
    /// [rows, dimension], all NaN where a row has no vector.
    pub vectors: Vec<f32>,
    /// One a row, empty where it has none; absent where they were not asked for.
    pub sparse: Option<Vec<SparseVector>>,
    /// One list a row, likewise. Its dimension is 0 when no row has a vector and the format does not tell.
    pub multi: Option<MultiVectors>,
    /// One state a row; `None` when the output is npy alone, which has no room for them.
    pub states: Option<Vec<RowState>>,
}

/// What is stored of a row besides its id and its vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowState {
    /// What became of it.
    pub status: RowStatus,
    /// Tokens that the model saw.
    pub tokens: u32,
    /// Digest of its text.
    pub text_sha256: Option<Digest>,
}

impl StoredShard {
    /// Nothing yet; its place is filled in by [`read_shard`].
    pub(super) fn empty() -> Self {
        Self {
            number: 0,
            first_row: Row(0),
            dimension: 0,
            ids: Vec::new(),
            vectors: Vec::new(),
            sparse: None,
            multi: None,
            states: None,
        }
    }
}

/// A committed shard could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is not the one that was committed.
    #[error("{} is not the file that the manifest lists (embed the collection again to have it redone)", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The file has the right digest and still cannot be understood.
    #[error("cannot understand {}", path.display())]
    Content {
        /// The file, or the first where a format has several.
        path: PathBuf,
        /// Why.
        #[source]
        source: ReadContentError,
    },
    /// The manifest lists no file of any known format.
    #[error("shard {shard} in {} has no file in a format that can be read", directory.display())]
    NoFile {
        /// The shard.
        shard: u32,
        /// The model's directory.
        directory: PathBuf,
    },
}

/// Why the content of a file makes no shard.
#[derive(Debug, thiserror::Error)]
pub enum ReadContentError {
    /// It ended early, or the medium failed.
    #[error("cannot read on")]
    Read(#[from] io::Error),
    /// Not the JSON it should be.
    #[error("not the json of a row")]
    Json(#[from] serde_json::Error),
    /// Not a number that f32 can take.
    #[error("not a number")]
    Number(#[from] std::num::ParseFloatError),
    /// Not a digest.
    #[error("not a digest")]
    Digest(#[from] DigestError),
    /// Not Arrow.
    #[error("not an arrow file")]
    Arrow(#[from] arrow_schema::ArrowError),
    /// Not Parquet.
    #[error("not a parquet file")]
    Parquet(#[from] ::parquet::errors::ParquetError),
    /// A column is missing or has another type.
    #[error("column {name} is missing or has another type")]
    Column {
        /// The column.
        name: &'static str,
    },
    /// The arrays and the ids do not belong together.
    #[error("not arrays of the expected types with as many rows as there are ids")]
    Npy,
    /// A length or an offset in it leads nowhere.
    #[error("a length or an offset in it leads nowhere")]
    Senseless,
    /// The number of rows is not the one that was committed.
    #[error("{found} rows of {expected}")]
    Rows {
        /// Rows read.
        found: usize,
        /// Rows committed.
        expected: u64,
    },
}

/// Reads one shard of a model's directory from the best of its formats, and checks it against the manifest. Memory is
/// that of one shard.
///
/// # Errors
/// When the files cannot be read, are not those that were committed, or hold no known format.
pub fn read_shard(directory: &Path, shard: &CommittedShard) -> Result<StoredShard, ReadError> {
    let best = Format::by_preference(&Format::ALL).find(|format| files_of(*format, shard).is_some());
    let no_file = || ReadError::NoFile { shard: shard.number, directory: directory.to_owned() };
    read_shard_as(best.ok_or_else(no_file)?, directory, shard)
}

/// The same from the files of one format.
pub(super) fn read_shard_as(
    format: Format,
    directory: &Path,
    shard: &CommittedShard,
) -> Result<StoredShard, ReadError> {
    let no_file = || ReadError::NoFile { shard: shard.number, directory: directory.to_owned() };
    let records = files_of(format, shard).ok_or_else(no_file)?;
    let open = |record: Option<&FileRecord>| record.map(|record| open_checked(directory, record)).transpose();
    let mut files = records.iter().copied().map(open).collect::<Result<Vec<_>, _>>()?;
    let stored = survive(|| format.read(&mut files)).and_then(|stored| match stored.ids.len() {
        found if found as u64 == shard.totals.rows => Ok(stored),
        found => Err(ReadContentError::Rows { found, expected: shard.totals.rows }),
    });
    let path = records.iter().flatten().next().map(|record| directory.join(&record.name)).unwrap_or_default();
    let stored = stored.map_err(|source| ReadError::Content { path, source })?;
    Ok(StoredShard { number: shard.number, first_row: Row(shard.first_row), ..stored })
}

/// Reads what may be anybody's: the libraries of some formats trust lengths in a file, and panic where these lie.
pub(super) fn survive<T>(read: impl FnOnce() -> Result<T, ReadContentError>) -> Result<T, ReadContentError> {
    // What was being read is given up as a whole, so nothing half done is seen.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(ReadContentError::Senseless))
}

/// The files of a shard in one format, in the order of the sinks; `None` unless all are there that are not for one kind of
/// vectors alone.
fn files_of(format: Format, shard: &CommittedShard) -> Option<Vec<Option<&FileRecord>>> {
    let find = |extension: &str| {
        let name = super::place::shard_file(shard.number, extension);
        shard.files.iter().find(|file| file.name == name)
    };
    let found = |sink: &&dyn Sink| match (find(sink.extension()), sink.kind()) {
        (None, None) => None,
        (file, _) => Some(file),
    };
    format.sinks().iter().map(found).collect()
}

fn open_checked(directory: &Path, record: &FileRecord) -> Result<File, ReadError> {
    let path = directory.join(&record.name);
    let open = || -> io::Result<(File, (Digest, u64))> {
        let mut file = File::open(&path)?;
        let digest = DigestReader::drain(&file)?;
        file.rewind()?;
        Ok((file, digest))
    };
    match open() {
        Ok((file, found)) if found == (record.sha256, record.bytes) => Ok(file),
        Ok(_) => Err(ReadError::Changed { path }),
        Err(source) => Err(ReadError::Read { path, source }),
    }
}
