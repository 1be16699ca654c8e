//! Why weights cannot be used.

use std::io;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensorError};
use zip::result::ZipError;

use super::pickle::PickleError;
use crate::model::pointer;

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// A file cannot be opened or mapped.
    #[error("cannot open the weights {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What was fetched is not the file.
    #[error("{}", pointer::explained(path))]
    Pointer {
        /// The file.
        path: PathBuf,
    },
    /// A file is not safetensors, or not all of it is there.
    #[error("{} is not a whole safetensors file; delete it and fetch it again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        #[source]
        source: SafeTensorError,
    },
    /// A file of `PyTorch` is broken, or holds something else than tensors.
    #[error("cannot use {}: {source}", path.display())]
    PyTorch {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PyTorchError,
    },
    /// The numbers of a tensor are not those that were written.
    #[error("the tensor {tensor} in {} is damaged: its checksum does not fit; fetch the file again", path.display())]
    Damaged {
        /// The tensor.
        tensor: String,
        /// Its file.
        path: PathBuf,
    },
    /// Several tensors could be meant.
    #[error("the tensor {tensor} is there as {}; only one of them can be the model's", names.join(" and as "))]
    Ambiguous {
        /// The tensor, without prefix.
        tensor: String,
        /// The names in the files.
        names: Vec<String>,
    },
    /// Two files have a tensor of one name.
    #[error("the tensor {tensor} is in {} and in {}", first.display(), second.display())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// No file has the tensor, under any of the known prefixes.
    #[error("there is no tensor {tensor} in {}", list(paths))]
    Absent {
        /// The tensor, without prefix.
        tensor: String,
        /// The files that were searched.
        paths: Vec<PathBuf>,
    },
    /// The tensor is not of the expected shape.
    #[error("the tensor {tensor} in {} has shape {found:?}, but {expected:?} is expected", path.display())]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its file.
        path: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// The tensor's numbers are of a kind that is not read.
    #[error("the tensor {tensor} in {} holds {dtype}; only {supported} are supported here", path.display())]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its file.
        path: PathBuf,
        /// Its numbers.
        dtype: Dtype,
        /// What would do.
        supported: &'static str,
    },
}

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

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
