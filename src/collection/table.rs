//! Reads Parquet: each row becomes the JSON object that it would be in JSON Lines, and is judged as one.
//!
//! So there is one rule for ids, metadata and texts, whatever the format. Integers keep all their digits and floats
//! the shortest ones that mean the same; times are ISO 8601, binary columns hexadecimal. JSON has no NaN and no
//! infinity: in metadata they become null.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_schema::{ArrowError, DataType, Schema};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::decode::{MetadataString, decode};
use super::json_rows::json_lines;
use super::piece::Piece;
use super::stored::StoredFile;

/// Rows that are decoded at once: texts may be long, and memory is bounded by what is in flight.
const BATCH_ROWS: usize = 64;

/// The rows of a table.
pub(super) struct Table {
    file: StoredFile,
    /// What is not read yet; `None` at the end.
    open: Option<Result<OpenTable, TableError>>,
    /// JSON Lines of the rows that are decoded.
    rows: Vec<u8>,
    /// Where in `rows` the next one begins.
    at: usize,
    rows_read: u64,
}

struct OpenTable {
    batches: ParquetRecordBatchReader,
    stored_bytes: u64,
    rows_total: u64,
}

/// Why a table gives no rows, or no more.
#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("cannot be opened: {0}")]
    Open(#[from] std::io::Error),
    #[error("cannot be read as parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error("rows cannot be read: {0}")]
    Rows(#[from] ArrowError),
    #[error("there is no column text; the columns are {columns}")]
    NoText { columns: String },
    #[error("the column text is {found}, not strings")]
    TextType { found: DataType },
    #[error("cannot be read as parquet: the file is damaged in a way that the decoder does not foresee")]
    Panicked,
}

impl Table {
    pub(super) fn new(file: StoredFile) -> Self {
        let open = Some(guarded(|| open(&file)));
        Self { file, open, rows: Vec::new(), at: 0, rows_read: 0 }
    }

    fn buffered(&mut self) -> Option<Piece> {
        let rest = &self.rows[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n')?;
        let entry = decode(&rest[..length], None, MetadataString::MayHoldObject);
        self.at += length + 1;
        self.rows_read += 1;
        Some(Piece::Entry(Box::new(entry)))
    }

    fn failed(&self, error: &TableError) -> Piece {
        let in_entry = matches!(error, TableError::Rows(_)) || self.rows_read > 0;
        Piece::Fault { place: None, in_entry, reason: error.to_string() }
    }
}

impl Iterator for Table {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        loop {
            if let Some(piece) = self.buffered() {
                return Some(piece);
            }
            let mut open = match self.open.take()? {
                Ok(open) => open,
                Err(error) => return Some(self.failed(&error)),
            };
            self.file.note_progress(self.rows_read, open.rows_total, open.stored_bytes);
            match guarded(|| open.batches.next().map(|batch| Ok(json_lines(&batch?)?)).transpose()) {
                Ok(None) => return None,
                Ok(Some(rows)) => {
                    (self.rows, self.at) = (rows, 0);
                    self.open = Some(Ok(open));
                }
                Err(error) => return Some(self.failed(&error)),
            }
        }
    }
}

/// A decoder that panics on damaged input must not take the run with it; what it worked on is dropped unused.
fn guarded<T>(read: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(TableError::Panicked))
}

fn open(file: &StoredFile) -> Result<OpenTable, TableError> {
    let seal = file.open()?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(seal.file()?)?;
    check_text_column(builder.schema())?;
    let rows_total = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    let batches = builder.with_batch_size(BATCH_ROWS).build()?;
    Ok(OpenTable { batches, stored_bytes: seal.bytes(), rows_total })
}

fn check_text_column(schema: &Schema) -> Result<(), TableError> {
    let Some((_, field)) = schema.fields().find("text") else {
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(TableError::NoText { columns: names.join(", ") });
    };
    let values = match field.data_type() {
        DataType::Dictionary(_, values) => values,
        plain => plain,
    };
    match values {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Ok(()),
        found => Err(TableError::TextType { found: found.clone() }),
    }
}
