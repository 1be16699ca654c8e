//! Files of torch before 1.6: five pickles, and behind them the blocks of numbers.
//!
//! A magic number, a version, what the machine was like, the dictionary of tensors, and the keys of the blocks in the
//! order in which they come, each with its count before it. There are no checksums. Reference: `_legacy_save` in
//! `torch/serialization.py`.

use std::collections::HashMap;

use safetensors::Dtype;

use super::blocks::{Block, Found, LONGEST_PICKLE, place};
use super::error::PyTorchError;
use super::pickle;

/// The first pickle: a number.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Numbers of two bytes, the only version that there ever was: 1001.
const VERSION: &[u8] = b"\x80\x02M\xe9\x03.";

/// Whether a file is one of these.
pub(super) fn is_one(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// The tensors of a file.
pub(super) fn find(file: &[u8]) -> Result<(Vec<Found>, Vec<Block>), PyTorchError> {
    let mut at = MAGIC.len();
    if !file[at..].starts_with(VERSION) {
        return Err(PyTorchError::Legacy);
    }
    at += VERSION.len();
    // Pickles are far smaller than the blocks behind them, which are no instructions.
    let rest = |at: usize| &file[at..file.len().min(at.saturating_add(LONGEST_PICKLE))];
    let little_endian = pickle::first_truth(rest(at), "little_endian")?;
    if little_endian.value == Some(false) {
        return Err(PyTorchError::ByteOrder { order: "big".to_owned() });
    }
    at += little_endian.end;
    let described = pickle::first_tensors(rest(at))?;
    at += described.end;
    let keys = pickle::first_texts(rest(at))?;
    at += keys.end;

    // The kind of numbers of a block is said by the tensors in it.
    let kinds: HashMap<&str, Dtype> =
        described.value.iter().map(|tensor| (tensor.storage.as_str(), tensor.dtype)).collect();
    let mut places = HashMap::new();
    let mut blocks = Vec::with_capacity(keys.value.len());
    for key in keys.value {
        let beyond = || PyTorchError::Entry { entry: key.to_owned() };
        let bytes = file.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(beyond)?;
        let count = usize::try_from(i64::from_le_bytes(*bytes)).map_err(|_| beyond())?;
        at += bytes.len();
        // A block that nothing is in: how long its numbers are nobody knows.
        let dtype = kinds.get(key).ok_or(PyTorchError::Legacy)?;
        let end = count.checked_mul(dtype.bitsize() / 8).and_then(|length| at.checked_add(length));
        let end = end.filter(|end| *end <= file.len()).ok_or_else(beyond)?;
        places.insert(key, blocks.len());
        blocks.push(Block::new(at..end, None));
        at = end;
    }
    let tensors = described.value.iter().map(|tensor| {
        let entry = || tensor.storage.clone();
        let block = *places.get(tensor.storage.as_str()).ok_or_else(|| PyTorchError::Entry { entry: entry() })?;
        place(tensor.clone(), block, blocks[block].bytes(), file.len(), entry())
    });
    Ok((tensors.collect::<Result<_, _>>()?, blocks))
}
