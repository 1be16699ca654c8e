//! What the readers of single files hand to the reader of a collection.
//!
//! A file knows places and texts, but neither rows nor ids; those belong to the collection. `Piece` is the seam.

use crate::domain::{ChunkText, RawJson};

/// A position in a decompressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1.
    pub(super) line: u64,
    /// From 1, in bytes.
    pub(super) column: u64,
}

impl Place {
    /// The first byte of a file, after a byte order mark.
    pub(super) const START: Self = Self { line: 1, column: 1 };

    /// The place behind `bytes` that start here.
    pub(super) fn after(self, bytes: &[u8]) -> Self {
        match bytes.iter().rposition(|&byte| byte == b'\n') {
            None => Self { line: self.line, column: self.column + bytes.len() as u64 },
            Some(last) => {
                let newlines = bytes.iter().fold(0_u64, |lines, &byte| lines + u64::from(byte == b'\n'));
                Self { line: self.line + newlines, column: (bytes.len() - last) as u64 }
            }
        }
    }

    /// The place that a parser which began here calls `line` and `column` (both from 1).
    pub(super) fn within(self, line: usize, column: usize) -> Self {
        // serde_json says column 0 when the fault is the line break itself.
        let (line, column) = (line.max(1) as u64, column.max(1) as u64);
        match line {
            1 => Self { line: self.line, column: self.column + column - 1 },
            _ => Self { line: self.line + line - 1, column },
        }
    }
}

/// One step through a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// An entry. It counts as one whether it can be used or not.
    Entry(Box<EntryPiece>),
    /// Something is wrong that is not the content of one entry; what follows in the file may be lost.
    Fault {
        /// Where, if the format has lines.
        place: Option<Place>,
        /// Whether the fault lies in the entry that would have come next.
        in_entry: bool,
        /// What is wrong.
        reason: String,
    },
    /// Worth telling, but nothing is lost.
    Warning {
        /// Where, if the format has lines.
        place: Option<Place>,
        /// What to know.
        reason: String,
    },
}

/// What one entry of a file says, before it has a row and an id.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EntryPiece {
    /// Where the entry begins or, if it is unusable, where the fault lies.
    pub(super) place: Option<Place>,
    /// What to embed.
    pub(super) text: ChunkText,
    /// The id that the entry asks for.
    pub(super) id: Option<String>,
    /// Why a value that stands where an id belongs was not taken.
    pub(super) refused_id: Option<String>,
    /// As in `Chunk`.
    pub(super) metadata: Option<RawJson>,
    /// As in `Chunk`.
    pub(super) extra: Option<RawJson>,
}

impl EntryPiece {
    /// An entry of which nothing but the place is known.
    pub(super) fn unusable(place: Option<Place>, reason: impl Into<String>) -> Self {
        let text = ChunkText::Unusable { reason: reason.into() };
        Self { place, text, id: None, refused_id: None, metadata: None, extra: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_bytes() {
        let place = |line, column| Place { line, column };
        assert_eq!(place(3, 5).after(b""), place(3, 5));
        assert_eq!(place(3, 5).after("aé".as_bytes()), place(3, 8));
        assert_eq!(place(3, 5).after(b"ab\n"), place(4, 1));
        assert_eq!(place(3, 5).after(b"a\nb\ncd"), place(5, 3));
        assert_eq!(place(3, 5).within(1, 2), place(3, 6));
        assert_eq!(place(3, 5).within(2, 2), place(4, 2));
        assert_eq!(place(3, 5).within(2, 0), place(4, 1));
    }
}
