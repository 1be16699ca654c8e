//! JSON Lines: one row a line, readable by everything.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};

use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::format::{About, Sink, SinkError};
use super::read::{ReadContentError, RowState, StoredShard};
use crate::domain::{ChunkId, Digest, MultiVectors, Row, RowRecord, RowStatus, RowVectors, Shard, SparseVector};

/// Rows formatted into one buffer by one thread: enough to make handing over cheap, little enough to stay in cache.
const GROUP_ROWS: usize = 64;

/// Groups formatted before they are written; bounds the buffers to a few megabytes at 1,024 dimensions.
const GROUPS_IN_FLIGHT: usize = 16;

pub(super) struct Jsonl;

/// A kind of vectors that was not asked for has no key; one that the row does not have is null.
#[expect(clippy::option_option, reason = "a key may be absent, null or there")]
#[derive(Serialize)]
struct JsonRow<'a> {
    id: &'a str,
    row: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<Option<&'a [f32]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sparse: Option<Option<JsonSparse<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi: Option<Option<JsonMulti<'a>>>,
    tokens: u32,
    status: RowStatus,
    text_sha256: Option<Digest>,
}

#[derive(Serialize)]
struct JsonSparse<'a> {
    indices: &'a [u32],
    values: &'a [f32],
}

/// A list of lists.
struct JsonMulti<'a> {
    dimension: usize,
    values: &'a [f32],
}

impl Serialize for JsonMulti<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.values.chunks_exact(self.dimension.max(1)))
    }
}

impl Sink for Jsonl {
    fn extension(&self) -> &'static str {
        "jsonl"
    }

    fn write(&self, shard: &Shard, _: &About<'_>, out: &mut (dyn Write + Send)) -> Result<(), SinkError> {
        let rows: Vec<_> = shard.rows().collect();
        for rows in rows.chunks(GROUP_ROWS * GROUPS_IN_FLIGHT) {
            let buffers: Vec<_> =
                rows.par_chunks(GROUP_ROWS).map(|rows| format_rows(shard, rows)).collect::<Result<_, _>>()?;
            for buffer in buffers {
                out.write_all(&buffer)?;
            }
        }
        Ok(())
    }
}

/// Floats get the shortest digits that read back as the same f32.
fn format_rows(shard: &Shard, rows: &[(Row, &RowRecord, Option<RowVectors<'_>>)]) -> Result<Vec<u8>, SinkError> {
    let mut buffer = Vec::new();
    for &(row, record, vectors) in rows {
        let json_row = JsonRow {
            id: record.id.as_str(),
            row: row.0,
            vector: (shard.dimension > 0).then(|| vectors.and_then(|vectors| vectors.dense)),
            sparse: shard.sparse.is_some().then(|| vectors.and_then(json_sparse)),
            multi: shard.multi.as_ref().map(|multi| {
                let values = vectors.and_then(|vectors| vectors.multi);
                values.map(|values| JsonMulti { dimension: multi.dimension, values })
            }),
            tokens: record.tokens,
            status: record.status,
            text_sha256: record.text_sha256,
        };
        serde_json::to_writer(&mut buffer, &json_row)
            .map_err(|source| SinkError::Json { id: record.id.clone(), source })?;
        buffer.push(b'\n');
    }
    Ok(buffer)
}

fn json_sparse(vectors: RowVectors<'_>) -> Option<JsonSparse<'_>> {
    vectors.sparse.map(|SparseVector { indices, values }| JsonSparse { indices, values })
}

/// Numbers as they stand in the file. By way of f64, as JSON parsers go, rounding twice could end one unit off.
type Numbers<'a> = Vec<&'a RawValue>;

fn parse(numbers: Numbers<'_>) -> Result<Vec<f32>, std::num::ParseFloatError> {
    numbers.into_iter().map(|number| number.get().parse::<f32>()).collect()
}

/// Tells a key that is null from one that is not there.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

pub(super) fn read(files: &mut [Option<File>]) -> Result<StoredShard, ReadContentError> {
    #[expect(clippy::option_option, reason = "a key may be absent, null or there")]
    #[derive(Deserialize)]
    struct StoredRow<'a> {
        id: String,
        #[serde(borrow)]
        vector: Option<Numbers<'a>>,
        #[serde(borrow, default, deserialize_with = "present")]
        sparse: Option<Option<StoredSparse<'a>>>,
        #[serde(borrow, default, deserialize_with = "present")]
        multi: Option<Option<Vec<Numbers<'a>>>>,
        tokens: u32,
        status: RowStatus,
        text_sha256: Option<Digest>,
    }

    #[derive(Deserialize)]
    struct StoredSparse<'a> {
        indices: Vec<u32>,
        #[serde(borrow)]
        values: Numbers<'a>,
    }

    let mut shard = StoredShard::empty();
    let mut vectors = Vec::new();
    for file in files.iter_mut().flatten() {
        for line in BufReader::new(file).lines() {
            let line = line?;
            let row: StoredRow<'_> = serde_json::from_str(&line)?;
            shard.ids.push(ChunkId::new(row.id));
            let state = RowState { status: row.status, tokens: row.tokens, text_sha256: row.text_sha256 };
            shard.states.get_or_insert_default().push(state);
            vectors.push(row.vector.map(parse));
            if let Some(sparse) = row.sparse {
                let sparse = match sparse {
                    Some(StoredSparse { indices, values }) => SparseVector { indices, values: parse(values)? },
                    None => SparseVector::default(),
                };
                shard.sparse.get_or_insert_default().push(sparse);
            }
            if let Some(multi) = row.multi {
                let MultiVectors { dimension, texts } = shard.multi.get_or_insert_default();
                let mut text = Vec::new();
                for vector in multi.into_iter().flatten() {
                    *dimension = vector.len();
                    text.extend(parse(vector)?);
                }
                texts.push(text);
            }
        }
    }
    shard.dimension = vectors.iter().flatten().flatten().map(Vec::len).next().unwrap_or(0);
    for vector in vectors {
        match vector.transpose()? {
            Some(vector) => shard.vectors.extend(vector),
            None => shard.vectors.extend(std::iter::repeat_n(f32::NAN, shard.dimension)),
        }
    }
    Ok(shard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixture::{ABOUT, record, shard};

    #[test]
    fn a_row_is_exactly_the_keys_of_the_contract() {
        let mut shard = shard(0, 0, vec![record("a \"é\"", RowStatus::Truncated), record("b", RowStatus::Empty)]);
        shard.dimension = 3;
        shard.vectors = vec![0.1, -1.0e-45, 16_777_216.0, f32::NAN, f32::NAN, f32::NAN];
        let mut out = Vec::new();
        Jsonl.write(&shard, &ABOUT, &mut out).unwrap();
        let digest = Digest::of(b"text of a \"\xc3\xa9\"");
        let expected = format!(
            concat!(
                r#"{{"id":"a \"é\"","row":0,"vector":[0.1,-1e-45,16777216.0],"tokens":7,"status":"truncated","#,
                r#""text_sha256":"{}"}}"#,
                "\n",
                r#"{{"id":"b","row":1,"vector":null,"tokens":0,"status":"empty","text_sha256":"{}"}}"#,
                "\n"
            ),
            digest,
            Digest::of(b"text of b"),
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn rows_stay_in_order_over_many_groups() {
        let records: Vec<_> = (0..2500).map(|row| record(&row.to_string(), RowStatus::Empty)).collect();
        let mut out = Vec::new();
        Jsonl.write(&shard(0, 0, records), &ABOUT, &mut out).unwrap();
        let rows = out.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let rows: Vec<u64> = rows
            .map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["row"].as_u64().unwrap())
            .collect();
        assert!(rows.iter().copied().eq(0..2500), "{rows:?}");
    }
}
