//! NumPy arrays, version 1.0 of the format, with the ids beside them.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::fs::File;
use std::io::{BufReader, Read, Write};

use super::columns::canonical_vectors;
use super::format::{About, Sink, SinkError};
use super::read::{ReadContentError, StoredShard};
use crate::domain::{ChunkId, Shard};

const MAGIC_AND_VERSION: &[u8; 8] = b"\x93NUMPY\x01\x00";

/// The data starts at a multiple of this, so that it can be mapped into memory.
const ALIGNMENT_BYTES: usize = 64;

/// Floats turned into little-endian bytes at a time.
const FLOATS_PER_WRITE: usize = 16 * 1024;

/// `part-00000.npy`: float32 [rows, dimension], all NaN where a row has no vector.
pub(super) struct Vectors;

/// `part-00000.ids.json`: a JSON array with the id of each row.
pub(super) struct Ids;

impl Sink for Vectors {
    fn extension(&self) -> &'static str {
        "npy"
    }

    fn write(&self, shard: &Shard, _: &About<'_>, out: &mut (dyn Write + Send)) -> Result<(), SinkError> {
        out.write_all(&header(shard.records.len(), shard.dimension))?;
        for floats in canonical_vectors(shard).chunks(FLOATS_PER_WRITE) {
            let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

impl Sink for Ids {
    fn extension(&self) -> &'static str {
        "ids.json"
    }

    fn write(&self, shard: &Shard, _: &About<'_>, out: &mut (dyn Write + Send)) -> Result<(), SinkError> {
        for (index, record) in shard.records.iter().enumerate() {
            out.write_all(if index == 0 { b"[\n" } else { b",\n" })?;
            serde_json::to_writer(&mut *out, record.id.as_str())
                .map_err(|source| SinkError::Json { id: record.id.clone(), source })?;
        }
        out.write_all(b"\n]\n")?;
        Ok(())
    }
}

/// Magic, version, and a dictionary padded so that the data is aligned. Its length fits the two bytes of version 1.0:
/// two numbers of 20 digits at the most.
fn header(rows: usize, dimension: usize) -> Vec<u8> {
    let mut dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}");
    let unpadded = MAGIC_AND_VERSION.len() + 2 + dictionary.len() + 1;
    dictionary.push_str(&" ".repeat(unpadded.next_multiple_of(ALIGNMENT_BYTES) - unpadded));
    dictionary.push('\n');
    let length = u16::try_from(dictionary.len()).unwrap_or(u16::MAX).to_le_bytes();
    [MAGIC_AND_VERSION, length.as_slice(), dictionary.as_bytes()].concat()
}

pub(super) fn read(files: &mut [File]) -> Result<StoredShard, ReadContentError> {
    let [vectors, ids] = files else { return Err(ReadContentError::Npy) };
    let ids: Vec<String> = serde_json::from_reader(BufReader::new(ids))?;
    let mut bytes = Vec::new();
    vectors.read_to_end(&mut bytes)?;
    // The header is taken only if it is what this file writes for as many rows and floats.
    let length = bytes.get(8..10).map_or(0, |length| 10 + usize::from(u16::from_le_bytes([length[0], length[1]])));
    let (head, data) = bytes.split_at_checked(length).ok_or(ReadContentError::Npy)?;
    let dimension = (data.len() / 4).checked_div(ids.len()).unwrap_or(0);
    if head != header(ids.len(), dimension) || data.len() != ids.len() * dimension * 4 {
        return Err(ReadContentError::Npy);
    }
    let floats = data.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    Ok(StoredShard {
        dimension,
        ids: ids.into_iter().map(ChunkId::new).collect(),
        vectors: floats.collect(),
        ..StoredShard::empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_what_numpy_reads_and_aligned() {
        let header = header(4096, 384);
        assert_eq!(header.len(), 128);
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let text = std::str::from_utf8(&header[10..]).unwrap();
        assert_eq!(text.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (4096, 384), }");
        assert!(text.ends_with(" \n"));
    }
}
