//! The values that some settings take.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How the models of an ensemble take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// All models are loaded, and every batch of texts goes through each of them.
    Rotate,
    /// One model after the other, each with all devices for itself.
    Exclusive,
}

/// What becomes of the vectors that several models have given one chunk, besides their own outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fusion {
    /// Their weighted mean, of unit length; all must have one dimension.
    Mean,
    /// One after the other, weighted, of unit length together.
    Concat,
    /// Nothing.
    None,
}

impl Fusion {
    /// As in `--fusion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Concat => "concat",
            Self::None => "none",
        }
    }
}

/// Arithmetic of the model's layers. Pooling and normalisation are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// The fastest that is exact enough on the device; f32 on a CPU.
    Auto,
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point; GPUs only.
    F16,
    /// 16-bit floating point with the range of f32: sums in f32 of products of numbers with eight bits of mantissa.
    Bf16,
    /// Eight-bit integers with scales; processors only.
    Int8,
}

/// Vector instructions of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CpuInstructions {
    /// The best that it has.
    Auto,
    /// At most AVX-512.
    Avx512,
    /// At most AVX2 with FMA.
    Avx2,
    /// What every processor has.
    Portable,
}

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a row.
    Jsonl,
    /// Parquet, compressed with zstd.
    Parquet,
    /// Arrow IPC file, uncompressed, so that it can be mapped into memory.
    Arrow,
    /// NumPy array beside a JSON list of ids.
    Npy,
}

/// How progress is shown on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProgressStyle {
    /// A bar on a terminal, plain lines elsewhere.
    Auto,
    /// A bar.
    Bar,
    /// A line every few seconds.
    Plain,
    /// A JSON object every few seconds.
    Json,
    /// Nothing.
    None,
}

/// The least of what is told in log messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What ends the run or a part of it.
    Error,
    /// What the user should look at, too.
    Warn,
    /// The way of the run as well.
    Info,
    /// Each batch, before it is encoded, as well.
    Debug,
}

/// How log messages are written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a message.
    Json,
}

/// A time span, written as `90`, `90s`, `15m`, `1h30m` or `2d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl std::str::FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unreadable = || format!("{text:?} is not a duration such as 90s, 15m, 1h30m or 2d");
        let (mut seconds, mut rest) = (0_u64, text.trim());
        if rest.is_empty() {
            return Err(unreadable());
        }
        while !rest.is_empty() {
            let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
            let count: u64 = rest[..digits].parse().map_err(|_| unreadable())?;
            let unit = rest[digits..].chars().next();
            let factor = match unit {
                None | Some('s') => 1,
                Some('m') => 60,
                Some('h') => 3600,
                Some('d') => 86400,
                Some(_) => return Err(unreadable()),
            };
            seconds = count.checked_mul(factor).and_then(|span| seconds.checked_add(span)).ok_or_else(unreadable)?;
            rest = &rest[digits + unit.map_or(0, char::len_utf8)..];
        }
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}s", self.0.as_secs()))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Span {
            Seconds(u64),
            Text(String),
        }
        match Span::deserialize(deserializer)? {
            Span::Seconds(seconds) => Ok(Self(Duration::from_secs(seconds))),
            Span::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(text.parse::<Seconds>().ok().map(|span| span.0.as_secs()), expected, "{text:?}");
    }

    #[test]
    fn durations_are_read_with_their_units() {
        check("90", Some(90));
        check("90s", Some(90));
        check("15m", Some(900));
        check("1h30m", Some(5400));
        check("2d", Some(172_800));
        for text in ["", "m", "1x", "-1", "1.5h", "99999999999999999d", "é"] {
            check(text, None);
        }
    }
}
