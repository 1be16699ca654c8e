//! `pytorch_model.bin`: a zip archive with a pickle that lists tensors, and one entry for each block of numbers.
//!
//! The blocks are stored as they are, so the file can be mapped like any other; only where they lie is found here.

use std::io::Cursor;
use std::ops::Range;
use std::sync::OnceLock;

use safetensors::Dtype;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::legacy;
use super::pickle::{self, Described, PickleError};
use super::view::{Extent, View};

/// Longer than the list of tensors of any model: ten thousand of them take 2 MB.
pub(super) const LONGEST_PICKLE: usize = 16 << 20;

/// Why a file of `PyTorch` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PyTorchError {
    /// It is in the format of torch before 1.6, and not as that was written.
    #[error(
        "it is in the format of torch before 1.6, and something in it is not known; load it with torch and save it once \
         more, best as safetensors"
    )]
    Legacy,
    /// It is no whole zip archive.
    #[error("it is no whole zip archive")]
    Archive(#[source] ZipError),
    /// An entry of the archive is missing.
    #[error("it has no entry {entry}")]
    Entry {
        /// The entry.
        entry: String,
    },
    /// An entry of the archive is compressed, encrypted or beyond the end.
    #[error("its entry {entry} is not stored whole and as it is; save the model once more with torch")]
    Stored {
        /// The entry.
        entry: String,
    },
    /// The numbers are in the other byte order.
    #[error("its numbers are {order:?}-endian; save the model once more on a machine of today")]
    ByteOrder {
        /// The order.
        order: String,
    },
    /// The list of tensors is longer than any.
    #[error("its list of tensors takes {bytes} bytes, far more than that of any model")]
    LongList {
        /// Its length.
        bytes: usize,
    },
    /// The list of tensors cannot be read.
    #[error("its list of tensors cannot be read: {0}")]
    Pickle(#[from] PickleError),
    /// A tensor lies beyond its block.
    #[error("the tensor {tensor} is larger than the block {entry} that holds it")]
    Beyond {
        /// The tensor.
        tensor: String,
        /// The entry.
        entry: String,
    },
    /// A tensor's numbers are a view of others that is not known.
    #[error("the tensor {tensor} is a view of another (shape {shape:?}, strides {strides:?}); save it contiguous")]
    View {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its strides.
        strides: Vec<u64>,
    },
}

/// A tensor and where it lies in the file.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
    /// How its numbers lie there, where that is not row after row.
    pub(super) view: Option<View>,
    /// Index into the blocks.
    pub(super) block: usize,
}

/// A block of numbers with its checksum, which is looked at once and only when a tensor of the block is wanted.
pub(super) struct Block {
    bytes: Range<usize>,
    /// None where the format has none.
    checksum: Option<u32>,
    whole: OnceLock<bool>,
}

impl Block {
    pub(super) fn new(bytes: Range<usize>, checksum: Option<u32>) -> Self {
        Self { bytes, checksum, whole: OnceLock::new() }
    }

    /// Where it lies in the file.
    pub(super) fn bytes(&self) -> &Range<usize> {
        &self.bytes
    }

    /// Whether the block is as it was written.
    pub(super) fn is_whole(&self, file: &[u8]) -> bool {
        let is_whole = |checksum| *self.whole.get_or_init(|| crc32fast::hash(&file[self.bytes.clone()]) == checksum);
        self.checksum.is_none_or(is_whole)
    }
}

/// The tensors of a file.
pub(super) fn find(file: &[u8]) -> Result<(Vec<Found>, Vec<Block>), PyTorchError> {
    if legacy::is_one(file) {
        return legacy::find(file);
    }
    let mut archive = Archive::open(file)?;
    let (order, _) = archive.entry("byteorder").or_else(|error| match error {
        // It is not written by older versions.
        PyTorchError::Entry { .. } => Ok((0..0, 0)),
        other => Err(other),
    })?;
    match &file[order] {
        b"" | b"little" => {}
        other => return Err(PyTorchError::ByteOrder { order: String::from_utf8_lossy(other).into_owned() }),
    }
    let (list, checksum) = archive.entry("data.pkl")?;
    if list.len() > LONGEST_PICKLE {
        return Err(PyTorchError::LongList { bytes: list.len() });
    }
    let list = &file[list];
    if crc32fast::hash(list) != checksum {
        return Err(PyTorchError::Stored { entry: "data.pkl".to_owned() });
    }
    let mut tensors = Vec::new();
    let mut blocks = Vec::new();
    let mut numbers = std::collections::HashMap::new();
    for described in pickle::tensors(list)? {
        let entry = format!("data/{}", described.storage);
        let block = if let Some(block) = numbers.get(&entry) {
            *block
        } else {
            let (bytes, checksum) = archive.entry(&entry)?;
            blocks.push(Block::new(bytes, Some(checksum)));
            numbers.insert(entry.clone(), blocks.len() - 1);
            blocks.len() - 1
        };
        tensors.push(place(described, block, blocks[block].bytes(), file.len(), entry)?);
    }
    Ok((tensors, blocks))
}

/// Where a tensor lies in the file, given its block and the length of the file.
pub(super) fn place(
    tensor: Described,
    block: usize,
    bytes: &Range<usize>,
    file: usize,
    entry: String,
) -> Result<Found, PyTorchError> {
    let Described { name, dtype, offset, shape, strides, negated, .. } = tensor;
    let Some(Extent { shape, numbers, count, view }) = Extent::new(&shape, &strides, negated, dtype) else {
        return Err(PyTorchError::View { tensor: name, shape, strides });
    };
    let size = dtype.bitsize() / 8;
    let range = usize::try_from(offset).ok().and_then(|offset| {
        let start = bytes.start.checked_add(offset.checked_mul(size)?)?;
        let end = start.checked_add(numbers.checked_mul(size)?)?;
        (end <= bytes.end).then_some(start..end)
    });
    // One number may stand for many: without a bound, a small file could ask for much memory.
    let bearable = count.checked_mul(size).is_some_and(|length| view.is_none() || length <= file.max(LONGEST_PICKLE));
    match range {
        Some(bytes) if bearable => Ok(Found { name, dtype, shape, bytes, view, block }),
        _ => Err(PyTorchError::Beyond { tensor: name, entry }),
    }
}

struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The directory that all entries are in.
    root: String,
    length: usize,
}

impl<'a> Archive<'a> {
    fn open(file: &'a [u8]) -> Result<Self, PyTorchError> {
        let zip = ZipArchive::new(Cursor::new(file)).map_err(PyTorchError::Archive)?;
        let root = zip
            .file_names()
            .flatten()
            .find_map(|name| name.strip_suffix("/data.pkl").filter(|root| !root.contains('/')).map(str::to_owned));
        let root = root.ok_or_else(|| PyTorchError::Entry { entry: "data.pkl".to_owned() })?;
        Ok(Self { zip, root, length: file.len() })
    }

    /// Where an entry's bytes lie in the file, and their checksum.
    fn entry(&mut self, name: &str) -> Result<(Range<usize>, u32), PyTorchError> {
        let index = self.zip.index_for_name(&format!("{}/{name}", self.root));
        let index = index.ok_or_else(|| PyTorchError::Entry { entry: name.to_owned() })?;
        let entry = self.zip.by_index_raw(index).map_err(PyTorchError::Archive)?;
        let as_it_is = entry.compression() == CompressionMethod::Stored && !entry.encrypted();
        let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
        let range = start.and_then(|start| {
            let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
            (as_it_is && end <= self.length && entry.size() == entry.compressed_size()).then_some(start..end)
        });
        let checksum = entry.crc32();
        Ok((range.ok_or_else(|| PyTorchError::Stored { entry: name.to_owned() })?, checksum))
    }
}
