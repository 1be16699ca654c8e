//! NumPy arrays, version 1.0 of the format, with the ids beside them.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. Sparse vectors are the three arrays of a CSR
//! matrix; the vectors of tokens are one array with the place of each row's first.

use std::fs::File;
use std::io::{BufReader, Read, Write};

use super::columns::canonical_vectors;
use super::format::{About, Sink, SinkError};
use super::read::{ReadContentError, StoredShard};
use crate::domain::{ChunkId, MultiVectors, Shard, SparseVector, VectorKind};

const MAGIC_AND_VERSION: &[u8; 8] = b"\x93NUMPY\x01\x00";

/// The data starts at a multiple of this, so that it can be mapped into memory.
const ALIGNMENT_BYTES: usize = 64;

/// Numbers turned into little-endian bytes at a time.
const NUMBERS_PER_WRITE: usize = 16 * 1024;

/// One file of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Npy {
    /// `part-00000.npy`: float32 [rows, dimension], all NaN where a row has no vector.
    Vectors,
    /// `part-00000.sparse.indptr.npy`: int64 [rows + 1], where the weights of each row begin.
    SparseIndptr,
    /// `part-00000.sparse.indices.npy`: uint32, the tokens of all rows.
    SparseIndices,
    /// `part-00000.sparse.values.npy`: float32, their weights.
    SparseValues,
    /// `part-00000.multi.offsets.npy`: int64 [rows + 1], where the vectors of each row begin.
    MultiOffsets,
    /// `part-00000.multi.npy`: float32 [vectors, dimension], those of all rows.
    MultiVectors,
    /// `part-00000.ids.json`: a JSON array with the id of each row.
    Ids,
}

impl Npy {
    /// In the order in which [`read`] takes them.
    pub(super) const SINKS: [&'static dyn Sink; 7] = [
        &Self::Vectors,
        &Self::SparseIndptr,
        &Self::SparseIndices,
        &Self::SparseValues,
        &Self::MultiOffsets,
        &Self::MultiVectors,
        &Self::Ids,
    ];
}

impl Sink for Npy {
    fn extension(&self) -> &'static str {
        match self {
            Self::Vectors => "npy",
            Self::SparseIndptr => "sparse.indptr.npy",
            Self::SparseIndices => "sparse.indices.npy",
            Self::SparseValues => "sparse.values.npy",
            Self::MultiOffsets => "multi.offsets.npy",
            Self::MultiVectors => "multi.npy",
            Self::Ids => "ids.json",
        }
    }

    fn kind(&self) -> Option<VectorKind> {
        match self {
            Self::Vectors => Some(VectorKind::Dense),
            Self::SparseIndptr | Self::SparseIndices | Self::SparseValues => Some(VectorKind::Sparse),
            Self::MultiOffsets | Self::MultiVectors => Some(VectorKind::Multi),
            Self::Ids => None,
        }
    }

    fn write(&self, shard: &Shard, _: &About<'_>, out: &mut (dyn Write + Send)) -> Result<(), SinkError> {
        let sparse = || shard.sparse.iter().flatten();
        let multi = || shard.multi.iter().flat_map(|multi| &multi.texts);
        let width = shard.multi.as_ref().map_or(0, |multi| multi.dimension);
        match self {
            Self::Vectors => {
                let shape = [shard.records.len(), shard.dimension];
                write_array(out, F32, &shape, canonical_vectors(shard).into_iter().map(f32::to_le_bytes))?;
            }
            Self::SparseIndptr => write_starts(out, sparse().map(|row| row.indices.len()))?,
            Self::SparseIndices => {
                let indices = sparse().flat_map(|row| &row.indices);
                write_array(out, U32, &[indices.clone().count()], indices.map(|index| index.to_le_bytes()))?;
            }
            Self::SparseValues => {
                let values = sparse().flat_map(|row| &row.values);
                write_array(out, F32, &[values.clone().count()], values.map(|value| value.to_le_bytes()))?;
            }
            Self::MultiOffsets => write_starts(out, multi().map(|row| row.len() / width.max(1)))?,
            Self::MultiVectors => {
                let numbers: usize = multi().map(Vec::len).sum();
                let values = multi().flatten().map(|value| value.to_le_bytes());
                write_array(out, F32, &[numbers / width.max(1), width], values)?;
            }
            Self::Ids => write_ids(shard, out)?,
        }
        Ok(())
    }
}

/// The names of types in a header.
const F32: &str = "<f4";
const U32: &str = "<u4";
const I64: &str = "<i8";

fn write_ids(shard: &Shard, out: &mut (dyn Write + Send)) -> Result<(), SinkError> {
    for (index, record) in shard.records.iter().enumerate() {
        out.write_all(if index == 0 { b"[\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, record.id.as_str())
            .map_err(|source| SinkError::Json { id: record.id.clone(), source })?;
    }
    out.write_all(b"\n]\n")?;
    Ok(())
}

/// Where rows of some lengths begin when they lie end to end, and where the last one ends.
fn write_starts(out: &mut (dyn Write + Send), lengths: impl Iterator<Item = usize>) -> Result<(), SinkError> {
    let mut starts = vec![0_i64];
    for length in lengths {
        let last = starts.last().copied().unwrap_or_default();
        let start = i64::try_from(length).ok().and_then(|length| last.checked_add(length));
        starts.push(start.ok_or(SinkError::TooLarge { number: length as u64 })?);
    }
    write_array(out, I64, &[starts.len()], starts.into_iter().map(i64::to_le_bytes))
}

fn write_array<const BYTES: usize>(
    out: &mut (dyn Write + Send),
    descr: &str,
    shape: &[usize],
    numbers: impl Iterator<Item = [u8; BYTES]>,
) -> Result<(), SinkError> {
    out.write_all(&header(descr, shape))?;
    let mut bytes = Vec::with_capacity(NUMBERS_PER_WRITE * BYTES);
    for number in numbers {
        bytes.extend_from_slice(&number);
        if bytes.len() == NUMBERS_PER_WRITE * BYTES {
            out.write_all(&bytes)?;
            bytes.clear();
        }
    }
    out.write_all(&bytes)?;
    Ok(())
}

/// Magic, version, and a dictionary padded so that the data is aligned. Its length fits the two bytes of version 1.0:
/// two numbers of 20 digits at the most.
fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let shape = match shape {
        [only] => format!("({only},)"),
        several => format!("({})", several.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    };
    let mut dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let unpadded = MAGIC_AND_VERSION.len() + 2 + dictionary.len() + 1;
    dictionary.push_str(&" ".repeat(unpadded.next_multiple_of(ALIGNMENT_BYTES) - unpadded));
    dictionary.push('\n');
    let length = u16::try_from(dictionary.len()).unwrap_or(u16::MAX).to_le_bytes();
    [MAGIC_AND_VERSION, length.as_slice(), dictionary.as_bytes()].concat()
}

/// Takes the files in the order of [`Npy::SINKS`], as far as they are there.
pub(super) fn read(files: &mut [Option<File>]) -> Result<StoredShard, ReadContentError> {
    let [vectors, indptr, indices, values, offsets, multi, Some(ids)] = files else {
        return Err(ReadContentError::Npy);
    };
    let ids: Vec<String> = serde_json::from_reader(BufReader::new(ids))?;
    let mut shard = StoredShard { ids: ids.into_iter().map(ChunkId::new).collect(), ..StoredShard::empty() };
    let rows = shard.ids.len();
    if let Some(file) = vectors {
        (shard.dimension, shard.vectors) = matrix(file, Some(rows))?;
    }
    shard.sparse = match (indptr, indices, values) {
        (Some(indptr), Some(indices), Some(values)) => {
            let starts = starts(indptr, rows)?;
            let (indices, values) = (list(indices, U32, u32::from_le_bytes)?, list(values, F32, f32::from_le_bytes)?);
            let row = |bounds: &[usize]| {
                let (indices, values) = (indices.get(bounds[0]..bounds[1])?, values.get(bounds[0]..bounds[1])?);
                Some(SparseVector { indices: indices.to_vec(), values: values.to_vec() })
            };
            Some(starts.windows(2).map(row).collect::<Option<_>>().ok_or(ReadContentError::Npy)?)
        }
        _ => None,
    };
    shard.multi = match (offsets, multi) {
        (Some(offsets), Some(vectors)) => {
            let (starts, (dimension, vectors)) = (starts(offsets, rows)?, matrix(vectors, None)?);
            let row = |bounds: &[usize]| {
                let (start, end) = (bounds[0].checked_mul(dimension)?, bounds[1].checked_mul(dimension)?);
                Some(vectors.get(start..end)?.to_vec())
            };
            let texts = starts.windows(2).map(row).collect::<Option<_>>().ok_or(ReadContentError::Npy)?;
            Some(MultiVectors { dimension, texts })
        }
        _ => None,
    };
    Ok(shard)
}

/// Row length and numbers of a matrix of float32, of so many rows where that is known.
fn matrix(file: &mut File, rows: Option<usize>) -> Result<(usize, Vec<f32>), ReadContentError> {
    let (head, data) = parts(file)?;
    let dictionary = String::from_utf8_lossy(&head);
    let shape = dictionary.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')')).map(|(shape, _)| shape);
    let shape: Vec<usize> = shape.into_iter().flat_map(|shape| shape.split(", ")).flat_map(str::parse).collect();
    match shape[..] {
        [found, width] if rows.is_none_or(|rows| rows == found) && head == header(F32, &shape) => {
            let count = found.checked_mul(width).ok_or(ReadContentError::Npy)?;
            Ok((width, numbers(&data, count, f32::from_le_bytes)?))
        }
        _ => Err(ReadContentError::Npy),
    }
}

fn list<T, const BYTES: usize>(
    file: &mut File,
    descr: &str,
    number: fn([u8; BYTES]) -> T,
) -> Result<Vec<T>, ReadContentError> {
    let (head, data) = parts(file)?;
    let length = data.len() / BYTES;
    if head != header(descr, &[length]) {
        return Err(ReadContentError::Npy);
    }
    numbers(&data, length, number)
}

/// Of `rows` rows.
fn starts(file: &mut File, rows: usize) -> Result<Vec<usize>, ReadContentError> {
    let starts = list(file, I64, i64::from_le_bytes)?;
    let starts: Option<Vec<usize>> = starts.into_iter().map(|start| usize::try_from(start).ok()).collect();
    starts.filter(|starts| starts.len() == rows + 1 && starts.is_sorted()).ok_or(ReadContentError::Npy)
}

fn numbers<T, const BYTES: usize>(
    data: &[u8],
    count: usize,
    number: fn([u8; BYTES]) -> T,
) -> Result<Vec<T>, ReadContentError> {
    match data.as_chunks::<BYTES>() {
        (whole, []) if whole.len() == count => Ok(whole.iter().map(|bytes| number(*bytes)).collect()),
        _ => Err(ReadContentError::Npy),
    }
}

/// The header, which must be one that this file writes, and what follows it.
fn parts(file: &mut File) -> Result<(Vec<u8>, Vec<u8>), ReadContentError> {
    let mut head = Vec::new();
    file.read_to_end(&mut head)?;
    let length = head.get(8..10).map_or(0, |length| 10 + usize::from(u16::from_le_bytes([length[0], length[1]])));
    if length > head.len() {
        return Err(ReadContentError::Npy);
    }
    let data = head.split_off(length);
    Ok((head, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_what_numpy_reads_and_aligned() {
        let header = header(F32, &[4096, 384]);
        assert_eq!(header.len(), 128);
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let text = std::str::from_utf8(&header[10..]).unwrap();
        assert_eq!(text.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (4096, 384), }");
        assert!(text.ends_with(" \n"));
    }
}
