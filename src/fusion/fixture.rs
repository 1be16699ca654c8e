//! Members as a pass of their models would leave them, and fusing them; all through the public doors.

use std::cell::{Cell, RefCell};
use std::path::Path;

use super::*;
use crate::domain::RowStatus::{Failed, Ok as Whole, Truncated};
use crate::domain::{CollectionName, RawJson, Row, RowRecord, RowStatus, Shard, Widths};
use crate::output::{CollectionTotals, CollectionWriter, Existing, Format, Manifest, Plan, fixture};

pub(super) const ROWS: usize = 11;

pub(super) fn collection() -> CollectionName {
    CollectionName::new("Docling").unwrap()
}

/// One member: what a pass of its model would leave.
#[derive(Clone)]
pub(super) struct Output {
    pub(super) model: &'static str,
    pub(super) dimension: usize,
    pub(super) shard_rows: usize,
    pub(super) formats: Vec<Format>,
    pub(super) vector_space: &'static str,
    /// One a row.
    pub(super) statuses: Vec<RowStatus>,
    pub(super) vector: fn(row: usize, column: usize) -> f32,
    pub(super) existing: Existing,
    /// Changes what the input said of each row.
    pub(super) input: fn(row: usize, record: &mut RowRecord),
}

pub(super) fn output(model: &'static str, dimension: usize, shard_rows: usize) -> Output {
    Output {
        model,
        dimension,
        shard_rows,
        formats: vec![Format::Jsonl],
        vector_space: model,
        statuses: vec![Whole; ROWS],
        vector: |row, column| (row as f32 * 1.7 + column as f32 * 0.9 + 0.3).sin() * (row + 1) as f32,
        existing: Existing::Resume,
        input: |_, _| {},
    }
}

/// A second model, whose vectors are others.
pub(super) fn second(dimension: usize, shard_rows: usize) -> Output {
    Output {
        vector: |row, column| (row as f32 * 0.4 - column as f32 * 1.3).cos() * 1e-3,
        ..output("org/second", dimension, shard_rows)
    }
}

impl Output {
    fn plan(&self) -> Plan {
        Plan {
            model: self.model.to_owned(),
            vector_space: self.vector_space.to_owned(),
            widths: Widths::dense(self.dimension),
            shard_rows: u32::try_from(self.shard_rows).unwrap(),
            formats: self.formats.clone(),
            provenance: serde_json::Map::new(),
            existing: self.existing,
        }
    }

    /// The input is the same for all models; tokens are not.
    pub(super) fn record(&self, row: usize) -> RowRecord {
        let status = self.statuses[row];
        let tokens = if status.has_vector() { u32::try_from(self.dimension * 100 + row).unwrap() } else { 0 };
        let mut record = RowRecord {
            status,
            tokens,
            tokens_truncated: u32::from(status == Truncated),
            error: (status == Failed).then(|| "broken".to_owned()),
            ..fixture::record(&format!("chunk {row}"), Whole)
        };
        if row % 2 == 1 {
            record.metadata = Some(RawJson::compact("null"));
        }
        (self.input)(row, &mut record);
        record
    }

    fn shards(&self) -> Vec<Shard> {
        let rows: Vec<usize> = (0..self.statuses.len()).collect();
        let shard = |(number, rows): (usize, &[usize])| Shard {
            number: u32::try_from(number).unwrap(),
            first_row: Row(rows[0] as u64),
            dimension: self.dimension,
            records: rows.iter().map(|&row| self.record(row)).collect(),
            vectors: rows.iter().flat_map(|&row| self.vector_of(row)).collect(),
            sparse: None,
            multi: None,
        };
        rows.chunks(self.shard_rows).enumerate().map(shard).collect()
    }

    pub(super) fn vector_of(&self, row: usize) -> Vec<f32> {
        let has_vector = self.statuses[row].has_vector();
        (0..self.dimension).map(|column| if has_vector { (self.vector)(row, column) } else { f32::NAN }).collect()
    }

    pub(super) fn write(&self, root: &Path) {
        self.write_shards(root, usize::MAX)
            .finish(CollectionTotals { files: 3, rows: self.statuses.len() as u64, loading_errors: 2 })
            .unwrap();
    }

    pub(super) fn write_shards(&self, root: &Path, shards: usize) -> CollectionWriter {
        let mut writer = CollectionWriter::open(root, &collection(), &self.plan()).unwrap().writer;
        self.shards().iter().take(shards).for_each(|shard| assert!(writer.commit(shard).is_ok()));
        writer
    }
}

/// What to do with the members.
#[derive(Clone)]
pub(super) struct Order {
    pub(super) method: Method,
    pub(super) members: Vec<Member>,
    pub(super) formats: Vec<Format>,
    pub(super) shard_rows: u32,
    pub(super) existing: Existing,
}

pub(super) fn order(method: Method, outputs: &[Output]) -> Order {
    let members = outputs.iter().map(|output| Member { model: output.model.to_owned(), weight: 1.0 }).collect();
    Order { method, members, formats: vec![Format::Jsonl], shard_rows: 4, existing: Existing::Resume }
}

/// What a run has told.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Told {
    pub(super) kept_rows: u64,
    pub(super) rebuilt: Option<Rebuilt>,
    pub(super) failed: Vec<(u64, String)>,
    pub(super) committed: Vec<u32>,
}

impl Order {
    pub(super) fn run(&self, root: &Path) -> Result<(Manifest, Told), FuseError> {
        self.run_until(root, usize::MAX)
    }

    /// Asks to stop once so many shards are committed.
    pub(super) fn run_until(&self, root: &Path, shards: usize) -> Result<(Manifest, Told), FuseError> {
        let collection = collection();
        let request = Request {
            output_dir: root,
            collection: &collection,
            method: self.method,
            members: &self.members,
            formats: &self.formats,
            shard_rows: self.shard_rows,
            existing: self.existing,
        };
        let (told, committed) = (RefCell::new(Told::default()), Cell::new(0));
        let manifest = fuse(&request, &|| committed.get() >= shards, &mut |step| {
            let mut told = told.borrow_mut();
            match step {
                Step::Opened { opened, rebuilt } => {
                    (told.kept_rows, told.rebuilt) = (opened.committed.rows(), rebuilt);
                }
                Step::RowFailed { row, record, reason } => {
                    assert_eq!((record.status, record.error.as_deref()), (Failed, Some(reason)));
                    told.failed.push((row.0, reason.to_owned()));
                }
                Step::Committed(shard) => {
                    committed.set(committed.get() + 1);
                    told.committed.push(shard.number);
                }
            }
        });
        manifest.map(|manifest| (manifest, told.into_inner()))
    }

    #[track_caller]
    pub(super) fn fails(&self, root: &Path) -> String {
        self.run(root).map(|(manifest, _)| manifest.complete).unwrap_err().to_string()
    }
}

pub(super) fn write_all(root: &Path, outputs: &[Output]) {
    outputs.iter().for_each(|output| output.write(root));
}
