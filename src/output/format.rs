//! The formats a shard can be written in: one row of a table each.
//!
//! A format is one or several files a shard, each made by a [`Sink`], and one way to read them back.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::str::FromStr;

use super::read::{ReadContentError, StoredShard};
use super::{arrow, jsonl, npy, parquet};
use crate::domain::{ChunkId, Shard, VectorKind, Widths};

pub use crate::config::Format;

/// Writes one file of a shard. The shard has been checked: its rows are in order and its vectors are finite.
pub(super) trait Sink: Sync {
    /// What follows `part-00000.` in the name of the file.
    fn extension(&self) -> &'static str;

    /// The kind of vectors that the file is for, if it is for one alone: there is no such file without them.
    fn kind(&self) -> Option<VectorKind> {
        None
    }

    /// Writes the whole file; equal shards give equal bytes.
    fn write(&self, shard: &Shard, about: &About<'_>, out: &mut (dyn Write + Send)) -> Result<(), SinkError>;
}

/// What formats with room for it say of the model in each file.
pub(super) struct About<'a> {
    pub(super) model: &'a str,
    pub(super) vector_space: &'a str,
}

/// A shard could not be written in a format.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file could not be written.
    #[error("cannot write the shard")]
    Write(#[from] io::Error),
    /// A row could not be put into JSON.
    #[error("cannot write row {id:?} as json")]
    Json {
        /// The row.
        id: ChunkId,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A row or a dimension has a number beyond what the format can hold.
    #[error("{number} is too large for the format")]
    TooLarge {
        /// The number.
        number: u64,
    },
    /// Arrow refused the shard.
    #[error("cannot write the shard as arrow")]
    Arrow(#[from] arrow_schema::ArrowError),
    /// Parquet refused the shard.
    #[error("cannot write the shard as parquet")]
    Parquet(#[from] ::parquet::errors::ParquetError),
}

type Read = fn(&mut [Option<File>]) -> Result<StoredShard, ReadContentError>;

struct Entry {
    format: Format,
    name: &'static str,
    sinks: &'static [&'static dyn Sink],
    /// Takes one open file a sink, in the order of the sinks; files for one kind of vectors alone may not be there.
    read: Read,
}

/// In the order in which a reader should prefer them: fast and whole first, and npy last since it has no statuses.
static TABLE: [Entry; 4] = [
    Entry { format: Format::Arrow, name: "arrow", sinks: &[&arrow::Arrow], read: arrow::read },
    Entry { format: Format::Parquet, name: "parquet", sinks: &[&parquet::Parquet], read: parquet::read },
    Entry { format: Format::Jsonl, name: "jsonl", sinks: &[&jsonl::Jsonl], read: jsonl::read },
    Entry { format: Format::Npy, name: "npy", sinks: &npy::Npy::SINKS, read: npy::read },
];

/// The text names no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not an output format (there are jsonl, parquet, arrow and npy)")]
pub struct UnknownFormat {
    name: String,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Jsonl, Self::Parquet, Self::Arrow, Self::Npy];

    /// The formats of a list, the one to read first in front.
    pub(super) fn by_preference(formats: &[Self]) -> impl Iterator<Item = Self> {
        TABLE.iter().map(|entry| entry.format).filter(|format| formats.contains(format))
    }

    /// One sink a file.
    pub(super) fn sinks(self) -> &'static [&'static dyn Sink] {
        self.entry().sinks
    }

    /// One sink a file of an output with these vectors.
    pub(super) fn sinks_of(self, widths: Widths) -> impl Iterator<Item = &'static dyn Sink> {
        let wanted = move |sink: &&dyn Sink| sink.kind().is_none_or(|kind| widths.of(kind).is_some());
        self.sinks().iter().copied().filter(wanted)
    }

    /// Reads a shard back from its files, in the order of the sinks.
    pub(super) fn read(self, files: &mut [Option<File>]) -> Result<StoredShard, ReadContentError> {
        (self.entry().read)(files)
    }

    fn entry(self) -> &'static Entry {
        // A test holds the table against `ALL`.
        TABLE.iter().find(|entry| entry.format == self).unwrap_or(&TABLE[0])
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().name)
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let entry = TABLE.iter().find(|entry| entry.name == name);
        entry.map(|entry| entry.format).ok_or_else(|| UnknownFormat { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_its_row_and_one_name() {
        for format in Format::ALL {
            assert_eq!(format.entry().format, format);
            assert_eq!(format.to_string().parse(), Ok(format));
            assert_eq!(serde_json::to_value(format).unwrap(), format.to_string());
        }
        assert_eq!(TABLE.len(), Format::ALL.len());
        let error = "json".parse::<Format>().unwrap_err().to_string();
        assert_eq!(error, "\"json\" is not an output format (there are jsonl, parquet, arrow and npy)");
    }

    #[test]
    fn no_two_sinks_share_a_file() {
        let mut extensions: Vec<_> = TABLE.iter().flat_map(|entry| entry.sinks).map(|sink| sink.extension()).collect();
        extensions.sort_unstable();
        let sinks = extensions.len();
        extensions.dedup();
        assert_eq!(extensions.len(), sinks);
    }
}
