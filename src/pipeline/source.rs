//! The first two stages: chunks in groups, then the same groups with digests and tokens.

use crossbeam_channel::{Receiver, Sender};

use super::lane::{Lane, Lanes};
use super::stages::{Stage, StageClock};
use super::{GROUP_BYTES, GROUP_CHUNKS, StopSwitch};
use crate::collection::{Collection, Entry};
use crate::domain::{Chunk, ChunkText, Digest, RowRecord, RowStatus, TokenSeq};
use crate::known::KnownRow;
use crate::telemetry::event::{Event, Observer};

/// Consecutive chunks.
pub(super) struct Group {
    /// Running number.
    pub number: u64,
    pub chunks: Vec<Chunk>,
    /// How much of the collection's files had been read when the group was complete.
    pub bytes_read: u64,
}

/// The same chunks, ready to be encoded.
pub(super) struct TokenizedGroup {
    pub number: u64,
    /// [chunks][lanes]
    pub rows: Vec<Vec<TokenizedRow>>,
    pub bytes_read: u64,
}

/// One row of one lane before it is encoded. Its status is final unless encoding fails; without a vector it has no
/// tokens.
pub(super) struct TokenizedRow {
    pub record: RowRecord,
    /// None where nothing is to be encoded.
    pub tokens: TokenSeq,
    /// Its vectors, where they need not be computed again.
    pub known: Option<KnownRow>,
    /// Whether the record's error is news; of what is wrong with an entry, the reader has told.
    pub error_is_new: bool,
}

/// Reads a collection to its end or until asked to stop. Faults are reported, never fatal.
pub(super) fn read(
    collection: &Collection,
    groups: &Sender<Group>,
    stop: &StopSwitch,
    clock: &StageClock,
    observer: &dyn Observer,
) {
    let mut reader = collection.read();
    let (mut number, mut chunks, mut bytes) = (0, Vec::new(), 0);
    while stop.cause().is_none() {
        let entry = clock.time(Stage::Read, || reader.next());
        let at_end = entry.is_none();
        if let Some(chunk) = entry.and_then(|entry| report(entry, collection, observer)) {
            if let ChunkText::Present(text) = &chunk.text {
                bytes += text.len();
            }
            chunks.push(chunk);
        }
        if chunks.len() == GROUP_CHUNKS || bytes >= GROUP_BYTES || (at_end && !chunks.is_empty()) {
            let group = Group { number, chunks: std::mem::take(&mut chunks), bytes_read: reader.bytes_read() };
            (number, bytes) = (number + 1, 0);
            if groups.send(group).is_err() {
                return;
            }
        }
        if at_end {
            return;
        }
    }
}

/// Passes on what the reader says of an entry, and gives its chunk if it has one.
fn report(entry: Entry, collection: &Collection, observer: &dyn Observer) -> Option<Chunk> {
    let name = collection.name().clone();
    match entry {
        Entry::Chunk(chunk) => return Some(chunk),
        Entry::Fault(error) => observer.observe(&Event::LoadingError { collection: Some(name), error }),
        Entry::Warning(warning) => observer.observe(&Event::InputWarning { collection: name, warning }),
    }
    None
}

/// Digests and tokenises groups until there are no more, for every lane in its own way.
pub(super) fn tokenize(lanes: Lanes<'_>, groups: &Receiver<Group>, tokenized: &Sender<TokenizedGroup>) {
    for Group { number, chunks, bytes_read } in groups {
        let rows = chunks.into_iter().map(|chunk| tokenize_chunk(lanes, chunk)).collect();
        if tokenized.send(TokenizedGroup { number, rows, bytes_read }).is_err() {
            return;
        }
    }
}

fn tokenize_chunk(lanes: Lanes<'_>, chunk: Chunk) -> Vec<TokenizedRow> {
    let text_sha256 = match &chunk.text {
        ChunkText::Present(text) => Some(Digest::of(text.as_bytes())),
        ChunkText::Unusable { .. } => None,
    };
    let outcomes: Vec<Outcome> = lanes
        .all()
        .iter()
        .map(|lane| lane.clock.time(Stage::Tokenize, || outcome(lane, &chunk, text_sha256)))
        .collect();
    let row = |chunk: Chunk, Outcome { status, tokens, known, error }: Outcome| TokenizedRow {
        error_is_new: error.is_some() && text_sha256.is_some(),
        record: RowRecord {
            id: chunk.id,
            source: chunk.source,
            status,
            tokens: known
                .as_ref()
                .map_or_else(|| u32::try_from(tokens.ids.len()).unwrap_or(u32::MAX), |row| row.tokens),
            tokens_truncated: tokens.truncated,
            text_sha256,
            error,
            metadata: chunk.metadata,
            extra: chunk.extra,
        },
        tokens: if known.is_some() { TokenSeq::default() } else { tokens },
        known,
    };
    // Only the lanes after the first need copies.
    let mut outcomes = outcomes.into_iter();
    let first = outcomes.next();
    let mut others: Vec<TokenizedRow> = outcomes.map(|outcome| row(without_text(&chunk), outcome)).collect();
    let mut rows: Vec<TokenizedRow> = first.map(|outcome| row(chunk, outcome)).into_iter().collect();
    rows.append(&mut others);
    rows
}

/// A copy of all that stays of a chunk.
fn without_text(chunk: &Chunk) -> Chunk {
    Chunk {
        id: chunk.id.clone(),
        row: chunk.row,
        text: ChunkText::Present(String::new()),
        source: chunk.source.clone(),
        metadata: chunk.metadata.clone(),
        extra: chunk.extra.clone(),
    }
}

/// What becomes of a chunk in a lane.
struct Outcome {
    status: RowStatus,
    tokens: TokenSeq,
    known: Option<KnownRow>,
    error: Option<String>,
}

impl Outcome {
    /// A row without anything to encode.
    fn of(status: RowStatus) -> Self {
        Self { status, tokens: TokenSeq::default(), known: None, error: None }
    }

    fn failed(reason: String) -> Self {
        Self { error: Some(reason), ..Self::of(RowStatus::Failed) }
    }
}

/// Rows that are committed already, or another share's, need no tokens, and those whose vectors are known none but to
/// count what was cut off.
fn outcome(lane: &Lane<'_>, chunk: &Chunk, text_sha256: Option<Digest>) -> Outcome {
    let text = match &chunk.text {
        ChunkText::Unusable { reason } => return Outcome::failed(reason.clone()),
        ChunkText::Present(text) if text.trim().is_empty() => return Outcome::of(RowStatus::Empty),
        ChunkText::Present(_) if !lane.committed.wants(chunk.row.0) => return Outcome::of(RowStatus::Ok),
        ChunkText::Present(text) => text,
    };
    let known = lane.known.zip(text_sha256).and_then(|(known, text)| known.get(&text));
    if known.as_ref().is_some_and(|known| known.status == RowStatus::Ok) {
        return Outcome { known, ..Outcome::of(RowStatus::Ok) };
    }
    match lane.tokenizer.encode(text) {
        Ok(tokens) if tokens.ids.is_empty() => Outcome::failed("the tokenizer finds no token in the text".into()),
        Ok(tokens) => {
            let status = if tokens.truncated > 0 { RowStatus::Truncated } else { RowStatus::Ok };
            // What is stored and does not go with the tokens is not believed.
            let known = known.filter(|known| known.goes_with(status, tokens.ids.len()));
            Outcome { tokens, known, ..Outcome::of(status) }
        }
        Err(error) => Outcome::failed(error.to_string()),
    }
}
