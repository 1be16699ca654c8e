//! `pytorch_model.bin`: a zip archive with a pickle that lists tensors, and one entry for each block of numbers.
//!
//! The blocks are stored as they are, so the file can be mapped like any other; only where they lie is found here.

use std::io::Cursor;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::blocks::{Block, Found, LONGEST_PICKLE, place};
use super::error::PyTorchError;
use super::{legacy, pickle};

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
