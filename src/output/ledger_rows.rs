//! The ledger, read back row by row: where an output that is made of other outputs takes its rows from.
//!
//! A row comes back as it went in, metadata digit for digit, so that the input chain over the rows read is the chain
//! over the rows written. Memory is that of one row.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::ledger::ChunksManifest;
use super::manifest::SCHEMA_VERSION;
use super::place::{CHUNKS_FILE, CHUNKS_MANIFEST_FILE};
use crate::domain::{ChunkId, CollectionName, Digest, DigestReader, RawJson, RowRecord, RowStatus, Source};

/// The rows of a published ledger, in order; statuses, tokens and errors are those of the model in its manifest.
pub struct Ledger {
    manifest: ChunksManifest,
    path: PathBuf,
    lines: BufReader<File>,
    line: Vec<u8>,
    rows: u64,
}

/// A ledger could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum LedgerReadError {
    /// It is not there, or not the one that its manifest vouches for.
    #[error("{} is missing, or is not the one that {CHUNKS_MANIFEST_FILE} beside it is about (put it back, or pass --overwrite to embed everything again)", path.display())]
    Lost {
        /// The ledger.
        path: PathBuf,
    },
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The ledger, or its manifest.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// It has the right digest and still cannot be understood.
    #[error("cannot understand row {row} of {}", path.display())]
    Content {
        /// The ledger.
        path: PathBuf,
        /// The row.
        row: u64,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Its rows are not numbered one after the other.
    #[error("{} has row {found} where row {expected} should be", path.display())]
    OutOfOrder {
        /// The ledger.
        path: PathBuf,
        /// Number of the row.
        found: u64,
        /// Number that it should have.
        expected: u64,
    },
}

impl Ledger {
    /// Opens the ledger of a collection, once the whole of it has been held against its digest.
    ///
    /// # Errors
    /// When it is missing, damaged or cannot be read.
    pub fn open(output_dir: &Path, collection: &CollectionName) -> Result<Self, LedgerReadError> {
        let directory = output_dir.join(collection.as_str());
        let (path, manifest_path) = (directory.join(CHUNKS_FILE), directory.join(CHUNKS_MANIFEST_FILE));
        let lost = || LedgerReadError::Lost { path: path.clone() };
        let read = |path: &Path, source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => lost(),
            _ => LedgerReadError::Read { path: path.to_owned(), source },
        };
        let json = std::fs::read(&manifest_path).map_err(|source| read(&manifest_path, source))?;
        let manifest: ChunksManifest = serde_json::from_slice(&json).map_err(|_| lost())?;
        let mut file = File::open(&path).map_err(|source| read(&path, source))?;
        // Of the file that is open, so that what is read later is what was checked, whatever gets its name meanwhile.
        let found = DigestReader::drain(&file).map_err(|source| read(&path, source))?;
        if manifest.schema_version != SCHEMA_VERSION || found != (manifest.file.sha256, manifest.file.bytes) {
            return Err(lost());
        }
        file.rewind().map_err(|source| read(&path, source))?;
        Ok(Self { manifest, path, lines: BufReader::new(file), line: Vec::new(), rows: 0 })
    }

    /// What it holds, and whose statuses it tells.
    pub fn manifest(&self) -> &ChunksManifest {
        &self.manifest
    }

    /// How many rows have been read.
    pub(super) fn rows_read(&self) -> u64 {
        self.rows
    }

    fn read_row(&mut self) -> Result<Option<RowRecord>, LedgerReadError> {
        self.line.clear();
        let read = self.lines.read_until(b'\n', &mut self.line);
        if read.map_err(|source| LedgerReadError::Read { path: self.path.clone(), source })? == 0 {
            return Ok(None);
        }
        let expected = self.rows;
        let row: StoredRow<'_> = serde_json::from_slice(&self.line).map_err(|source| LedgerReadError::Content {
            path: self.path.clone(),
            row: expected,
            source,
        })?;
        if row.row != expected {
            return Err(LedgerReadError::OutOfOrder { path: self.path.clone(), found: row.row, expected });
        }
        self.rows += 1;
        Ok(Some(row.into()))
    }
}

impl Iterator for Ledger {
    type Item = Result<RowRecord, LedgerReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_row().transpose()
    }
}

/// One line of a ledger, and the number of its row.
pub(super) fn parse_row(line: &[u8]) -> serde_json::Result<(u64, RowRecord)> {
    let row: StoredRow<'_> = serde_json::from_slice(line)?;
    Ok((row.row, row.into()))
}

#[derive(Deserialize)]
struct StoredRow<'a> {
    id: String,
    row: u64,
    source: StoredSource,
    text_sha256: Option<Digest>,
    tokens: u32,
    tokens_truncated: u32,
    status: RowStatus,
    error: Option<String>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    extra: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StoredSource {
    file: String,
    index: u64,
}

impl From<StoredRow<'_>> for RowRecord {
    fn from(row: StoredRow<'_>) -> Self {
        let raw = |json: &RawValue| RawJson::compact(json.get());
        Self {
            id: ChunkId::new(row.id),
            source: Source { file: row.source.file.into(), index: row.source.index },
            status: row.status,
            tokens: row.tokens,
            tokens_truncated: row.tokens_truncated,
            text_sha256: row.text_sha256,
            error: row.error,
            metadata: row.metadata.map(raw),
            extra: row.extra.map(raw),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture::{plan, record, shard, shards};
    use crate::output::{CollectionTotals, CollectionWriter, Existing, InputChain, InputRow};

    fn collection() -> CollectionName {
        CollectionName::new("Docling").unwrap()
    }

    fn publish(root: &Path, records: &[RowRecord]) {
        let mut writer = CollectionWriter::open(root, &collection(), &plan("m", Existing::Resume)).unwrap().writer;
        for (number, records) in records.chunks(3).enumerate() {
            let number = u32::try_from(number).unwrap();
            writer.commit(&shard(number, u64::from(number) * 3, records.to_vec())).unwrap();
        }
        writer.finish(CollectionTotals { files: 1, rows: records.len() as u64, loading_errors: 0 }).unwrap();
    }

    #[track_caller]
    fn check(records: &[RowRecord]) {
        let root = tempfile::tempdir().unwrap();
        publish(root.path(), records);
        let ledger = Ledger::open(root.path(), &collection()).unwrap();
        let last = ledger.manifest().checkpoints.last().map(|checkpoint| checkpoint.input_chain);
        let found: Vec<_> = ledger.map(Result::unwrap).collect();
        assert_eq!(found, records);
        let mut chain = InputChain::new();
        found.iter().for_each(|record| chain.push(&InputRow::from(record)));
        assert_eq!(last.unwrap_or(InputChain::new().state()), chain.state());
    }

    #[test]
    fn every_row_comes_back_as_it_was_written() {
        check(&[]);
        let rows: Vec<_> = shards(8, 3).into_iter().flat_map(|shard| shard.records).collect();
        check(&rows);
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        check(&[
            RowRecord { metadata: None, error: Some("a \"quoted\"\nreason".to_owned()), ..rows[3].clone() },
            RowRecord { metadata: Some(RawJson::compact(&deep)), id: ChunkId::new("\u{2028}\t\\"), ..rows[0].clone() },
        ]);
    }

    #[test]
    fn metadata_that_is_null_and_none_at_all_are_one_to_the_chain() {
        let root = tempfile::tempdir().unwrap();
        let rows = [
            RowRecord { metadata: Some(RawJson::compact("null")), ..record("a", RowStatus::Ok) },
            RowRecord { metadata: None, ..record("b", RowStatus::Ok) },
        ];
        publish(root.path(), &rows);
        let ledger = Ledger::open(root.path(), &collection()).unwrap();
        let written = ledger.manifest().checkpoints[0].input_chain;
        let mut chain = InputChain::new();
        ledger.for_each(|record| chain.push(&InputRow::from(&record.unwrap())));
        assert_eq!(chain.state(), written);
    }

    #[test]
    fn a_ledger_that_its_manifest_does_not_vouch_for_is_lost() {
        let root = tempfile::tempdir().unwrap();
        let lost = |root: &Path| matches!(Ledger::open(root, &collection()), Err(LedgerReadError::Lost { .. }));
        assert!(lost(root.path()));
        publish(root.path(), &shards(4, 3)[0].records);
        assert!(!lost(root.path()));
        let path = root.path().join("Docling/chunks.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"row\":1", "\"row\":7")).unwrap();
        assert!(lost(root.path()));

        // Vouched for, and still wrong.
        let manifest = root.path().join("Docling/chunks.manifest.json");
        let digests = [&text, &std::fs::read_to_string(&path).unwrap()].map(|text| Digest::of(text.as_bytes()));
        let json = std::fs::read_to_string(&manifest).unwrap();
        std::fs::write(&manifest, json.replace(&digests[0].to_string(), &digests[1].to_string())).unwrap();
        let error = Ledger::open(root.path(), &collection()).unwrap().find_map(Result::err).unwrap();
        assert!(matches!(error, LedgerReadError::OutOfOrder { found: 7, expected: 1, .. }), "{error}");
    }
}
