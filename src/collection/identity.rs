//! Gives every chunk of a collection an id that no other chunk of it has.

use std::collections::HashSet;

use crate::domain::{ChunkId, Digest, Source};

/// The ids that a collection has had.
///
/// Kept as the first 128 bits of their SHA-256: 20 to 40 bytes a chunk with the table's slack, however long the ids
/// are. Two of 10¹² ids collide with a chance below 10⁻¹⁴; even then an id is merely taken for a repeated one.
#[derive(Debug, Default)]
pub(super) struct Identities {
    seen: HashSet<u128>,
}

/// The id of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// What the chunk is called.
    pub(super) id: ChunkId,
    /// The id that it should have had, if that was taken.
    pub(super) taken: Option<ChunkId>,
}

impl Identities {
    /// Gives the wanted id if it is free, else one from the place: `<file>#<index>`, and should another chunk have
    /// asked for just that, `<file>#<index>#2` and so on.
    pub(super) fn assign(&mut self, wanted: Option<String>, source: &Source) -> Identity {
        let mut taken = None;
        let place = ChunkId::from_place(source);
        for id in wanted.map(ChunkId::new).into_iter().chain([place.clone()]) {
            if self.seen.insert(fingerprint(&id)) {
                return Identity { id, taken };
            }
            taken.get_or_insert(id);
        }
        let mut number = 2_u64;
        loop {
            let id = ChunkId::new(format!("{place}#{number}"));
            if self.seen.insert(fingerprint(&id)) {
                return Identity { id, taken };
            }
            number += 1;
        }
    }
}

fn fingerprint(id: &ChunkId) -> u128 {
    let digest = Digest::of(id.as_str().as_bytes());
    digest.as_bytes().iter().take(16).fold(0, |bits, &byte| bits << 8 | u128::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_whatever_is_asked_for() {
        let mut identities = Identities::default();
        let mut check = |wanted: Option<&str>, index, id: &str, taken: Option<&str>| {
            let source = Source { file: "d/f.json".into(), index };
            let expected = Identity { id: ChunkId::new(id), taken: taken.map(ChunkId::new) };
            assert_eq!(identities.assign(wanted.map(str::to_owned), &source), expected);
        };
        check(Some("a"), 0, "a", None);
        check(Some("a"), 1, "d/f.json#1", Some("a"));
        check(None, 2, "d/f.json#2", None);
        check(Some("d/f.json#4"), 3, "d/f.json#4", None);
        check(Some("d/f.json#5#2"), 3, "d/f.json#5#2", None);
        check(Some("d/f.json#5"), 3, "d/f.json#5", None);
        check(None, 4, "d/f.json#4#2", Some("d/f.json#4"));
        check(Some("a"), 5, "d/f.json#5#3", Some("a"));
        check(Some("d/f.json#2"), 6, "d/f.json#6", Some("d/f.json#2"));
    }
}
