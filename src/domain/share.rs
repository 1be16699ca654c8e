//! A share of a job that several machines divide among themselves, without talking to each other.
//!
//! Every machine knows from its number alone which parts of which collections are its own, so that none waits for
//! another and none does another's work.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{CollectionName, Digest};

/// One of so many shares, counted from 0. As text: `3/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    number: u32,
    of: u32,
}

/// The text names no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Not two numbers.
    #[error("{text:?} is not a share such as 3/8: its number, counted from 0, and how many there are")]
    Unreadable {
        /// The text.
        text: String,
    },
    /// There are not so many.
    #[error("there is no share {number} of {of}: shares are counted from 0, so that the last one is {}", .of.saturating_sub(1))]
    Beyond {
        /// Its number.
        number: u32,
        /// How many there are.
        of: u32,
    },
}

impl Share {
    /// Share `number`, counted from 0, of so many.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn new(number: u32, of: u32) -> Result<Self, ShareError> {
        if number < of { Ok(Self { number, of }) } else { Err(ShareError::Beyond { number, of }) }
    }

    /// All shares of a job.
    pub fn all(of: u32) -> impl Iterator<Item = Self> {
        (0..of).map(move |number| Self { number, of })
    }

    /// Its number, from 0.
    pub fn number(self) -> u32 {
        self.number
    }

    /// How many there are.
    pub fn of(self) -> u32 {
        self.of
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let numbers = text.split_once('/').and_then(|(number, of)| Some((digits(number)?, digits(of)?)));
        let (number, of) = numbers.ok_or_else(|| ShareError::Unreadable { text: text.to_owned() })?;
        Self::new(number, of)
    }
}

/// A number without sign or blanks.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a share has of one collection: every so many parts one, beginning with one that depends on the collection's
/// name, so that the only parts of many small collections do not all fall to the first share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    share: Share,
    offset: u64,
}

impl Portion {
    /// Part p of a collection belongs to share (h + p) mod n, where h is the beginning of the SHA-256 of the
    /// collection's name, as a little-endian number of eight bytes.
    pub fn new(share: Share, collection: &CollectionName) -> Self {
        let digest = Digest::of(collection.as_str().as_bytes());
        let beginning = digest.as_bytes().first_chunk().copied().unwrap_or_default();
        Self { share, offset: u64::from_le_bytes(beginning) % u64::from(share.of) }
    }

    /// The share.
    pub fn share(self) -> Share {
        self.share
    }

    /// Whether a part is the share's.
    pub fn owns(self, part: u64) -> bool {
        (self.offset + part % self.of()) % self.of() == u64::from(self.share.number)
    }

    /// The share's first part from this one on.
    pub fn first_from(self, part: u64) -> u64 {
        let wanted = u64::from(self.share.number) + 2 * self.of();
        part + (wanted - self.offset - part % self.of()) % self.of()
    }

    /// How many of so many rows are the share's, with so many rows in every part but the last.
    pub fn rows(self, rows: u64, part_rows: u64) -> u64 {
        let (full, rest) = (rows / part_rows, rows % part_rows);
        let first = self.first_from(0);
        let own = full.saturating_sub(first).div_ceil(self.of());
        own * part_rows + if self.owns(full) { rest } else { 0 }
    }

    fn of(self) -> u64 {
        u64::from(self.share.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collection(name: &str) -> CollectionName {
        CollectionName::new(name).unwrap()
    }

    #[test]
    fn a_share_is_written_as_it_is_read() {
        assert_eq!("3/8".parse::<Share>().unwrap().to_string(), "3/8");
        for text in ["", "3", "3/", "/8", "+3/8", "3/8 ", "a/b", "3/8/1", "-1/8", "99999999999/8"] {
            assert_eq!(text.parse::<Share>(), Err(ShareError::Unreadable { text: text.to_owned() }));
        }
        let beyond = "8/8".parse::<Share>().unwrap_err().to_string();
        assert_eq!(beyond, "there is no share 8 of 8: shares are counted from 0, so that the last one is 7");
        assert_eq!("0/0".parse::<Share>(), Err(ShareError::Beyond { number: 0, of: 0 }));
    }

    #[test]
    fn every_part_has_one_owner_and_every_row_is_counted_once() {
        for of in [1, 2, 3, 8] {
            for name in ["Docling", "Qdrant", "a", "é"] {
                let portions: Vec<Portion> =
                    Share::all(of).map(|share| Portion::new(share, &collection(name))).collect();
                for part in (0..40).chain([u64::MAX - 1]) {
                    let owners = portions.iter().filter(|portion| portion.owns(part)).count();
                    assert_eq!(owners, 1, "part {part} of {name} among {of}");
                }
                for portion in &portions {
                    for part in 0..40 {
                        let expected = (part..part + u64::from(of)).find(|part| portion.owns(*part)).unwrap();
                        assert_eq!(portion.first_from(part), expected, "{portion:?} from {part}");
                    }
                }
                for rows in 0..60 {
                    let sum: u64 = portions.iter().map(|portion| portion.rows(rows, 7)).sum();
                    assert_eq!(sum, rows, "{name} among {of}");
                }
                for portion in &portions {
                    let expected = (0..45_u64).filter(|row| portion.owns(row / 7)).count() as u64;
                    assert_eq!(portion.rows(45, 7), expected, "{portion:?}");
                }
            }
        }
    }

    #[test]
    fn who_owns_what_never_changes() {
        let owner = |name: &str, part| {
            Share::all(8).find(|share| Portion::new(*share, &collection(name)).owns(part)).unwrap().number()
        };
        assert_eq!([owner("Docling", 0), owner("Docling", 1), owner("Qdrant", 0), owner("a", 9)], [0, 1, 7, 3]);
    }
}
