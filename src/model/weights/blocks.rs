//! Tensors of `PyTorch` files as ranges of blocks of numbers.

use std::ops::Range;
use std::sync::OnceLock;

use safetensors::Dtype;

use super::error::PyTorchError;
use super::pickle::Described;
use super::view::{Extent, View};

/// Longer than the list of tensors of any model: ten thousand of them take 2 MB.
pub(super) const LONGEST_PICKLE: usize = 16 << 20;

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
