//! What a run wants to write, held against what is there.

use std::fmt;

use super::format::Format;
use super::manifest::{Manifest, Provenance};
use crate::domain::Widths;

/// What one model is to write for a collection.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The model as it was asked for; names the directory by way of [`super::directory_name`].
    pub model: String,
    /// Hexadecimal hash over everything that shapes the vectors.
    pub vector_space: String,
    /// The kinds of vectors, and their widths.
    pub widths: Widths,
    /// Rows of every shard but the last.
    pub shard_rows: u32,
    /// The formats; order and repetition do not matter.
    pub formats: Vec<Format>,
    /// What made the vectors, for the manifest.
    pub provenance: Provenance,
    /// What to do with an output that is there.
    pub existing: Existing,
}

/// What to do with an output that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Go on where it ends, if it was written by the same plan; refuse otherwise.
    Resume,
    /// Refuse.
    Refuse,
    /// Remove it and start anew.
    Overwrite,
}

/// One thing in which an output and a plan differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Key in the manifest.
    pub key: String,
    /// What the output has.
    pub existing: String,
    /// What the plan wants.
    pub wanted: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, not {}", self.key, self.existing, self.wanted)
    }
}

impl Plan {
    /// The formats in their order, each once.
    pub(super) fn ordered_formats(&self) -> Vec<Format> {
        let mut formats = self.formats.clone();
        formats.sort_unstable();
        formats.dedup();
        formats
    }

    /// In what a manifest differs from this plan; empty when its output may be continued. The provenance does not
    /// decide, but explains a difference of vector spaces.
    pub(super) fn differences(&self, manifest: &Manifest) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut compare = |key: &str, existing: String, wanted: String| {
            if existing != wanted {
                differences.push(Difference { key: key.to_owned(), existing, wanted });
            }
        };
        compare("model", manifest.model.clone(), self.model.clone());
        compare("vector_space", manifest.vector_space.clone(), self.vector_space.clone());
        let (existing, wanted) = (manifest.widths(), self.widths);
        compare("emit", existing.to_string(), wanted.to_string());
        let dimension = |width: Option<usize>| width.unwrap_or_default().to_string();
        compare("dimension", dimension(existing.dense), dimension(wanted.dense));
        compare("sparse_dimension", dimension(existing.sparse), dimension(wanted.sparse));
        compare("multi_dimension", dimension(existing.multi), dimension(wanted.multi));
        compare("shard_rows", manifest.shard_rows.to_string(), self.shard_rows.to_string());
        compare("formats", list(&manifest.formats), list(&self.ordered_formats()));
        if manifest.vector_space != self.vector_space {
            let mut keys: Vec<_> = manifest.provenance.keys().chain(self.provenance.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            let value = |provenance: &Provenance, key: &str| {
                provenance.get(key).map_or("unknown".to_owned(), ToString::to_string)
            };
            for key in keys {
                compare(key, value(&manifest.provenance, key), value(&self.provenance, key));
            }
        }
        differences
    }
}

fn list(formats: &[Format]) -> String {
    formats.iter().map(Format::to_string).collect::<Vec<_>>().join(",")
}
