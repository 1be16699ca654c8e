//! A model as a directory for a machine without a network.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{ModelsError, Report};
use crate::domain::{Digest, VectorKind};
use crate::embedder::ModelFault;
use crate::model::source::{self, Export, ModelFiles, Provenance};
use crate::model::spec::{ModelSpec, PromptChoice};
use crate::model::vector_space::{self, DtypeClass, vector_space};
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
        let space_of = |directory: &Path| space(directory).map_err(|fault| ModelsError::of_model(&name, fault));
        let vector_space = space_of(&directory)?;
        let export = Export::write(&directory, target, overwrite).map_err(failed)?;
        let found = space_of(export.partial())?;
        if found != vector_space {
            let fault = format!("the copy has the vector_space {found} instead of {vector_space}; nothing was written");
            return Err(ModelsError::Faulty { name, faults: vec![fault] });
        }
        let (directory, files) = export.commit().map_err(failed)?;
        Ok(Self { name, directory, provenance, vector_space, files, notes })
    }
}

fn space(directory: &Path) -> Result<Digest, ModelFault> {
    let spec = ModelSpec::read(directory)?;
    let widths = spec.widths();
    let kinds: Vec<VectorKind> = widths.kinds().collect();
    let settings = vector_space::Settings {
        weights: Weights::of(&spec, &kinds)?.digests(),
        tokenizer: spec.tokenizer_digest()?,
        prompt: spec.prompt(&PromptChoice::Default)?,
        max_length: spec.max_length,
        widths,
        normalized: spec.normalize,
        dtype: DtypeClass::F32,
    };
    Ok(vector_space(&spec, &settings))
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
