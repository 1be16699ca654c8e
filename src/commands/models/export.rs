//! A model as a directory for a machine without a network.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{ModelsError, Report};
use crate::domain::{Digest, VectorKind};
use crate::embedder::{ModelFault, default_space};
use crate::model::source::{self, Export, ModelFiles, Provenance};
use crate::model::spec::ModelSpec;
use crate::model::weights::Weights;

/// What `models export` says.
#[derive(Debug, Serialize)]
pub(super) struct Exported {
    name: String,
    directory: PathBuf,
    #[serde(flatten)]
    provenance: Provenance,
    /// Of a run without other settings, in f32; the copy's is the same.
    vector_space: Digest,
    files: Vec<source::Exported>,
    notes: Vec<String>,
}

impl Exported {
    /// Writes the model, and gives it its name only if it is the same model still.
    pub(super) fn new(files: ModelFiles, target: &Path, overwrite: bool) -> Result<Self, ModelsError> {
        let ModelFiles { name, directory, provenance, notes } = files;
        let failed = |source| ModelsError::Export { name: name.clone(), source };
        let spaces_of = |directory: &Path| spaces(directory).map_err(|fault| ModelsError::of_model(&name, fault));
        let expected = spaces_of(&directory)?;
        let export = Export::write(&directory, target, overwrite).map_err(failed)?;
        let found = spaces_of(export.partial())?;
        if found != expected {
            let [(found, _), (expected, _)] = [found, expected];
            let fault = format!("the copy has the vector_space {found} instead of {expected}; nothing was written");
            return Err(ModelsError::Faulty { name, faults: vec![fault] });
        }
        let (directory, files) = export.commit().map_err(failed)?;
        Ok(Self { name, directory, provenance, vector_space: expected.0, files, notes })
    }
}

/// The space of a run without other settings, and that of all kinds of vectors that the model gives.
fn spaces(directory: &Path) -> Result<(Digest, Digest), ModelFault> {
    let spec = ModelSpec::read(directory)?;
    let kinds: Vec<VectorKind> = spec.widths().kinds().collect();
    let tensors = Weights::of(&spec, &kinds)?.tensor_digests()?;
    let all = default_space(&spec, tensors.clone(), &kinds)?;
    Ok((default_space(&spec, tensors, &[spec.default_kind])?, all))
}

impl Report for Exported {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        let at = self.provenance.revision().map(|revision| format!(" at {revision}")).unwrap_or_default();
        for file in &self.files {
            writeln!(out, "{:>14}  {}  {}", file.bytes, file.sha256, file.path)?;
        }
        let (count, megabytes) = (self.files.len(), bytes as f64 / 1e6);
        writeln!(out, "{}: {count} files, {megabytes:.1} MB, {}{at}", self.name, self.provenance)?;
        writeln!(out, "vector_space {}", self.vector_space)?;
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
        writeln!(out, "{}", self.directory.display())
    }
}
