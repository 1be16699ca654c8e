//! Reads JSON Lines: one entry a line, so that a broken line costs itself alone.

use std::io::{self, BufRead, Read};

use super::decode::{MetadataString, decode};
use super::piece::{EntryPiece, Piece, Place};
use super::scan::is_space;
use super::stored::{Pass, StoredFile, Text};

/// The entries of a file of lines. Blank lines are none.
pub(super) struct Lines {
    file: StoredFile,
    entry_limit_bytes: usize,
    /// What is not read yet; `None` at the end.
    text: Option<io::Result<Text>>,
    line: Vec<u8>,
    number: u64,
}

/// What became of reading a line into the buffer.
enum LineRead {
    Line,
    TooLong,
    End,
}

impl Lines {
    /// Longer lines than the limit are reported and passed over.
    pub(super) fn new(file: StoredFile, entry_limit_bytes: usize) -> Self {
        let text = Some(file.text(Pass::Entries));
        Self { file, entry_limit_bytes, text, line: Vec::new(), number: 0 }
    }

    fn read_line(&mut self, text: &mut Text) -> io::Result<LineRead> {
        self.line.clear();
        // A line of exactly the limit still has its line break behind it.
        text.by_ref().take(self.entry_limit_bytes as u64 + 1).read_until(b'\n', &mut self.line)?;
        if self.line.is_empty() {
            return Ok(LineRead::End);
        }
        if self.line.len() > self.entry_limit_bytes && self.line.last() != Some(&b'\n') {
            self.line = Vec::new();
            text.skip_until(b'\n')?;
            return Ok(LineRead::TooLong);
        }
        Ok(LineRead::Line)
    }

    fn fault(&self, in_entry: bool, error: &io::Error) -> Piece {
        let reason = self.file.read_reason(error);
        Piece::Fault { place: Some(Place { line: self.number.max(1), column: 1 }), in_entry, reason }
    }
}

impl Iterator for Lines {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let mut text = match self.text.take()? {
            Ok(text) => text,
            Err(error) => {
                let reason = self.file.read_reason(&error);
                return Some(Piece::Fault { place: None, in_entry: false, reason });
            }
        };
        loop {
            self.number += 1;
            let start = Some(Place { line: self.number, column: 1 });
            let entry = match self.read_line(&mut text) {
                Err(error) => return Some(self.fault(!self.line.is_empty(), &error)),
                Ok(LineRead::End) => return None,
                Ok(LineRead::TooLong) => {
                    EntryPiece::unusable(start, format!("longer than {} bytes", self.entry_limit_bytes))
                }
                Ok(LineRead::Line) if self.line.iter().all(|&byte| is_space(byte)) => continue,
                Ok(LineRead::Line) => {
                    // Without its end, so that a parser does not find the fault of a cut line on the next one.
                    let end = self.line.iter().rposition(|&byte| !is_space(byte)).map_or(0, |last| last + 1);
                    decode(&self.line[..end], start, MetadataString::Opaque)
                }
            };
            self.text = Some(Ok(text));
            return Some(Piece::Entry(Box::new(entry)));
        }
    }
}
