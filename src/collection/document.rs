//! Reads a file that is one JSON value: an array of chunks, an object that holds such a list, one chunk, a string.
//!
//! Entries are cut out one at a time, so that a file of any size needs the memory of its longest entry. Which list
//! of an object is meant can only be told at the object's end (`chunks` comes before `data` wherever it stands), so
//! objects are read twice: once for their keys, once for the list.

use super::decode::{MetadataString, decode, syntax_reason};
use super::piece::{EntryPiece, Piece, Place};
use super::scan::{Cut, ScanFault, Scanner};
use super::stored::{Pass, StoredFile, Text};

/// Keys that may hold the list of chunks, the first that does wins.
const LIST_KEYS: [&str; 4] = ["chunks", "data", "records", "items"];

/// Longest key of a top-level object that is looked at; longer ones are passed over.
const KEY_LIMIT_BYTES: usize = 1 << 10;

/// The entries of a document.
pub(super) struct Document {
    file: StoredFile,
    entry_limit_bytes: usize,
    state: State,
    entry: Vec<u8>,
}

enum State {
    Unopened,
    /// Before the value of the whole file.
    Value(Scanner<Text>),
    /// Inside the list.
    List {
        scanner: Scanner<Text>,
        /// Whether a comma is due.
        after_entry: bool,
        /// What is wrong behind the list, when the list stands in an object.
        outside: Outside,
    },
    /// Behind the value of the whole file.
    Behind(Scanner<Text>),
    Ended,
}

/// What stands around the list.
enum Outside {
    /// Nothing: the list is the file.
    Nothing,
    /// An object; it was read before, and this was wrong with it.
    Object(Option<Piece>),
}

impl Document {
    /// Nothing is opened until the first entry is asked for. Longer entries than the limit are reported and passed
    /// over.
    pub(super) fn new(file: StoredFile, entry_limit_bytes: usize) -> Self {
        Self { file, entry_limit_bytes, state: State::Unopened, entry: Vec::new() }
    }

    fn start(&mut self) -> Option<Piece> {
        let mut scanner = match self.file.text(Pass::Entries) {
            Ok(text) => Scanner::new(text),
            Err(error) => return Some(fault(None, self.file.read_reason(&error))),
        };
        match scanner.peek() {
            Err(error) => Some(self.read_fault(scanner.place(), &error)),
            Ok(None) => Some(fault(None, "the file is empty")),
            Ok(Some(b'[')) => {
                scanner.bump();
                self.state = State::List { scanner, after_entry: false, outside: Outside::Nothing };
                self.next()
            }
            Ok(Some(b'{')) => self.start_object(scanner),
            Ok(Some(_)) => {
                self.state = State::Value(scanner);
                self.next()
            }
        }
    }

    fn start_object(&mut self, mut scanner: Scanner<Text>) -> Option<Piece> {
        let outline = match self.file.text(Pass::Ahead) {
            Ok(text) => self.outline(&mut Scanner::new(text)),
            Err(error) => return Some(self.read_fault(scanner.place(), &error)),
        };
        let Some(list) = outline.list() else {
            self.state = State::Value(scanner);
            return self.next();
        };
        if let Err(error) = enter_member(&mut scanner, list.member) {
            return Some(self.scan_fault(&scanner, error));
        }
        let place = scanner.place();
        scanner.bump();
        self.state = State::List { scanner, after_entry: false, outside: Outside::Object(outline.fault) };
        if outline.has_text {
            let name = LIST_KEYS[list.priority];
            let reason = format!("the object has a text of its own beside the list {name:?}; only the list is read");
            return Some(Piece::Warning { place: Some(place), reason });
        }
        self.next()
    }

    /// Reads the keys of the top-level object to its end or first fault.
    fn outline(&self, scanner: &mut Scanner<Text>) -> Outline {
        let mut outline = Outline { lists: [None; LIST_KEYS.len()], has_text: false, fault: None };
        if let Err(error) = outline_object(scanner, &mut outline) {
            outline.fault = Some(self.scan_fault(scanner, error));
        } else if let Some(trailing) = self.trailing(scanner) {
            outline.fault = Some(trailing);
        }
        outline
    }

    fn next_value(&mut self, mut scanner: Scanner<Text>) -> Piece {
        let start = scanner.place();
        match scanner.cut(self.entry_limit_bytes, &mut self.entry) {
            Ok(cut) => {
                self.state = State::Behind(scanner);
                self.piece(cut, start)
            }
            Err(error) => self.broken_entry(start, &scanner, error),
        }
    }

    fn next_of_list(&mut self, mut scanner: Scanner<Text>, after_entry: bool, outside: Outside) -> Option<Piece> {
        let next = match scanner.peek() {
            Ok(next) => next,
            Err(error) => return Some(self.read_fault(scanner.place(), &error)),
        };
        let place = scanner.place();
        match (next, after_entry) {
            (None, _) => Some(fault(Some(place), "the file ends inside the list of chunks")),
            (Some(b']'), _) => {
                scanner.bump();
                match outside {
                    Outside::Nothing => {
                        self.state = State::Behind(scanner);
                        self.next()
                    }
                    Outside::Object(fault) => fault,
                }
            }
            (Some(b','), true) => {
                scanner.bump();
                let next = match scanner.peek() {
                    Ok(next) => next,
                    Err(error) => return Some(self.read_fault(scanner.place(), &error)),
                };
                let dangling = matches!(next, Some(b']' | b','));
                self.state = State::List { scanner, after_entry: dangling, outside };
                if dangling { Some(fault(Some(place), "expected a chunk behind the comma")) } else { self.next() }
            }
            (Some(b','), false) => {
                self.state = State::List { scanner, after_entry: true, outside };
                Some(fault(Some(place), "expected a chunk before the comma"))
            }
            (Some(_), true) => {
                // Whatever follows is read as if the comma stood there; at worst it is an entry that fails.
                self.state = State::List { scanner, after_entry: false, outside };
                Some(fault(Some(place), "expected `,` or `]` behind an entry"))
            }
            (Some(_), false) => match scanner.cut(self.entry_limit_bytes, &mut self.entry) {
                Ok(cut) => {
                    self.state = State::List { scanner, after_entry: true, outside };
                    Some(self.piece(cut, place))
                }
                Err(error) => Some(self.broken_entry(place, &scanner, error)),
            },
        }
    }

    fn piece(&self, cut: Cut, start: Place) -> Piece {
        Piece::Entry(Box::new(match cut {
            Cut::Whole => decode(&self.entry, Some(start), MetadataString::Opaque),
            Cut::TooLong => EntryPiece::unusable(Some(start), format!("longer than {} bytes", self.entry_limit_bytes)),
        }))
    }

    /// The structure is lost inside an entry: says what is wrong with the part that was read, else where it broke off.
    fn broken_entry(&self, start: Place, scanner: &Scanner<Text>, error: ScanFault) -> Piece {
        let piece = self.scan_fault(scanner, error);
        let Piece::Fault { place, reason, .. } = piece else { return piece };
        let within = String::from_utf8_lossy(&self.entry);
        let (place, reason) = match serde_json::from_str::<serde::de::IgnoredAny>(&within) {
            Err(syntax) if syntax.is_syntax() => {
                let cause = syntax_reason(&within, &syntax);
                (Some(start.within(syntax.line(), syntax.column())), format!("{cause}; then {reason}"))
            }
            _ => (place, format!("{reason}, in the entry that begins at line {}", start.line)),
        };
        Piece::Fault { place, in_entry: true, reason: format!("{reason}; the rest of the file is not read") }
    }

    fn scan_fault(&self, scanner: &Scanner<Text>, error: ScanFault) -> Piece {
        let reason = match error {
            ScanFault::Io(error) => return self.read_fault(scanner.place(), &error),
            ScanFault::End => "the file ends too early",
            ScanFault::Mismatch => "a bracket closes what is not open",
            ScanFault::TooDeep => "nested too deep",
            ScanFault::Syntax(reason) => reason,
        };
        fault(Some(scanner.place()), reason)
    }

    fn read_fault(&self, place: Place, error: &std::io::Error) -> Piece {
        fault(Some(place), self.file.read_reason(error))
    }

    /// Something behind the value that should be the whole file.
    fn trailing(&self, scanner: &mut Scanner<Text>) -> Option<Piece> {
        match scanner.peek() {
            Ok(None) => None,
            Ok(Some(_)) => Some(fault(
                Some(scanner.place()),
                "more follows behind the end of the value and is not read; if each line is a chunk, name the file *.jsonl",
            )),
            Err(error) => Some(self.read_fault(scanner.place(), &error)),
        }
    }
}

impl Iterator for Document {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Unopened => self.start(),
            State::Value(scanner) => Some(self.next_value(scanner)),
            State::List { scanner, after_entry, outside } => self.next_of_list(scanner, after_entry, outside),
            State::Behind(mut scanner) => self.trailing(&mut scanner),
            State::Ended => None,
        }
    }
}

fn fault(place: Option<Place>, reason: impl Into<String>) -> Piece {
    Piece::Fault { place, in_entry: false, reason: reason.into() }
}

/// What the keys of an object say about where its chunks are.
struct Outline {
    /// For each of the list keys the number of its last member, if that is an array.
    lists: [Option<usize>; LIST_KEYS.len()],
    has_text: bool,
    fault: Option<Piece>,
}

/// The list that is read.
struct List {
    /// Index into the list keys.
    priority: usize,
    /// Number of the member.
    member: usize,
}

impl Outline {
    fn list(&self) -> Option<List> {
        let found = self.lists.iter().enumerate().find_map(|(priority, member)| Some((priority, (*member)?)));
        found.map(|(priority, member)| List { priority, member })
    }
}

fn outline_object(scanner: &mut Scanner<Text>, outline: &mut Outline) -> Result<(), ScanFault> {
    let mut key = Vec::new();
    let mut member = 0;
    scanner.peek()?;
    scanner.bump();
    while next_member(scanner, member, &mut key)? {
        let value = scanner.peek()?.ok_or(ScanFault::End)?;
        let name = serde_json::from_slice::<String>(&key).unwrap_or_default();
        if let Some(priority) = LIST_KEYS.iter().position(|key| *key == name) {
            outline.lists[priority] = (value == b'[').then_some(member);
        }
        if name == "text" {
            outline.has_text = value == b'"';
        }
        scanner.skip()?;
        member += 1;
    }
    Ok(())
}

/// Goes from the brace of an object to the first byte of the value of a member.
fn enter_member(scanner: &mut Scanner<Text>, member: usize) -> Result<(), ScanFault> {
    scanner.bump();
    for passed in 0..=member {
        if !next_member(scanner, passed, &mut Vec::new())? {
            return Err(ScanFault::End);
        }
        scanner.peek()?;
        if passed < member {
            scanner.skip()?;
        }
    }
    Ok(())
}

/// Goes on to the value of the next member and gives its key; `false` behind the object.
fn next_member(scanner: &mut Scanner<Text>, member: usize, key: &mut Vec<u8>) -> Result<bool, ScanFault> {
    let mut next = scanner.peek()?;
    if next == Some(b'}') {
        scanner.bump();
        return Ok(false);
    }
    if member > 0 {
        expect(scanner, next, b',', "expected `,` or `}` behind a value")?;
        next = scanner.peek()?;
    }
    match next {
        Some(b'"') => scanner.cut(KEY_LIMIT_BYTES, key)?,
        Some(_) => return Err(ScanFault::Syntax("expected a key in quotes")),
        None => return Err(ScanFault::End),
    };
    let next = scanner.peek()?;
    expect(scanner, next, b':', "expected `:` behind a key")?;
    Ok(true)
}

fn expect(
    scanner: &mut Scanner<Text>,
    next: Option<u8>,
    expected: u8,
    otherwise: &'static str,
) -> Result<(), ScanFault> {
    match next {
        Some(byte) if byte == expected => {
            scanner.bump();
            Ok(())
        }
        Some(_) => Err(ScanFault::Syntax(otherwise)),
        None => Err(ScanFault::End),
    }
}
