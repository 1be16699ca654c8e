//! What an output remembers of its input, so that a changed one is noticed before vectors and texts drift apart.

use crate::domain::{Chunk, ChunkId, ChunkText, Digest, DigestWriter, RawJson, RowRecord, Source};

/// All that the input says of one row, whatever the model.
#[derive(Debug, Clone, Copy)]
pub struct InputRow<'a> {
    /// The chunk's id.
    pub id: &'a ChunkId,
    /// Where it was read.
    pub source: &'a Source,
    /// Digest of its text, if it has one.
    pub text_sha256: Option<Digest>,
    /// Its metadata.
    pub metadata: Option<&'a RawJson>,
    /// Its other keys.
    pub extra: Option<&'a RawJson>,
}

impl<'a> From<&'a RowRecord> for InputRow<'a> {
    fn from(record: &'a RowRecord) -> Self {
        Self {
            id: &record.id,
            source: &record.source,
            text_sha256: record.text_sha256,
            metadata: record.metadata.as_ref(),
            extra: record.extra.as_ref(),
        }
    }
}

impl<'a> From<&'a Chunk> for InputRow<'a> {
    fn from(chunk: &'a Chunk) -> Self {
        let text_sha256 = match &chunk.text {
            ChunkText::Present(text) => Some(Digest::of(text.as_bytes())),
            ChunkText::Unusable { .. } => None,
        };
        let (metadata, extra) = (chunk.metadata.as_ref(), chunk.extra.as_ref());
        Self { id: &chunk.id, source: &chunk.source, text_sha256, metadata, extra }
    }
}

/// Digest over the ids and the texts of consecutive rows: equal digests, equal vectors. Every part is preceded by its
/// length, so that no two sequences run into the same bytes.
pub fn input_digest<'a>(rows: impl IntoIterator<Item = InputRow<'a>>) -> Digest {
    let mut digest = PartsDigest::new();
    rows.into_iter().for_each(|row| digest.push_vector_input(&row));
    digest.finish()
}

/// Running digest over all that the input says of all rows from the first on. Each state depends on the rows alone,
/// not on how they are cut into shards, so that outputs with different shards can be compared where they meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputChain(Digest);

impl InputChain {
    /// Before the first row.
    pub fn new() -> Self {
        Self(Digest::of(&[]))
    }

    /// Goes on from a state that was stored.
    pub fn resume(state: Digest) -> Self {
        Self(state)
    }

    /// The state after the rows so far.
    pub fn state(&self) -> Digest {
        self.0
    }

    /// Takes the next row in.
    pub fn push(&mut self, row: &InputRow<'_>) {
        let mut digest = PartsDigest::new();
        digest.push(Some(self.0.as_bytes()));
        digest.push_vector_input(row);
        digest.push(Some(row.source.file.as_bytes()));
        digest.push(Some(&row.source.index.to_le_bytes()));
        // The ledger says `null` whether the input did or said nothing; whoever reads it back finds the same chain.
        let metadata = row.metadata.map(RawJson::as_str).filter(|&json| json != "null");
        digest.push(metadata.map(str::as_bytes));
        digest.push(row.extra.map(|json| json.as_str().as_bytes()));
        self.0 = digest.finish();
    }
}

impl Default for InputChain {
    fn default() -> Self {
        Self::new()
    }
}

/// A sequence of optional byte strings under one digest.
pub(super) struct PartsDigest(DigestWriter<std::io::Sink>);

impl PartsDigest {
    pub(super) fn new() -> Self {
        Self(DigestWriter::new(std::io::sink()))
    }

    pub(super) fn push_vector_input(&mut self, row: &InputRow<'_>) {
        self.push(Some(row.id.as_str().as_bytes()));
        self.push(row.text_sha256.as_ref().map(|digest| digest.as_bytes().as_slice()));
    }

    fn push(&mut self, part: Option<&[u8]>) {
        // No string is that long: it stands for "none".
        let bytes = part.map_or(u64::MAX, |part| part.len() as u64);
        self.write(&bytes.to_le_bytes());
        self.write(part.unwrap_or_default());
    }

    fn write(&mut self, bytes: &[u8]) {
        // A sink takes everything and never fails.
        let _ = std::io::Write::write_all(&mut self.0, bytes);
    }

    pub(super) fn finish(self) -> Digest {
        self.0.finish().1
    }
}
