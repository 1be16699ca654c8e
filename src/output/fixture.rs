//! Rows for the tests: plain, strange, and reproducible.

use super::format::About;
use super::{Existing, Format, Plan};
use crate::domain::{ChunkId, Digest, RawJson, Row, RowRecord, RowStatus, Shard, Source};

pub(super) const ABOUT: About<'static> = About { model: "org/tiny", vector_space: "0a1b" };

/// Length of every vector here.
pub(super) const DIMENSION: usize = 4;

pub(crate) fn record(id: &str, status: RowStatus) -> RowRecord {
    let has_vector = status.has_vector();
    let failed = status == RowStatus::Failed;
    RowRecord {
        id: ChunkId::new(id),
        source: Source { file: "a/b_chunks.json".into(), index: 3 },
        status,
        tokens: if has_vector { 7 } else { 0 },
        tokens_truncated: u32::from(status == RowStatus::Truncated),
        text_sha256: (!failed).then(|| Digest::of(format!("text of {id}").as_bytes())),
        error: failed.then(|| "no text".to_owned()),
        metadata: Some(RawJson::compact(r#"{ "z": 1.10, "a": [1e+2, "\ud800"], "z": null }"#)),
        extra: (status == RowStatus::Truncated).then(|| RawJson::compact(r#"{"score": 0.50}"#)),
    }
}

/// A shard of these records, with vectors that differ from row to row.
pub(super) fn shard(number: u32, first_row: u64, records: Vec<RowRecord>) -> Shard {
    let mut vectors = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let row = first_row + index as u64;
        for column in 0..DIMENSION {
            let value = (row as f32 + 0.1).sin() / (column as f32 + 3.0) * if column == 2 { 1.0e-40 } else { 1.0 };
            vectors.push(if record.status.has_vector() { value } else { f32::NAN });
        }
    }
    Shard { number, first_row: Row(first_row), dimension: DIMENSION, records, vectors }
}

/// `rows` rows of every status in shards of `shard_rows`.
#[expect(clippy::cast_possible_truncation, reason = "a handful of rows")]
pub(super) fn shards(rows: u64, shard_rows: u64) -> Vec<Shard> {
    let statuses = [RowStatus::Ok, RowStatus::Truncated, RowStatus::Empty, RowStatus::Failed];
    let record = |row: u64| record(&format!("chunk {row} \"é\""), statuses[row as usize % statuses.len()]);
    let starts = (0..rows).step_by(shard_rows as usize);
    starts
        .enumerate()
        .map(|(number, start)| shard(number as u32, start, (start..rows.min(start + shard_rows)).map(record).collect()))
        .collect()
}

pub(super) fn plan(model: &str, existing: Existing) -> Plan {
    let provenance = serde_json::json!({"dtype": "f32", "pooling": "mean"});
    Plan {
        model: model.to_owned(),
        vector_space: "0a1b".to_owned(),
        dimension: DIMENSION,
        shard_rows: 3,
        formats: Format::ALL.to_vec(),
        provenance: provenance.as_object().unwrap().clone(),
        existing,
    }
}
