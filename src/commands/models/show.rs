//! What the registry says of a model, and what its own directory says.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::list::{count, kinds, limit};
use super::{ModelsError, Report, at_hand, inside};
use crate::config::Resolved;
use crate::domain::{VectorKind, Widths};
use crate::embedder::{ModelFault, peek_files};
use crate::model::registry::{Entry, Registry};
use crate::model::source::{Provenance, SourceError};
use crate::model::spec::{AfterPooling, ModelSpec, PromptChoice, SpecError, TextRole};
use crate::telemetry::Log;

/// What `models show` says.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    name: String,
    /// The row; none of a directory or a hub id without one.
    registry: Option<Entry>,
    /// None if the files are not on this machine, and the hub did not tell.
    files: Option<Files>,
    /// What the hub said instead.
    hub: Option<String>,
}

#[derive(Debug, Serialize)]
struct Files {
    /// None if the weights are not on this machine.
    directory: Option<PathBuf>,
    /// What embedding would fetch of weights and other files; none if they are here.
    bytes_to_fetch: Option<u64>,
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
    /// Reads the directory if it is on this machine; else asks the hub for all but the weights.
    pub(super) fn new(name: &str, resolved: &Resolved, registry: &Registry) -> Result<Self, ModelsError> {
        let fault = |error| ModelsError::of_model(name, ModelFault::Spec(error));
        let not_here = match at_hand(name, resolved, registry) {
            Ok(files) => {
                // A directory is what it is, also where a row has its name.
                let row = registry.find(name).filter(|_| files.provenance != Provenance::Local);
                let own_name = files.name.clone();
                let files = Files::read(&files.directory, files.provenance, files.notes).map_err(fault)?;
                return Ok(Self { name: own_name, registry: row.cloned(), files: Some(files), hub: None });
            }
            Err(error @ ModelsError::NotHere { .. }) => error,
            Err(error) => return Err(error),
        };
        let row = registry.find(name);
        let own_name = row.map_or(name, |row| &row.name).to_owned();
        let peek = match peek_files(name, resolved, registry, &Log::default()) {
            Ok(peek) => peek,
            Err(SourceError::Unavailable { tried, .. }) if row.is_some() => {
                let hub = tried.first().map(ToString::to_string);
                return Ok(Self { name: own_name, registry: row.cloned(), files: None, hub });
            }
            Err(_) if resolved.settings.offline => return Err(not_here),
            Err(error) => return Err(ModelsError::of_model(name, error)),
        };
        let files = Files::read(peek.directory(), peek.provenance.clone(), Vec::new()).map_err(fault)?;
        let bytes_to_fetch = Some(peek.sizes.iter().map(|(_, bytes)| bytes).sum());
        let files = Files { directory: None, bytes_to_fetch, ..files };
        Ok(Self { name: own_name, registry: row.cloned(), files: Some(files), hub: None })
    }
}

impl Files {
    fn read(directory: &Path, provenance: Provenance, mut notes: Vec<String>) -> Result<Self, SpecError> {
        let spec = ModelSpec::read(directory)?;
        let prompt = spec.prompt(&PromptChoice::Default)?.text;
        notes.extend(spec.notes.iter().cloned());
        Ok(Self {
            directory: Some(directory.to_owned()),
            bytes_to_fetch: None,
            provenance,
            architecture: spec.architecture.as_str(),
            pooling: spec.pooling.iter().map(|mode| mode.as_str()).collect(),
            after_pooling: spec.after_pooling.iter().map(described).collect(),
            normalize: spec.normalize,
            dimension: spec.widths().dense.unwrap_or_default(),
            emit: emit(spec.widths()),
            default_emit: spec.default_kind,
            max_length: spec.longest(TextRole::Document),
            prompts: spec.prompts,
            default_prompt_name: spec.default_prompt_name,
            prompt,
            include_prompt: spec.include_prompt,
            similarity: spec.similarity,
            weights: spec.weights.iter().map(|path| inside(path, directory)).collect(),
            notes,
        })
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
        if let Some(files) = &self.files {
            files.write_text(&self.name, out)
        } else {
            writeln!(out, "not on this machine; `embed-collections models pull {}` fetches it", self.name)?;
            self.hub.iter().try_for_each(|hub| writeln!(out, "  no more is known: {hub}"))
        }
    }
}

fn write_row(row: &Entry, out: &mut dyn Write) -> io::Result<()> {
    let from = row.file.as_ref().map_or_else(|| "built in".to_owned(), |file| file.display().to_string());
    writeln!(out, "registry ({from})")?;
    let mut lines = vec![("hub", format!("{} at {}", row.hub, row.revision_in_words()))];
    if !row.aliases.is_empty() {
        lines.push(("aliases", row.aliases.join(", ")));
    }
    let layers = format!("{}, {} layers, {} parameters", row.architecture, row.layers, count(row.parameters));
    lines.push(("architecture", layers));
    lines.push(("gives", kinds(row)));
    lines.push(("dimension", row.dimension.to_string()));
    lines.push(("longest text", format!("{} tokens", limit(row))));
    lines.extend(row.package.as_ref().map(|package| ("package", format!("{} {}", package.name, package.version))));
    lines.extend(row.advice.clone().map(|advice| ("advice", advice)));
    write_lines(&lines, out)
}

impl Files {
    fn write_text(&self, name: &str, out: &mut dyn Write) -> io::Result<()> {
        let at = self.provenance.revision().map(|revision| format!(" at {revision}")).unwrap_or_default();
        if let Some(directory) = &self.directory {
            writeln!(out, "directory {} ({}{at})", directory.display(), self.provenance)?;
        } else {
            let megabytes = self.bytes_to_fetch.unwrap_or(0) as f64 / 1e6;
            writeln!(out, "not on this machine; `embed-collections models pull {name}` fetches {megabytes:.1} MB")?;
            writeln!(out, "{}{at}", self.provenance)?;
        }
        let mut lines = vec![("architecture", self.architecture.to_owned())];
        if self.dimension > 0 {
            lines.push(("pooling", self.pooling.join(" + ")));
            lines.extend(self.after_pooling.iter().map(|step| ("then", step.clone())));
            lines.push(("normalised", if self.normalize { "yes" } else { "no" }.to_owned()));
            lines.push(("dimension", self.dimension.to_string()));
        }
        if self.emit.len() > 1 || self.dimension == 0 {
            let kinds: Vec<String> = self.emit.iter().map(|(kind, width)| format!("{kind} ({width})")).collect();
            let gives = format!("{}; {} unless told otherwise", kinds.join(", "), self.default_emit.as_str());
            lines.push(("gives", gives));
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
