//! The stored shards that were looked into last, kept decoded up to a bound.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::output::StoredShard;

/// Shards in memory, the one used last in front.
pub(super) struct Decoded {
    shards: VecDeque<(usize, Arc<StoredShard>, usize)>,
    bytes: usize,
    most_bytes: usize,
}

impl Decoded {
    /// None yet.
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { shards: VecDeque::new(), bytes: 0, most_bytes }
    }

    /// One of them, if it is here.
    pub(super) fn get(&mut self, source: usize) -> Option<Arc<StoredShard>> {
        let place = self.shards.iter().position(|(own, ..)| *own == source)?;
        let entry = self.shards.remove(place)?;
        let shard = Arc::clone(&entry.1);
        self.shards.push_front(entry);
        Some(shard)
    }

    /// Takes one in; those that were not used for longest go, but never this one.
    pub(super) fn put(&mut self, source: usize, shard: Arc<StoredShard>) {
        if self.get(source).is_some() {
            return;
        }
        let bytes = bytes_of(&shard);
        self.bytes += bytes;
        self.shards.push_front((source, shard, bytes));
        while self.bytes > self.most_bytes && self.shards.len() > 1 {
            self.bytes -= self.shards.pop_back().map_or(0, |(.., bytes)| bytes);
        }
    }
}

/// What a shard takes, roughly: its numbers, and something for each row.
fn bytes_of(shard: &StoredShard) -> usize {
    const ROW_BYTES: usize = 160;
    let sparse = shard.sparse.iter().flatten().map(|row| row.indices.len() * 8).sum::<usize>();
    let multi = shard.multi.iter().flat_map(|multi| &multi.texts).map(|text| text.len() * 4).sum::<usize>();
    shard.ids.len() * ROW_BYTES + shard.vectors.len() * 4 + sparse + multi
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ChunkId, Row};

    fn shard(rows: usize) -> Arc<StoredShard> {
        let ids = (0..rows).map(|row| ChunkId::new(row.to_string())).collect();
        let vectors = vec![0.0; rows * 10];
        let (sparse, multi, states) = (None, None, None);
        Arc::new(StoredShard { number: 0, first_row: Row(0), dimension: 10, ids, vectors, sparse, multi, states })
    }

    #[test]
    fn the_one_that_was_not_used_for_longest_goes() {
        let mut decoded = Decoded::new(2 * bytes_of(&shard(5)));
        decoded.put(0, shard(5));
        decoded.put(1, shard(5));
        assert!(decoded.get(0).is_some());
        decoded.put(2, shard(5));
        assert_eq!([0, 1, 2].map(|source| decoded.get(source).is_some()), [true, false, true]);
        // One alone may be larger than the bound.
        decoded.put(3, shard(100));
        assert_eq!([0, 1, 2, 3].map(|source| decoded.get(source).is_some()), [false, false, false, true]);
    }
}
