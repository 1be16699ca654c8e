//! SHA-256 digests, as stored in manifests and ledgers.

use std::fmt;
use std::io::{self, Read, Write};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest; 64 lower-case hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// The text is not 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a sha256 digest (64 hexadecimal digits)")]
pub struct DigestError {
    text: String,
}

impl Digest {
    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok())).collect();
        match digits {
            Some(digits) if digits.len() == 64 => {
                Ok(Self(std::array::from_fn(|byte| digits[2 * byte] << 4 | digits[2 * byte + 1])))
            }
            _ => Err(DigestError { text: text.to_owned() }),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Counts and digests the bytes that pass through to the inner writer.
pub struct DigestWriter<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> DigestWriter<W> {
    /// Starts at zero bytes.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    /// The inner writer, the digest and the number of the bytes that it took.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest(self.hasher.finalize().into()), self.bytes)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Digests values, each after its length (u64, little-endian), so that none can run into the next.
#[derive(Default)]
pub struct FieldDigest(Sha256);

impl FieldDigest {
    /// Adds a value.
    pub fn push(&mut self, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.0.update((value.len() as u64).to_le_bytes());
        self.0.update(value);
    }

    /// Adds a name and a value.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.push(name);
        self.push(value);
    }

    /// The digest of all values.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Digests everything that a reader gives.
pub struct DigestReader;

impl DigestReader {
    /// Reads to the end; returns the digest and the number of bytes.
    ///
    /// # Errors
    /// Whatever the reader reports.
    pub fn drain(mut reader: impl Read) -> io::Result<(Digest, u64)> {
        let mut writer = DigestWriter::new(io::sink());
        io::copy(&mut reader, &mut writer)?;
        let (_, digest, bytes) = writer.finish();
        Ok((digest, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_runs_into_the_next_field() {
        let digest = |parts: &[(&str, &[u8])]| {
            let mut fields = FieldDigest::default();
            parts.iter().for_each(|(name, value)| fields.add(name, value));
            fields.finish()
        };
        assert_ne!(digest(&[("a", b"bc")]), digest(&[("ab", b"c")]));
        assert_ne!(digest(&[("a", b"b"), ("c", b"d")]), digest(&[("a", b"bc"), ("", b"d")]));
        assert_ne!(digest(&[("a", b"")]), digest(&[("a", b""), ("", b"")]));
    }

    #[test]
    fn a_digest_survives_text_and_streams() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        let mut writer = DigestWriter::new(Vec::new());
        writer.write_all(b"a").unwrap();
        writer.write_all(b"bc").unwrap();
        assert_eq!(writer.finish(), (b"abc".to_vec(), digest, 3));
        assert_eq!(DigestReader::drain(&b"abc"[..]).unwrap(), (digest, 3));
        assert!("ba78".parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }
}
