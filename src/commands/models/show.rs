//! What the registry says of a model, and what its own directory says.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::list::count;
use super::{ModelsError, Report, at_hand, inside};
use crate::config::Resolved;
use crate::domain::{VectorKind, Widths};
use crate::model::registry::{Entry, Registry};
use crate::model::source::{ModelFiles, Provenance};
use crate::model::spec::{AfterPooling, ModelSpec, PromptChoice, TextRole};

/// What `models show` says.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    name: String,
    /// The row; none of a directory or a hub id without one.
    registry: Option<Entry>,
    /// None if the files are not on this machine.
    files: Option<Files>,
}

#[derive(Debug, Serialize)]
struct Files {
    directory: PathBuf,
    #[serde(flatten)]
    provenance: Provenance,
    architecture: &'static str,
    pooling: Vec<&'static str>,
    after_pooling: Vec<String>,
    normalize: bool,
    /// Length of a dense vector; 0 if the model gives none.
    dimension: usize,
    /// The kinds of vectors that it gives, with their widths.
    emit: BTreeMap<&'static str, usize>,
    /// The kind that is written unless told otherwise.
    default_emit: VectorKind,
    max_length: usize,
    prompts: BTreeMap<String, String>,
    default_prompt_name: Option<String>,
    /// Put before every document unless told otherwise.
    prompt: String,
    include_prompt: bool,
    similarity: Option<String>,
    weights: Vec<String>,
    notes: Vec<String>,
}

impl Shown {
    /// Reads the directory if it is on this machine.
    pub(super) fn new(name: &str, resolved: &Resolved, registry: &Registry) -> Result<Self, ModelsError> {
        match at_hand(name, resolved, registry) {
            Ok(files) => {
                // A directory is what it is, also where a row has its name.
                let row = registry.find(name).filter(|_| files.provenance != Provenance::Local);
                let spec = ModelSpec::read(&files.directory).map_err(|error| ModelsError::of_model(name, error))?;
                let prompt = spec.prompt(&PromptChoice::Default).map_err(|error| ModelsError::of_model(name, error))?;
                let name = files.name.clone();
                Ok(Self { name, registry: row.cloned(), files: Some(Files::new(files, spec, prompt.text)) })
            }
            Err(error @ ModelsError::NotHere { .. }) => match registry.find(name) {
                Some(row) => Ok(Self { name: row.name.clone(), registry: Some(row.clone()), files: None }),
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}

impl Files {
    fn new(files: ModelFiles, spec: ModelSpec, prompt: String) -> Self {
        let mut notes = files.notes;
        notes.extend(spec.notes.iter().cloned());
        Self {
            architecture: spec.architecture.as_str(),
            pooling: spec.pooling.iter().map(|mode| mode.as_str()).collect(),
            after_pooling: spec.after_pooling.iter().map(described).collect(),
            normalize: spec.normalize,
            dimension: spec.dimension,
            emit: emit(spec.widths()),
            default_emit: spec.default_kind,
            max_length: spec.longest(TextRole::Document),
            prompts: spec.prompts,
            default_prompt_name: spec.default_prompt_name,
            prompt,
            include_prompt: spec.include_prompt,
            similarity: spec.similarity,
            weights: spec.weights.iter().map(|path| inside(path, &files.directory)).collect(),
            notes,
            directory: files.directory,
            provenance: files.provenance,
        }
    }
}

fn emit(widths: Widths) -> BTreeMap<&'static str, usize> {
    widths.kinds().filter_map(|kind| Some((kind.as_str(), widths.of(kind)?))).collect()
}

fn described(step: &AfterPooling) -> String {
    match step {
        AfterPooling::Normalize => "normalize".to_owned(),
        AfterPooling::Dense(dense) => {
            format!("dense {} -> {} ({})", dense.inputs, dense.outputs, dense.activation.as_str())
        }
    }
}

impl Report for Shown {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.name)?;
        if let Some(row) = &self.registry {
            write_row(row, out)?;
        }
        match &self.files {
            Some(files) => files.write_text(out),
            None => {
                writeln!(out, "not on this machine; `embed-collections models pull {}` fetches it", self.name)
            }
        }
    }
}

fn write_row(row: &Entry, out: &mut dyn Write) -> io::Result<()> {
    let from = row.file.as_ref().map_or_else(|| "built in".to_owned(), |file| file.display().to_string());
    writeln!(out, "registry ({from})")?;
    let mut lines = vec![("hub", format!("{} at {}", row.hub, row.revision))];
    if !row.aliases.is_empty() {
        lines.push(("aliases", row.aliases.join(", ")));
    }
    let layers = format!("{}, {} layers, {} parameters", row.architecture, row.layers, count(row.parameters));
    lines.push(("architecture", layers));
    lines.push(("dimension", row.dimension.to_string()));
    lines.push(("longest text", format!("{} tokens", row.max_tokens)));
    lines.extend(row.package.as_ref().map(|package| ("package", format!("{} {}", package.name, package.version))));
    lines.extend(row.advice.clone().map(|advice| ("advice", advice)));
    write_lines(&lines, out)
}

impl Files {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "directory {} ({})", self.directory.display(), self.provenance)?;
        let mut lines = vec![("architecture", self.architecture.to_owned())];
        if self.dimension > 0 {
            lines.push(("pooling", self.pooling.join(" + ")));
            lines.extend(self.after_pooling.iter().map(|step| ("then", step.clone())));
            lines.push(("normalised", if self.normalize { "yes" } else { "no" }.to_owned()));
            lines.push(("dimension", self.dimension.to_string()));
        }
        if self.emit.len() > 1 || self.dimension == 0 {
            let kinds: Vec<String> = self.emit.iter().map(|(kind, width)| format!("{kind} ({width})")).collect();
            lines
                .push(("gives", format!("{}; {} unless told otherwise", kinds.join(", "), self.default_emit.as_str())));
        }
        lines.push(("longest text", format!("{} tokens", self.max_length)));
        lines.push(("weights", self.weights.join(", ")));
        for (name, text) in &self.prompts {
            let default = if self.default_prompt_name.as_ref() == Some(name) { " (default)" } else { "" };
            lines.push(("prompt", format!("{name}{default}: {text:?}")));
        }
        lines.push((
            "before documents",
            if self.prompt.is_empty() { "nothing".to_owned() } else { format!("{:?}", self.prompt) },
        ));
        if !self.include_prompt {
            lines.push(("prompt tokens", "read and not pooled".to_owned()));
        }
        lines.extend(self.similarity.clone().map(|similarity| ("compared by", similarity)));
        lines.extend(self.notes.iter().map(|note| ("note", note.clone())));
        write_lines(&lines, out)
    }
}

fn write_lines(lines: &[(&str, String)], out: &mut dyn Write) -> io::Result<()> {
    lines.iter().try_for_each(|(subject, text)| writeln!(out, "  {subject:<17} {text}"))
}
