//! Cuts JSON values out of a byte stream, one at a time.
//!
//! A parser that builds a document needs memory for all of it, and gives up at its first fault. This scanner knows
//! only strings, escapes and brackets; each value that it cuts out is judged by `serde_json` on its own. So memory
//! is one entry, and a broken entry costs itself and not the rest of its file.

use std::io::{self, BufRead};

use super::piece::Place;

/// Deepest nesting that is followed. Each level costs one byte, so this is 1 MiB; the text of a chunk stands at
/// level two, and metadata is never looked into below level one.
pub(super) const MAX_DEPTH: usize = 1 << 20;

/// Follows the brackets and strings of one value.
#[derive(Debug, Default)]
struct Cutter {
    /// The closing brackets that are owed, innermost last.
    owed: Vec<u8>,
    in_string: bool,
    escaped: bool,
    /// Whether a number, a literal or something worse has begun, outside any bracket.
    in_scalar: bool,
}

/// What the cutter says of a run of bytes.
#[derive(Debug, PartialEq, Eq)]
enum Fed {
    /// The value goes on behind these bytes.
    More,
    /// The value ends behind this many bytes.
    Ends(usize),
    /// The byte at this index closes what is not open.
    Mismatch(usize),
    /// The byte at this index opens one level too many.
    TooDeep(usize),
}

impl Cutter {
    fn feed(&mut self, bytes: &[u8]) -> Fed {
        for (index, &byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.owed.is_empty() {
                            return Fed::Ends(index + 1);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            if self.in_scalar && is_delimiter(byte) {
                return Fed::Ends(index);
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' if self.owed.len() == MAX_DEPTH => return Fed::TooDeep(index),
                b'{' => self.owed.push(b'}'),
                b'[' => self.owed.push(b']'),
                b'}' | b']' => {
                    if self.owed.pop() != Some(byte) {
                        return Fed::Mismatch(index);
                    }
                    if self.owed.is_empty() {
                        return Fed::Ends(index + 1);
                    }
                }
                _ => self.in_scalar = self.owed.is_empty(),
            }
        }
        Fed::More
    }

    /// Whether the end of the input may stand here.
    fn may_end(&self) -> bool {
        self.in_scalar && self.owed.is_empty() && !self.in_string
    }
}

/// Length of the value that `valid_json` begins with.
pub(super) fn value_length(valid_json: &str) -> usize {
    match Cutter::default().feed(valid_json.as_bytes()) {
        Fed::Ends(length) => length,
        _ => valid_json.len(),
    }
}

/// Whether JSON calls it white space.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn is_delimiter(byte: u8) -> bool {
    is_space(byte) || matches!(byte, b',' | b'[' | b']' | b'{' | b'}' | b'"')
}

/// How a value was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// All of it is in the buffer.
    Whole,
    /// It is longer than the limit; it was passed over and the buffer is empty.
    TooLong,
}

/// Why no whole value could be cut.
#[derive(Debug)]
pub(super) enum ScanFault {
    /// The input failed.
    Io(io::Error),
    /// The input ended inside the value.
    End,
    /// A bracket closes what is not open.
    Mismatch,
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// Something else stands where this was expected.
    Syntax(&'static str),
}

impl From<io::Error> for ScanFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A byte stream with a place.
pub(super) struct Scanner<R> {
    input: R,
    place: Place,
}

impl<R: BufRead> Scanner<R> {
    /// Starts at the first byte of a file.
    pub(super) fn new(input: R) -> Self {
        Self { input, place: Place::START }
    }

    /// Where the next byte stands.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The next byte that is not white space, left where it is; `None` at the end.
    pub(super) fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            let buffer = filled(&mut self.input)?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let space = buffer.iter().position(|&byte| !is_space(byte)).unwrap_or(buffer.len());
            let next = buffer.get(space).copied();
            self.place = self.place.after(&buffer[..space]);
            self.input.consume(space);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Passes over the byte that was peeked.
    pub(super) fn bump(&mut self) {
        self.place.column += 1;
        self.input.consume(1);
    }

    /// Cuts the value that begins with the byte that was peeked. On a fault the buffer holds what came before it,
    /// up to the limit, and the place is that of the fault.
    pub(super) fn cut(&mut self, limit: usize, value: &mut Vec<u8>) -> Result<Cut, ScanFault> {
        value.clear();
        let mut cutter = Cutter::default();
        let mut cut = Cut::Whole;
        loop {
            let buffer = filled(&mut self.input)?;
            if buffer.is_empty() {
                return if cutter.may_end() { Ok(cut) } else { Err(ScanFault::End) };
            }
            let fed = cutter.feed(buffer);
            let used = match fed {
                Fed::More => buffer.len(),
                Fed::Ends(used) | Fed::Mismatch(used) | Fed::TooDeep(used) => used,
            };
            if cut == Cut::Whole && value.len() + used > limit {
                cut = Cut::TooLong;
                *value = Vec::new();
            }
            if cut == Cut::Whole {
                value.extend_from_slice(&buffer[..used]);
            }
            self.place = self.place.after(&buffer[..used]);
            self.input.consume(used);
            match fed {
                Fed::More => {}
                Fed::Ends(_) => return Ok(cut),
                Fed::Mismatch(_) => return Err(ScanFault::Mismatch),
                Fed::TooDeep(_) => return Err(ScanFault::TooDeep),
            }
        }
    }

    /// Passes over the value that begins with the byte that was peeked.
    pub(super) fn skip(&mut self) -> Result<(), ScanFault> {
        self.cut(0, &mut Vec::new()).map(drop)
    }
}

fn filled(input: &mut impl BufRead) -> io::Result<&[u8]> {
    loop {
        match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            // A second call, because a borrow that is returned from a loop lasts for the whole function.
            Ok(_) => return input.fill_buf(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// Cuts the first value of `input` through a buffer of one byte and through a large one.
    #[track_caller]
    fn check(input: &str, expected: Result<&str, &str>, place: (u64, u64)) {
        for capacity in [1, 3, 4096] {
            let mut scanner = Scanner::new(BufReader::with_capacity(capacity, input.as_bytes()));
            let mut value = Vec::new();
            scanner.peek().unwrap();
            let found = match scanner.cut(100, &mut value) {
                Ok(Cut::Whole) => Ok(str::from_utf8(&value).unwrap()),
                Ok(Cut::TooLong) => Err("too long"),
                Err(ScanFault::End) => Err("end"),
                Err(ScanFault::Mismatch) => Err("mismatch"),
                Err(ScanFault::TooDeep) => Err("too deep"),
                Err(ScanFault::Io(_) | ScanFault::Syntax(_)) => unreachable!(),
            };
            let found_place = (scanner.place().line, scanner.place().column);
            assert_eq!((found, found_place), (expected, place), "{input} in buffers of {capacity}");
        }
    }

    #[test]
    fn values_end_where_they_end() {
        check(r#"{"a": [1, "]}"]} , 2"#, Ok(r#"{"a": [1, "]}"]}"#), (1, 17));
        check("\n \"a \\\" b\\\\\" x", Ok(r#""a \" b\\""#), (2, 12));
        check("12.50e+3]", Ok("12.50e+3"), (1, 9));
        check("nope}", Ok("nope"), (1, 5));
        check("true", Ok("true"), (1, 5));
        check(r#"nope"a""#, Ok("nope"), (1, 5));
        check("[[],{}]]", Ok("[[],{}]"), (1, 8));
    }

    #[test]
    fn lost_structure_is_told_with_its_place() {
        check(r#"{"a": [1}, 2"#, Err("mismatch"), (1, 9));
        check("}", Err("mismatch"), (1, 1));
        check("{\"a\": \"b\n", Err("end"), (2, 1));
        check("[1, 2", Err("end"), (1, 6));
        check(r#""abc\""#, Err("end"), (1, 7));
    }

    #[test]
    fn a_long_value_is_passed_over() {
        let long = format!("\"{}\", 1", "x".repeat(99));
        check(&long, Err("too long"), (1, 102));
        let fits = format!("\"{}\", 1", "x".repeat(98));
        check(&fits, Ok(&fits[..100]), (1, 101));
    }

    #[test]
    fn nesting_has_an_end() {
        let deep = |levels: usize| Scanner::new(io::Cursor::new("[".repeat(levels) + &"]".repeat(levels)));
        assert!(deep(MAX_DEPTH).skip().is_ok());
        assert!(matches!(deep(MAX_DEPTH + 1).skip(), Err(ScanFault::TooDeep)));
    }
}
