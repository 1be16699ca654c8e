//! Whether a model's files are whole and give the vectors that they should.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::list::count;
use super::reference::{self, Comparison};
use super::{ModelsError, Report, at_hand, inside};
use crate::config::Resolved;
use crate::domain::{Digest, VectorKind};
use crate::embedder::{ModelFault, default_space};
use crate::model::registry::{Entry, Registry};
use crate::model::source::{ModelFiles, Provenance, blob_digest};
use crate::model::spec::ModelSpec;
use crate::model::weights::Weights;

/// What `models verify` says.
#[derive(Debug, Serialize)]
pub(super) struct Verified {
    name: String,
    directory: PathBuf,
    #[serde(flatten)]
    provenance: Provenance,
    architecture: &'static str,
    parameters: u64,
    /// Of a run without other settings, in f32.
    vector_space: Digest,
    weights: Vec<File>,
    reference: Comparison,
    notes: Vec<String>,
    faults: Vec<String>,
}

#[derive(Debug, Serialize)]
struct File {
    path: String,
    sha256: Digest,
    /// Where the digest that it must have is known from; none if nobody says.
    checked_against: Option<&'static str>,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Serialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
}

impl Verified {
    /// Reads everything, and embeds what the reference says.
    pub(super) fn new(name: &str, resolved: &Resolved, registry: &Registry) -> Result<Self, ModelsError> {
        let files = at_hand(name, resolved, registry)?;
        let row = registry.find(name).filter(|_| files.provenance != Provenance::Local);
        Self::of(files, row).map_err(|fault| ModelsError::of_model(name, fault))
    }

    fn of(files: ModelFiles, row: Option<&Entry>) -> Result<Self, ModelFault> {
        let ModelFiles { name, directory, provenance, mut notes } = files;
        let spec = ModelSpec::read(&directory)?;
        let kinds: Vec<VectorKind> = spec.widths().kinds().collect();
        let weights = Weights::of(&spec, &kinds)?;
        let (digests, tensors) = weights.all_digests()?;
        let vector_space = default_space(&spec, tensors, &[spec.default_kind])?;
        let (listed, mut faults) = listed(&directory, &weights, digests, row)?;
        let reference = reference::compare(&directory, &spec, &weights)?;
        faults.extend(reference.faults.iter().cloned());
        notes.extend(spec.notes.iter().cloned());
        let (architecture, parameters) = (spec.architecture.as_str(), weights.numbers());
        let weights = listed;
        Ok(Self {
            name,
            directory,
            provenance,
            architecture,
            parameters,
            vector_space,
            weights,
            reference,
            notes,
            faults,
        })
    }

    /// An error if anything is not as it should be.
    pub(super) fn outcome(self) -> Result<(), ModelsError> {
        let Self { name, faults, .. } = self;
        if faults.is_empty() { Ok(()) } else { Err(ModelsError::Faulty { name, faults }) }
    }
}

/// Files with their tensors, and those whose digest is not the one that it should be.
fn listed(
    directory: &Path,
    weights: &Weights,
    digests: Vec<Digest>,
    row: Option<&Entry>,
) -> Result<(Vec<File>, Vec<String>), ModelFault> {
    let tensors = weights.tensors()?;
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    for (path, sha256) in weights.paths().into_iter().zip(digests) {
        let known = known_digest(path, directory, row);
        if let Some((expected, source)) = known.filter(|(expected, _)| *expected != sha256) {
            let path = path.display();
            faults.push(format!(
                "{path} has the digest {sha256}, but {source} says {expected}; delete it and fetch it again"
            ));
        }
        let own = tensors.iter().filter(|tensor| tensor.path == path).map(|tensor| Tensor {
            name: tensor.name.clone(),
            dtype: tensor.dtype.to_string(),
            shape: tensor.shape.clone(),
        });
        let checked_against = known.map(|(_, source)| source);
        files.push(File { path: inside(path, directory), sha256, checked_against, tensors: own.collect() });
    }
    Ok((files, faults))
}

/// The digest that a weight file must have, and who says so.
fn known_digest(path: &Path, directory: &Path, row: Option<&Entry>) -> Option<(Digest, &'static str)> {
    let package = row.and_then(|row| row.package.as_ref()).filter(|_| path == directory.join("model.safetensors"));
    package.map(|package| (package.weights_sha256, "the registry")).or_else(|| Some((blob_digest(path)?, "the hub")))
}

impl Report for Verified {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let parameters = count(self.parameters);
        writeln!(out, "{}: {}, {parameters} parameters, {}", self.name, self.architecture, self.provenance)?;
        writeln!(out, "{}", self.directory.display())?;
        writeln!(out, "vector_space {}", self.vector_space)?;
        for file in &self.weights {
            let checked = file.checked_against.map(|source| format!(" (checked against {source})")).unwrap_or_default();
            writeln!(out, "{} sha256 {}{checked}", file.path, file.sha256)?;
            for tensor in &file.tensors {
                writeln!(out, "  {:<5} {:<16} {}", tensor.dtype, format!("{:?}", tensor.shape), tensor.name)?;
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
        let Comparison { path, cases, vectors, largest_difference, tolerance, left_out, .. } = &self.reference;
        match path {
            Some(path) => writeln!(
                out,
                "{path}: {vectors} vectors in {cases} cases; largest difference {largest_difference:.1e} (at most \
                 {tolerance:.0e} is right)"
            )?,
            None => {
                writeln!(out, "all weights that the layers need are there; no reference.json to compare vectors with")?;
            }
        }
        if !left_out.is_empty() {
            writeln!(out, "not compared, for they hold no vectors of whole texts: {}", left_out.join(", "))?;
        }
        self.faults.iter().try_for_each(|fault| writeln!(out, "fault: {fault}"))?;
        if self.faults.is_empty() { writeln!(out, "as it should be") } else { Ok(()) }
    }
}
