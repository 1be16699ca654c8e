//! Everything that an output says, read back and held against what its manifest and the ledger say.
//!
//! The rows of a part are read from the ledger first, in order; then several parts at once are read in all their formats
//! and compared. Memory is that of a few parts.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::format::Format;
use super::input::{InputChain, InputRow, input_digest};
use super::ledger::ChunksManifest;
use super::ledger_rows::{Ledger, parse_row};
use super::manifest::{ChunksState, CommittedShard, Counts, Manifest};
use super::place::{Place, shard_file};
use super::read::{ReadError, StoredShard, read_shard_as};
use super::survey::Damaged;
use crate::domain::{CollectionName, Digest, MultiVectors, RowRecord, RowStatus, Widths};

/// What is wrong with the content of an output: files that are not what was committed, cannot be understood, or
/// contradict the ledger or each other.
pub(super) fn content(
    output_dir: &Path,
    collection: &CollectionName,
    place: &Place,
    manifest: &Manifest,
    ledger: Option<&ChunksManifest>,
) -> Vec<Damaged> {
    let mut faults = Vec::new();
    let mut rows = match Rows::open(output_dir, collection, place, manifest) {
        Ok(rows) => Some(rows),
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    // The ledger tells statuses and tokens of one model alone.
    let is_own = manifest.chunks != ChunksState::Published
        || ledger
            .is_some_and(|ledger| (&ledger.model, &ledger.vector_space) == (&manifest.model, &manifest.vector_space));
    let mut chain = manifest.share.is_none().then(InputChain::new);
    for shards in manifest.shards.chunks(rayon::current_num_threads().max(1) * 2) {
        let mut parts = Vec::new();
        for shard in shards {
            let records = match rows.as_mut().map(|rows| rows.of(shard)) {
                Some(Ok(records)) => Some(records),
                Some(Err(fault)) => {
                    faults.push(fault);
                    (rows, chain) = (None, None);
                    None
                }
                None => None,
            };
            if let (Some(records), Some(chain)) = (&records, &mut chain) {
                records.iter().for_each(|record| chain.push(&InputRow::from(record)));
                if chain.state() != shard.input_chain {
                    let what = format!("tells otherwise of the rows up to {} than the ledger", shard.end_row());
                    faults.push(Damaged::lasting(place.manifest(), what));
                }
            }
            let records = records.map(|records| records.into_iter().map(Expected::from).collect::<Vec<_>>());
            parts.push((shard, records));
        }
        let found = parts.par_iter().flat_map_iter(|(shard, records)| {
            let part = Part { place, manifest, shard, records: records.as_deref(), statuses_count: is_own };
            part.faults()
        });
        faults.extend(found.collect::<Vec<_>>());
    }
    faults.sort_unstable();
    faults.dedup();
    faults
}

/// What the ledger says of a row, as far as a part says it too.
struct Expected {
    id: String,
    text_sha256: Option<Digest>,
    status: RowStatus,
    tokens: u32,
}

impl From<RowRecord> for Expected {
    fn from(record: RowRecord) -> Self {
        let RowRecord { id, text_sha256, status, tokens, .. } = record;
        Self { id: id.as_str().to_owned(), text_sha256, status, tokens }
    }
}

/// Where the rows of the parts come from, in order.
enum Rows {
    Published {
        ledger: Box<Ledger>,
        path: PathBuf,
    },
    Pending {
        file: BufReader<File>,
        path: PathBuf,
    },
    /// There is no part, and so there need be no ledger.
    None,
}

impl Rows {
    fn open(
        output_dir: &Path,
        collection: &CollectionName,
        place: &Place,
        manifest: &Manifest,
    ) -> Result<Self, Damaged> {
        if manifest.chunks == ChunksState::Published {
            let path = place.chunks();
            return match Ledger::open(output_dir, collection) {
                Ok(ledger) => Ok(Self::Published { ledger: Box::new(ledger), path }),
                Err(error) => Err(Damaged::lasting(path, error.to_string())),
            };
        }
        if manifest.shards.is_empty() {
            return Ok(Self::None);
        }
        let path = place.pending_chunks();
        match File::open(&path) {
            Ok(file) => Ok(Self::Pending { file: BufReader::new(file), path }),
            Err(error) => Err(Damaged::redone(path, format!("cannot be read: {error}"))),
        }
    }

    /// The rows of a part; parts are asked for in their order.
    fn of(&mut self, shard: &CommittedShard) -> Result<Vec<RowRecord>, Damaged> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::Published { ledger, path } => {
                let damaged = |what: String| Damaged::lasting(path.clone(), what);
                let wanted = usize::try_from(shard.totals.rows).unwrap_or(usize::MAX);
                // A share's parts are not one after the other.
                while ledger.rows_read() < shard.first_row {
                    if ledger.next().transpose().map_err(|error| damaged(error.to_string()))?.is_none() {
                        break;
                    }
                }
                let rows = ledger.by_ref().take(wanted).collect::<Result<Vec<_>, _>>();
                let rows = rows.map_err(|error| damaged(error.to_string()))?;
                if rows.len() < wanted {
                    return Err(damaged(format!("ends before row {}", shard.end_row() - 1)));
                }
                Ok(rows)
            }
            Self::Pending { file, path } => {
                pending(file, shard).map_err(|error| Damaged::redone(path.clone(), error.to_string()))
            }
        }
    }
}

/// The rows of a part of a ledger in progress, held against its digest.
fn pending(file: &mut BufReader<File>, shard: &CommittedShard) -> io::Result<Vec<RowRecord>> {
    let wrong = |what: &str| {
        io::Error::other(format!("{what} in the rows {} to {}", shard.first_row, shard.end_row().saturating_sub(1)))
    };
    let segment = shard.chunks.ok_or_else(|| wrong("nothing is known of its length"))?;
    let mut bytes = Vec::new();
    Read::by_ref(file).take(segment.bytes).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != segment.bytes || Digest::of(&bytes) != segment.sha256 {
        return Err(wrong("has other content than was committed"));
    }
    let mut rows = Vec::new();
    for (number, line) in (shard.first_row..).zip(bytes.lines()) {
        let (row, record) = parse_row(line?.as_bytes()).map_err(|error| wrong(&error.to_string()))?;
        if row != number {
            return Err(wrong("has another numbering"));
        }
        rows.push(record);
    }
    Ok(rows)
}

/// A part of an output that is read back.
struct Part<'a> {
    place: &'a Place,
    manifest: &'a Manifest,
    shard: &'a CommittedShard,
    records: Option<&'a [Expected]>,
    /// Whether the ledger's statuses and tokens are this model's.
    statuses_count: bool,
}

impl Part<'_> {
    fn faults(&self) -> Vec<Damaged> {
        let mut faults = Vec::new();
        let mut first: Option<(Format, StoredShard)> = None;
        let rows = self.records.map_or(self.shard.totals.rows, |records| records.len() as u64);
        if rows != self.shard.totals.rows {
            let what = format!("the ledger has {rows} rows of part {}", self.shard.number);
            faults.push(Damaged::lasting(self.place.manifest(), what));
        }
        for format in Format::by_preference(&self.manifest.formats) {
            let path = self.path(format);
            match read_shard_as(format, &self.place.model, self.shard) {
                Err(error) => faults.push(unreadable(path, error)),
                Ok(stored) => {
                    let compared = first.as_ref().and_then(|(other, one)| Some((other, differ(one, &stored)?)));
                    if let Some((other, what)) = compared {
                        faults.push(Damaged::lasting(path.clone(), format!("has other {what} than the {other} file")));
                    }
                    faults.extend(self.rows_of(&stored).map(|what| Damaged::lasting(path, what)));
                    first.get_or_insert((format, stored));
                }
            }
        }
        faults
    }

    fn path(&self, format: Format) -> PathBuf {
        let extension = format.sinks_of(self.manifest.widths()).next().map_or("", |sink| sink.extension());
        self.place.model.join(shard_file(self.shard.number, extension))
    }

    /// What is wrong with the rows of one file.
    fn rows_of(&self, stored: &StoredShard) -> Option<String> {
        let Widths { dense, sparse, multi } = self.manifest.widths();
        let rows = stored.ids.len();
        let dimension = dense.unwrap_or_default();
        if (stored.dimension != dimension && stored.dimension != 0) || stored.vectors.len() != rows * stored.dimension {
            return Some(format!("has vectors of {} components instead of {dimension}", stored.dimension));
        }
        let kinds = (stored.sparse.as_ref().map(Vec::len), stored.multi.as_ref().map(|multi| multi.texts.len()));
        if kinds != (sparse.map(|_| rows), multi.map(|_| rows))
            || stored.states.as_ref().is_some_and(|it| it.len() != rows)
        {
            return Some("does not have each kind of vectors once for every row".to_owned());
        }
        let mut counts = Counts::default();
        for index in 0..rows {
            let expected = self.records.and_then(|records| records.get(index));
            let row = self.shard.first_row + index as u64;
            if let Some(fault) = self.row(stored, index, expected, &mut counts) {
                return Some(format!("row {row} ({}) {fault}", stored.ids[index]));
            }
        }
        let Some(states) = &stored.states else { return None };
        let tokens: u64 = states.iter().map(|state| u64::from(state.tokens)).sum();
        if (counts, tokens) != (self.shard.totals.counts, self.shard.totals.tokens) {
            return Some("has other numbers of statuses or tokens than the manifest says".to_owned());
        }
        let rows = stored.ids.iter().zip(states);
        let source = crate::domain::Source { file: "".into(), index: 0 };
        let input = input_digest(rows.map(|(id, state)| InputRow {
            id,
            source: &source,
            text_sha256: state.text_sha256,
            metadata: None,
            extra: None,
        }));
        (input != self.shard.input_sha256).then(|| "has other ids or texts than the manifest says".to_owned())
    }

    fn row(
        &self,
        stored: &StoredShard,
        index: usize,
        expected: Option<&Expected>,
        counts: &mut Counts,
    ) -> Option<&'static str> {
        let state = stored.states.as_ref().map(|states| &states[index]);
        if let Some(expected) = expected {
            if expected.id != stored.ids[index].as_str() {
                return Some("has another id than in the ledger");
            }
            if state.is_some_and(|state| state.text_sha256 != expected.text_sha256) {
                return Some("is of another text than in the ledger");
            }
            let own = state.filter(|_| self.statuses_count);
            if own.is_some_and(|state| (state.status, state.tokens) != (expected.status, expected.tokens)) {
                return Some("has another status or number of tokens than in the ledger");
            }
        }
        let status = state.map(|state| state.status);
        match status {
            Some(RowStatus::Ok) => counts.ok += 1,
            Some(RowStatus::Truncated) => counts.truncated += 1,
            Some(RowStatus::Empty) => counts.empty += 1,
            Some(RowStatus::Failed) => counts.failed += 1,
            None => {}
        }
        let status = status.or(expected.filter(|_| self.statuses_count).map(|expected| expected.status));
        let dense = &stored.vectors[index * stored.dimension..(index + 1) * stored.dimension];
        let multi = stored.multi.as_ref().map(|multi| multi.texts[index].as_slice()).unwrap_or_default();
        let sparse = stored.sparse.as_ref().map(|sparse| &sparse[index]);
        let weights = sparse.map(|sparse| sparse.values.as_slice()).unwrap_or_default();
        let is_finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        let has_dense = !dense.is_empty() && is_finite(dense);
        match status.map(RowStatus::has_vector) {
            Some(true) if self.manifest.dimension > 0 && !has_dense => Some("has no vector, or one that is not finite"),
            Some(true) | None if has_dense && dense.iter().all(|value| *value == 0.0) => Some("has a vector of zeros"),
            Some(false) if !dense.iter().all(|value| value.is_nan()) || !multi.is_empty() || !weights.is_empty() => {
                Some("has a vector, though its status says that it has none")
            }
            None if !has_dense && !dense.iter().all(|value| value.is_nan()) => Some("has a vector that is not finite"),
            _ if !is_finite(multi) || !is_finite(weights) => Some("has a vector that is not finite"),
            _ if sparse.is_some_and(|sparse| !sparse.indices.windows(2).all(|pair| pair[0] < pair[1])) => {
                Some("has a sparse vector whose tokens are not in order")
            }
            _ => None,
        }
    }
}

/// What is wrong with files that make no part.
fn unreadable(path: PathBuf, error: ReadError) -> Damaged {
    match error {
        ReadError::Changed { path } => Damaged::redone(path, "has other content than was committed".to_owned()),
        ReadError::Read { path, source } => Damaged::redone(path, format!("cannot be read: {source}")),
        ReadError::Content { path, source } => {
            let cause = std::error::Error::source(&source).map(|cause| format!(": {cause}")).unwrap_or_default();
            Damaged::lasting(path, format!("cannot be understood: {source}{cause}"))
        }
        ReadError::NoFile { .. } => Damaged::lasting(path, "is not in the manifest".to_owned()),
    }
}

/// In what two formats of a part differ; `None` if they tell the same. A format without vectors has no dimension.
fn differ(one: &StoredShard, other: &StoredShard) -> Option<&'static str> {
    let bits = |values: &[f32]| {
        values.iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect::<Vec<_>>()
    };
    let texts = |multi: &Option<MultiVectors>| {
        multi.as_ref().map(|multi| multi.texts.iter().map(|text| bits(text)).collect::<Vec<_>>())
    };
    let no_dense = |stored: &StoredShard| stored.vectors.iter().all(|value| value.is_nan());
    if one.ids != other.ids {
        Some("ids")
    } else if one.states.is_some() && other.states.is_some() && one.states != other.states {
        Some("statuses, tokens or digests of texts")
    } else if !(no_dense(one) && no_dense(other)) && bits(&one.vectors) != bits(&other.vectors) {
        Some("vectors")
    } else if one.sparse != other.sparse {
        Some("sparse vectors")
    } else if texts(&one.multi) != texts(&other.multi) {
        Some("vectors of tokens")
    } else {
        None
    }
}
