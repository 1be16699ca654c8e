//! Rows for the tests: plain, strange, and reproducible.

use super::format::About;
use super::{Existing, Format, Plan};
use crate::domain::{
    ChunkId, Digest, MultiVectors, RawJson, Row, RowRecord, RowStatus, Shard, Source, SparseVector, Widths,
};

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
pub(crate) fn shard(number: u32, first_row: u64, records: Vec<RowRecord>) -> Shard {
    let mut vectors = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let row = first_row + index as u64;
        for column in 0..DIMENSION {
            let value = (row as f32 + 0.1).sin() / (column as f32 + 3.0) * if column == 2 { 1.0e-40 } else { 1.0 };
            vectors.push(if record.status.has_vector() { value } else { f32::NAN });
        }
    }
    Shard { number, first_row: Row(first_row), dimension: DIMENSION, records, vectors, sparse: None, multi: None }
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

/// What [`with_all_kinds`] makes of shards.
pub(crate) const ALL_KINDS: Widths = Widths { dense: Some(DIMENSION), sparse: Some(100), multi: Some(3) };

/// The same rows with vectors of every kind, some of them empty.
pub(crate) fn with_all_kinds(mut shard: Shard) -> Shard {
    let first = u32::try_from(shard.first_row.0).unwrap();
    let (mut sparse, mut texts) = (Vec::new(), Vec::new());
    for (row, record) in (first..).zip(&shard.records) {
        let count = if record.status.has_vector() { row % 5 } else { 0 };
        let values: Vec<f32> = (1..=count).map(|place| 0.1 * place as f32 + row as f32).collect();
        sparse
            .push(SparseVector { indices: (0..count).map(|place| row + 3 * place).collect(), values: values.clone() });
        texts.push(values.iter().flat_map(|value| [*value, -0.0, 1.0e-40 * value]).collect());
    }
    shard.sparse = Some(sparse);
    shard.multi = Some(MultiVectors { dimension: 3, texts });
    shard
}

/// The same rows with these kinds alone.
pub(super) fn with_kinds(shard: &Shard, kinds: Widths) -> Shard {
    let mut shard = with_all_kinds(shard.clone());
    if kinds.dense.is_none() {
        (shard.dimension, shard.vectors) = (0, Vec::new());
    }
    shard.sparse = shard.sparse.filter(|_| kinds.sparse.is_some());
    shard.multi = shard.multi.filter(|_| kinds.multi.is_some());
    shard
}

pub(crate) fn plan(model: &str, existing: Existing) -> Plan {
    let provenance = serde_json::json!({"dtype": "f32", "pooling": "mean"});
    Plan {
        model: model.to_owned(),
        vector_space: "0a1b".to_owned(),
        widths: Widths::dense(DIMENSION),
        shard_rows: 3,
        formats: Format::ALL.to_vec(),
        provenance: provenance.as_object().unwrap().clone(),
        existing,
    }
}
