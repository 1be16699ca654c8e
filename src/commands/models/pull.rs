//! Where a model's files are, once they have been fetched.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use walkdir::WalkDir;

use super::{Report, inside};
use crate::model::registry::{Entry, Registry};
use crate::model::source::{ModelFiles, Provenance};
use crate::model::spec::{ModelSpec, TextRole};
use crate::model::weights::Weights;

/// What `models pull` says.
#[derive(Debug, Serialize)]
pub(super) struct Pulled {
    name: String,
    directory: PathBuf,
    #[serde(flatten)]
    provenance: Provenance,
    files: Vec<File>,
    /// What to write into a file of models so that the name stands for this commit for ever; none if it does already.
    pin: Option<String>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    bytes: u64,
}

impl Pulled {
    pub(super) fn new(files: ModelFiles, registry: &Registry) -> Self {
        let pin = pin(&files, registry);
        let ModelFiles { name, directory, provenance, notes } = files;
        // The hub's cache has links to its files.
        let entries = WalkDir::new(&directory).follow_links(true).sort_by_file_name().into_iter().flatten();
        let listed = entries
            .filter_map(|entry| {
                let metadata = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
                Some(File { path: inside(entry.path(), &directory), bytes: metadata.len() })
            })
            .collect();
        Self { name, directory, provenance, files: listed, pin, notes }
    }
}

/// The row of a model that is not pinned, with the commit that it is now. One without a row gets one.
fn pin(files: &ModelFiles, registry: &Registry) -> Option<String> {
    let Provenance::Hub { repository, revision, commit, .. } = &files.provenance else { return None };
    if revision == commit {
        return None;
    }
    match registry.find(&files.name) {
        Some(row) => Some(row.pinned_to(commit)),
        None => described(repository, &files.directory).map(|row| row.pinned_to(commit)),
    }
}

/// The row that a model's own files give; none if they cannot be used, which embedding tells.
fn described(repository: &str, directory: &Path) -> Option<Entry> {
    let spec = ModelSpec::read(directory).ok()?;
    let parameters = Weights::of(&spec, &[spec.default_kind]).ok()?.numbers();
    let layers = ["num_hidden_layers", "n_layers", "n_layer", "num_layers"];
    let layers = layers.iter().find_map(|key| spec.config.get(*key)?.as_u64()).and_then(|it| u32::try_from(it).ok());
    let widths = spec.widths();
    let mut emit = vec![spec.default_kind];
    emit.extend(widths.kinds().filter(|kind| *kind != spec.default_kind));
    Some(Entry {
        name: repository.rsplit('/').next().unwrap_or(repository).to_owned(),
        aliases: Vec::new(),
        hub: repository.to_owned(),
        revision: "main".to_owned(),
        architecture: spec.architecture.as_str().to_owned(),
        parameters,
        // A table of vectors has none.
        layers: layers.unwrap_or(0),
        emit,
        dimension: u32::try_from(widths.of(spec.default_kind)?).ok()?,
        max_tokens: Some(u32::try_from(spec.longest(TextRole::Document)).ok()?),
        advice: None,
        package: None,
        file: None,
    })
}

impl Report for Pulled {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        let count = self.files.len();
        let at = self.provenance.revision().map(|revision| format!(" at {revision}")).unwrap_or_default();
        writeln!(out, "{}: {count} files, {:.1} MB, {}{at}", self.name, bytes as f64 / 1e6, self.provenance)?;
        if let (Provenance::Hub { revision, commit, .. }, Some(pin)) = (&self.provenance, &self.pin) {
            writeln!(
                out,
                "{revision} is not pinned, and is {commit} now; to keep to it, write this into a file and pass it"
            )?;
            writeln!(out, "as --models-file:\n\n{pin}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
        writeln!(out, "{}", self.directory.display())
    }
}
