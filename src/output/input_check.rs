//! Whether the rows that a resumed run skips are those that were embedded.

use std::mem;
use std::ops::Range;

use super::input::{InputChain, InputRow, PartsDigest};
use super::manifest::CommittedShard;

/// Takes the rows of the input one by one and compares them with what the committed shards remember of theirs.
pub struct InputCheck {
    shards: Vec<CommittedShard>,
    /// Shards whose rows have all been seen.
    passed: usize,
    /// Rows seen of the shard after these.
    seen: u64,
    texts: PartsDigest,
    chain: InputChain,
}

/// The input is not the one that was embedded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputChanged {
    /// Ids or texts differ, or came in another order: the vectors are of another input.
    #[error("rows {} to {} (shard {shard}) have changed since they were embedded (pass --incremental to embed what is new, --overwrite to embed everything again, or choose another --output-dir)", rows.start, rows.end - 1)]
    Texts {
        /// The shard.
        shard: u32,
        /// Its rows.
        rows: Range<u64>,
    },
    /// Ids and texts are the same, but sources, metadata or other keys differ: the ledger tells of another input.
    #[error("metadata or sources of rows {} to {} (shard {shard}) have changed since chunks.jsonl was written, though their texts have not (pass --incremental to keep the vectors, --overwrite to embed everything again, or choose another --output-dir)", rows.start, rows.end - 1)]
    Metadata {
        /// The shard.
        shard: u32,
        /// Its rows.
        rows: Range<u64>,
    },
    /// The input has more rows than were embedded, and the last shard was committed as the end of the input.
    #[error(
        "the input has grown: it has more than the {committed} rows that were embedded as all there was (pass --incremental to embed what is new, --overwrite to embed everything again, or choose another --output-dir)"
    )]
    Longer {
        /// Rows of the output.
        committed: u64,
    },
    /// The input has fewer rows than were embedded.
    #[error(
        "the input has {found} rows, but {committed} were embedded (pass --incremental to embed what is new, --overwrite to embed everything again, or choose another --output-dir)"
    )]
    Shorter {
        /// Rows of the input.
        found: u64,
        /// Rows of the output.
        committed: u64,
    },
}

impl InputCheck {
    /// Expects the rows of these shards, from the first on.
    pub fn new(shards: &[CommittedShard]) -> Self {
        let (texts, chain) = (PartsDigest::new(), InputChain::new());
        Self { shards: shards.to_vec(), passed: 0, seen: 0, texts, chain }
    }

    /// Takes the next row; false when no committed row is expected after it.
    ///
    /// # Errors
    /// At the last row of a shard whose rows have changed.
    pub fn push(&mut self, row: &InputRow<'_>) -> Result<bool, InputChanged> {
        let Some(shard) = self.shards.get(self.passed) else { return Ok(false) };
        self.texts.push_vector_input(row);
        self.chain.push(row);
        self.seen += 1;
        if self.seen == shard.totals.rows {
            let rows = shard.first_row..shard.end_row();
            if mem::replace(&mut self.texts, PartsDigest::new()).finish() != shard.input_sha256 {
                return Err(InputChanged::Texts { shard: shard.number, rows });
            }
            if self.chain.state() != shard.input_chain {
                return Err(InputChanged::Metadata { shard: shard.number, rows });
            }
            self.passed += 1;
            self.seen = 0;
        }
        Ok(self.passed < self.shards.len())
    }

    /// The input has ended.
    ///
    /// # Errors
    /// When committed rows are still expected.
    pub fn finish(&self) -> Result<(), InputChanged> {
        match (self.shards.get(self.passed), self.shards.last()) {
            (Some(shard), Some(last)) => {
                Err(InputChanged::Shorter { found: shard.first_row + self.seen, committed: last.end_row() })
            }
            _ => Ok(()),
        }
    }
}
