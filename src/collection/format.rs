//! Which files hold chunks, told by their names alone.
//!
//! The name decides, never the content: what is read must not depend on what happens to stand in a file.

use std::ffi::OsStr;
use std::fmt;

/// How a chunk file is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) layout: Layout,
    pub(super) compression: Compression,
}

/// How entries are laid out in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One JSON value.
    Document,
    /// One JSON value a line.
    Lines,
    /// Parquet.
    Table,
}

/// What is around the text of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    /// gzip, one member or several.
    Gzip,
    /// Zstandard, one frame or several.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// The names that are read, for messages.
pub(super) const READ_NAMES: &str = "*.json, *.jsonl, *.ndjson (each also .gz or .zst), *.parquet";

impl Format {
    /// The format of a file of this name, in any case of letters; `None` for other files.
    pub(super) fn of(name: &OsStr) -> Option<Self> {
        Self::split(&name.to_string_lossy()).map(|(_, format)| format)
    }

    /// A name without the endings that say its format, and the format.
    fn split(name: &str) -> Option<(&str, Self)> {
        let (rest, compression) = match strip_ending(name, ".gz") {
            Some(rest) => (rest, Compression::Gzip),
            None => match strip_ending(name, ".zst") {
                Some(rest) => (rest, Compression::Zstd),
                None => (name, Compression::None),
            },
        };
        let endings = [
            (".json", Layout::Document),
            (".jsonl", Layout::Lines),
            (".ndjson", Layout::Lines),
            (".parquet", Layout::Table),
        ];
        let (stem, layout) =
            endings.into_iter().find_map(|(ending, layout)| Some((strip_ending(rest, ending)?, layout)))?;
        (layout != Layout::Table || compression == Compression::None).then_some((stem, Self { layout, compression }))
    }
}

/// Whether a walk passes over a file or directory of this name: dot-files, and what Python leaves behind.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "__pycache__"
}

/// Whether a file of this name is the chunker's own report and not chunks.
pub(super) fn is_summary(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    Format::split(&name).is_some_and(|(stem, format)| {
        format.layout == Layout::Document && (stem == "processing_summary" || stem.ends_with("_processing_summary"))
    })
}

/// What a collection is called that is one file: its name without endings and without `_chunks`.
pub(super) fn collection_stem(name: &str) -> &str {
    let stem = Format::split(name).map_or(name, |(stem, _)| stem);
    let short = stem.strip_suffix("_chunks").unwrap_or(stem);
    [short, stem, name].into_iter().find(|candidate| !candidate.is_empty()).unwrap_or(name)
}

fn strip_ending<'a>(name: &'a str, ending: &str) -> Option<&'a str> {
    let (stem, tail) = name.split_at_checked(name.len().checked_sub(ending.len())?)?;
    tail.eq_ignore_ascii_case(ending).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Option<(Layout, Compression)>) {
        let found = Format::of(OsStr::new(name)).map(|format| (format.layout, format.compression));
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn names_tell_formats() {
        check("a_chunks.json", Some((Layout::Document, Compression::None)));
        check("manifest.json", Some((Layout::Document, Compression::None)));
        check("A.JSON", Some((Layout::Document, Compression::None)));
        check("a.json.gz", Some((Layout::Document, Compression::Gzip)));
        check("a.jsonl.zst", Some((Layout::Lines, Compression::Zstd)));
        check("a.ndjson", Some((Layout::Lines, Compression::None)));
        check("a.parquet", Some((Layout::Table, Compression::None)));
        for other in ["a.parquet.gz", "a.txt", "json", "a.json.bz2", "a.tsv", "a.gz", "é", "a.json~", ""] {
            check(other, None);
        }
    }

    #[test]
    fn hidden_and_summary_names_are_known() {
        for name in [".gitkeep", ".a.json", "__pycache__", "."] {
            assert!(is_hidden(OsStr::new(name)), "{name}");
        }
        assert!(!is_hidden(OsStr::new("a.json")));
        for name in ["processing_summary.json", "Docling_processing_summary.json", "processing_summary.json.gz"] {
            assert!(is_summary(OsStr::new(name)), "{name}");
        }
        for name in ["summary.json", "my-processing_summary.json", "processing_summary.jsonl"] {
            assert!(!is_summary(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_file_names_its_collection_by_its_stem() {
        for (name, stem) in [
            ("some_chunks.json", "some"),
            ("some.json.gz", "some"),
            ("_chunks.jsonl", "_chunks"),
            (".json", ".json"),
            ("a.b.parquet", "a.b"),
            ("odd.txt", "odd.txt"),
        ] {
            assert_eq!(collection_stem(name), stem, "{name}");
        }
    }
}
