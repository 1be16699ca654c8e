//! JSON Lines: one row a line, readable by everything.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::format::{About, Sink, SinkError};
use super::read::{ReadContentError, RowState, StoredShard};
use crate::domain::{ChunkId, Digest, Row, RowRecord, RowStatus, Shard};

/// Rows formatted into one buffer by one thread: enough to make handing over cheap, little enough to stay in cache.
const GROUP_ROWS: usize = 64;

/// Groups formatted before they are written; bounds the buffers to a few megabytes at 1,024 dimensions.
const GROUPS_IN_FLIGHT: usize = 16;

pub(super) struct Jsonl;

#[derive(Serialize)]
struct JsonRow<'a> {
    id: &'a str,
    row: u64,
    vector: Option<&'a [f32]>,
    tokens: u32,
    status: RowStatus,
    text_sha256: Option<Digest>,
}

impl Sink for Jsonl {
    fn extension(&self) -> &'static str {
        "jsonl"
    }

    fn write(&self, shard: &Shard, _: &About<'_>, out: &mut (dyn Write + Send)) -> Result<(), SinkError> {
        let rows: Vec<_> = shard.rows().collect();
        for rows in rows.chunks(GROUP_ROWS * GROUPS_IN_FLIGHT) {
            let buffers: Vec<_> = rows.par_chunks(GROUP_ROWS).map(format_rows).collect::<Result<_, _>>()?;
            for buffer in buffers {
                out.write_all(&buffer)?;
            }
        }
        Ok(())
    }
}

/// Floats get the shortest digits that read back as the same f32.
fn format_rows(rows: &[(Row, &RowRecord, Option<&[f32]>)]) -> Result<Vec<u8>, SinkError> {
    let mut buffer = Vec::new();
    for &(row, record, vector) in rows {
        let json_row = JsonRow {
            id: record.id.as_str(),
            row: row.0,
            vector,
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

pub(super) fn read(files: &mut [File]) -> Result<StoredShard, ReadContentError> {
    #[derive(Deserialize)]
    struct StoredRow<'a> {
        id: String,
        #[serde(borrow)]
        vector: Option<Vec<&'a RawValue>>,
        tokens: u32,
        status: RowStatus,
        text_sha256: Option<Digest>,
    }

    let mut shard = StoredShard::empty();
    let mut vectors = Vec::new();
    for file in files {
        for line in BufReader::new(file).lines() {
            let line = line?;
            let row: StoredRow<'_> = serde_json::from_str(&line)?;
            shard.ids.push(ChunkId::new(row.id));
            let state = RowState { status: row.status, tokens: row.tokens, text_sha256: row.text_sha256 };
            shard.states.get_or_insert_default().push(state);
            // By way of f64, as JSON parsers go, rounding twice could end one unit off.
            let parse = |number: &RawValue| number.get().parse::<f32>();
            vectors.push(row.vector.map(|vector| vector.into_iter().map(parse).collect::<Result<Vec<_>, _>>()));
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
