//! Amounts of memory.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number of bytes. Shown in GiB, or MiB below one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// So many MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// In GiB.
    pub fn gib(self) -> f64 {
        self.0 as f64 / (1_u64 << 30) as f64
    }

    /// What is left of it; nothing if `other` is more.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Through a string, so that a width applies.
        let text = if self.0 >= 1 << 30 { format!("{:.1} GiB", self.gib()) } else { format!("{} MiB", self.0 >> 20) };
        formatter.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: Bytes, expected: &str) {
        assert_eq!(bytes.to_string(), expected);
    }

    #[test]
    fn amounts_are_shown_in_the_unit_that_fits() {
        check(Bytes(0), "0 MiB");
        check(Bytes::mib(512), "512 MiB");
        check(Bytes::mib(1024), "1.0 GiB");
        check(Bytes::mib(15_360), "15.0 GiB");
        assert_eq!(format!("{:>9}|", Bytes::mib(5)), "    5 MiB|");
    }
}
