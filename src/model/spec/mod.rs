//! `ModelSpec`: all that a model's directory says about how a text becomes a vector.
//!
//! Written to agree with what sentence-transformers does with the same directory. What it would do and this program
//! does not is an error here, before any weight is read.

mod after;
mod architecture;
mod colbert;
mod error;
mod files;
mod first;
mod heads;
mod modules;
mod prompt;
mod router;
#[cfg(test)]
mod tests;
mod tokenizer;
mod weight_files;
mod without_modules;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use self::after::width_after;
pub use self::after::{AfterPooling, Dense, DenseActivation};
pub use self::architecture::Architecture;
pub use self::error::SpecError;
use self::files::{LibraryConfig, Task};
use self::first::{vocabulary, with_table, with_transformer};
pub use self::heads::{Expansion, MultiHead, SparseHead, SpladeActivation, SpladePooling, SpladeStrategy, TextRole};
use self::modules::{First, PoolingStep};
pub use self::prompt::{Prompt, PromptChoice, PromptOrigin};
pub use self::router::Route;
use super::tokenizer_files::TokenizerFiles;
use crate::domain::{Digest, VectorKind, Widths};
pub use crate::model::pooling::Pooling;

/// What a model's directory says.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The directory that was read.
    pub directory: PathBuf,
    /// The architecture.
    pub architecture: Architecture,
    /// `config.json`, whole; the architecture takes its sizes and its activation from it.
    pub config: Map<String, Value>,
    /// Width of a token vector.
    pub hidden_size: usize,
    /// How token vectors become one; several are joined in this order. Empty where the model gives no such vector.
    pub pooling: Vec<Pooling>,
    /// What happens to the joined vector before it may be cut.
    pub after_pooling: Vec<AfterPooling>,
    /// Whether the vector is scaled to unit length at the end.
    pub normalize: bool,
    /// Length of a vector of a text before anything is cut off; 0 where the model gives none.
    pub dimension: usize,
    /// How many leading components of the finished vector the files keep, where those are not all.
    pub truncate_dim: Option<usize>,
    /// Where weights of the vocabulary come from, if the model gives them.
    pub sparse: Option<SparseHead>,
    /// Where vectors of tokens come from, if the model gives them.
    pub multi: Option<MultiHead>,
    /// The kind that the model is for.
    pub default_kind: VectorKind,
    /// Longest sequence in tokens, special tokens and prompt included; never more than there are positions.
    pub max_length: usize,
    /// How many positions there are, where that is a number.
    pub positions: Option<usize>,
    /// Whether the prompt's tokens are pooled.
    pub include_prompt: bool,
    /// Prompts by name; a text may be empty.
    pub prompts: BTreeMap<String, String>,
    /// The prompt that applies where no other does.
    pub default_prompt_name: Option<String>,
    /// How vectors are to be compared, as the directory says ("cosine", "dot", …).
    pub similarity: Option<String>,
    /// What `tokenizer.json` and the files beside it make together.
    pub tokenizer: TokenizerFiles,
    /// Whether its special tokens go around every text.
    pub special_tokens: bool,
    /// Weight files of the transformer, in the order of their names.
    pub weights: Vec<PathBuf>,
    /// The way of documents through a model that has another one for queries.
    pub route: Option<Route>,
    /// What a user should know about how the directory was understood.
    pub notes: Vec<String>,
}

impl ModelSpec {
    /// Reads a model's directory.
    ///
    /// # Errors
    /// When a file is missing or broken, or asks for something that is not implemented.
    pub fn read(directory: &Path) -> Result<Self, SpecError> {
        if !directory.join("modules.json").is_file() {
            // The reference library looks at none of its own files when there is no modules.json.
            return without_modules::read(directory);
        }
        let library_path = directory.join("config_sentence_transformers.json");
        let library = files::library_config(&library_path)?;
        let Some(steps) = modules::read(directory, &library)? else { return without_modules::read(directory) };
        let (mut prompts, default_prompt_name) = prompts(&library, &library_path)?;
        refuse_other_type(&library, &steps.kind, &library_path)?;
        let mut spec = match steps.kind {
            First::Transformer(ref pooling) => {
                let sentence = files::sentence_config(&steps.first, Task::Vectors)?;
                let spec = with_transformer(&steps.first, &sentence, pooling, Vec::new())?;
                let (sparse, multi) = heads::of_bge_m3(&steps.first, spec.hidden_size, vocabulary(&spec.config))?;
                ModelSpec { sparse, multi, ..spec }
            }
            First::MaskedLm(pooling) => {
                let sentence = files::sentence_config(&steps.first, Task::FillMask)?;
                let spec = with_transformer(&steps.first, &sentence, &PoolingStep::none(&steps.first), Vec::new())?;
                spec.with_masked_lm(pooling)?
            }
            First::Tokens(ref mask) => {
                let sentence = files::sentence_config(&steps.first, Task::Tokens)?;
                let spec = with_transformer(&steps.first, &sentence, &PoolingStep::none(&steps.first), Vec::new())?;
                let (first, after) = (&steps.first, steps.after.clone());
                let head = if let Some(mask) = mask {
                    colbert::native(first, after, spec.hidden_size, &sentence, mask)?
                } else {
                    let library = (&library, &*library_path);
                    let (head, found) = colbert::pylate(first, after, spec.hidden_size, &sentence, library, prompts)?;
                    prompts = found;
                    head
                };
                // The reference library gives every such model both, so that queries can be told from documents.
                for name in ["query", "document"] {
                    prompts.entry(name.to_owned()).or_default();
                }
                spec.with_tokens(head)
            }
            First::Static => with_table(&steps.first)?,
        };
        directory.clone_into(&mut spec.directory);
        if !spec.pooling.is_empty() {
            spec.finish_with(steps.after)?;
        }
        // Of the reference library's classes, only the one for vectors of texts knows the key.
        let cut = library
            .truncate_dim
            .map(NonZeroUsize::get)
            .filter(|_| matches!(steps.kind, First::Transformer(_) | First::Static));
        spec.truncate_dim = cut.filter(|dimension| *dimension < spec.dimension);
        if let Some(kept) = spec.truncate_dim {
            let note =
                format!("truncate_dim keeps {kept} of {} components; --truncate-dim overrules it", spec.dimension);
            spec.notes.push(format!("{}: {note}", library_path.display()));
        }
        if let Some(Route { document, query: Some(query), .. }) = &steps.route {
            let texts = format!("its texts take the way of documents ({document:?}), not that of queries ({query:?})");
            spec.notes.push(format!("{}: {texts}", directory.display()));
        }
        let similarity = library.similarity_fn_name;
        Ok(Self { prompts, default_prompt_name, similarity, route: steps.route, ..spec })
    }

    /// How vectors of some kinds come about, as outputs say it: the names of the poolings, or of what takes their place.
    pub fn pooling_names(&self, kinds: Widths) -> String {
        let dense = self.pooling.iter().map(|mode| mode.as_str()).collect::<Vec<_>>().join(" + ");
        let sparse = self.sparse.as_ref().map(|head| match head {
            SparseHead::MaskedLm { pooling, .. } => {
                let (strategy, activation) = pooling.names();
                format!("splade ({strategy}, {activation})")
            }
            SparseHead::TokenWeights { .. } => "token weights".to_owned(),
        });
        let multi = self.multi.as_ref().map(|_| "tokens".to_owned());
        let named = [(kinds.dense, Some(dense)), (kinds.sparse, sparse), (kinds.multi, multi)];
        named.into_iter().filter_map(|(width, name)| width.and(name)).collect::<Vec<_>>().join(", ")
    }

    /// Takes the steps after pooling, whose sizes must fit each other.
    fn finish_with(&mut self, mut after: Vec<AfterPooling>) -> Result<(), SpecError> {
        while after.last() == Some(&AfterPooling::Normalize) {
            after.pop();
            self.normalize = true;
        }
        self.dimension = width_after(&after, self.dimension)?;
        self.after_pooling = after;
        Ok(())
    }

    fn with_masked_lm(self, pooling: SpladePooling) -> Result<Self, SpecError> {
        if !self.architecture.has_masked_lm() {
            let what = format!("SPLADE with a {} model", self.architecture.as_str());
            return Err(SpecError::unsupported(&self.directory.join("config.json"), what));
        }
        let vocabulary = vocabulary(&self.config);
        let sparse = Some(SparseHead::MaskedLm { pooling, vocabulary });
        Ok(Self { sparse, dimension: 0, default_kind: VectorKind::Sparse, ..self })
    }

    fn with_tokens(self, head: MultiHead) -> Self {
        let spec = Self { multi: Some(head), dimension: 0, default_kind: VectorKind::Multi, ..self };
        let note = spec.queries_refused().map(|what| {
            format!(
                "{}: {what} are not supported, so that it embeds documents and no queries",
                spec.directory.display()
            )
        });
        let notes = spec.notes.into_iter().chain(note).collect();
        Self { notes, ..spec }
    }

    /// What queries are that cannot be embedded: elsewhere, a token may see only its neighbours, or none that is seen.
    fn queries_refused(&self) -> Option<String> {
        let expansion = self.multi.as_ref()?.expansion.filter(|expansion| !expansion.seen)?;
        let all_see_all = match self.architecture {
            Architecture::Bert
            | Architecture::DistilBert
            | Architecture::Electra
            | Architecture::Albert
            | Architecture::Roberta => true,
            Architecture::ModernBert => {
                let number = |key: &str| self.config.get(key).and_then(Value::as_u64);
                let window = number("sliding_window").unwrap_or(number("local_attention").unwrap_or(128) / 2);
                expansion.length as u64 <= window
            }
            _ => false,
        };
        (!all_see_all)
            .then(|| format!("queries filled up with unseen tokens in a {} model", self.architecture.as_str()))
    }

    /// What the model can give, each kind with its width.
    pub fn widths(&self) -> Widths {
        Widths {
            dense: (self.dimension > 0).then_some(self.truncate_dim.unwrap_or(self.dimension)),
            sparse: self.sparse.as_ref().map(SparseHead::vocabulary),
            multi: self.multi.as_ref().map(|head| head.dimension),
        }
    }

    /// What a text is under this prompt: a query if the prompt for queries was asked for by name, and the model treats
    /// them differently.
    pub fn role(&self, prompt: &Prompt) -> TextRole {
        let query = matches!(&prompt.origin, PromptOrigin::Asked(name) if name == "query");
        if query && self.multi.is_some() { TextRole::Query } else { TextRole::Document }
    }

    /// Longest text in tokens: what the model says for texts of this role, and never more than
    /// [`ModelSpec::max_length`] where that is what there are positions for.
    pub fn longest(&self, role: TextRole) -> usize {
        let Some(head) = &self.multi else { return self.max_length };
        let of_role = match role {
            TextRole::Document => head.document_length,
            TextRole::Query => match head.expansion {
                Some(expansion) if expansion.cuts => Some(expansion.length),
                _ => head.query_length,
            },
        };
        of_role.unwrap_or(self.max_length).min(self.positions.unwrap_or(usize::MAX))
    }

    /// The prompt that goes before every text. Without a choice, the first of `document`, `passage` and `corpus`
    /// that the directory has, else its default prompt, else none.
    ///
    /// # Errors
    /// When the model has no prompt of that name, or texts under it take another way than documents.
    pub fn prompt(&self, choice: &PromptChoice) -> Result<Prompt, SpecError> {
        if let (Some(Route { path, query: Some(query), .. }), PromptChoice::Named(name)) = (&self.route, choice)
            && name == "query"
        {
            return Err(SpecError::unsupported(path, format!("the way of queries ({query:?})")));
        }
        if let (Some(what), PromptChoice::Named(name)) = (self.queries_refused(), choice)
            && name == "query"
        {
            return Err(SpecError::unsupported(&self.directory.join("config.json"), what));
        }
        prompt::choose(choice, &self.prompts, self.default_prompt_name.as_deref()).map_err(|name| {
            SpecError::UnknownPrompt {
                directory: self.directory.clone(),
                name: name.to_owned(),
                known: self.prompts.keys().cloned().collect(),
            }
        })
    }

    /// Digest of the tokenizer.
    ///
    /// # Errors
    /// When its text is not that of a tokenizer.
    pub fn tokenizer_digest(&self) -> Result<Digest, SpecError> {
        self.tokenizer.digest()
    }
}

/// Refuses a directory whose modules are not those of the kind that it says it is.
fn refuse_other_type(library: &LibraryConfig, first: &First, path: &Path) -> Result<(), SpecError> {
    let model_type = library.model_type.as_deref().unwrap_or("SentenceTransformer");
    let fits = match first {
        First::Transformer(_) | First::Static => model_type == "SentenceTransformer",
        // Older files name none.
        First::MaskedLm(_) => model_type != "ColBERT" && model_type != "MultiVectorEncoder",
        First::Tokens(mask) => mask.is_some() == (model_type == "MultiVectorEncoder"),
    };
    if fits {
        Ok(())
    } else {
        Err(SpecError::unsupported(path, format!("a model of the kind {model_type} with such modules")))
    }
}

fn prompts(library: &LibraryConfig, path: &Path) -> Result<(BTreeMap<String, String>, Option<String>), SpecError> {
    let prompts: BTreeMap<String, String> = library
        .prompts
        .clone()
        .unwrap_or_default()
        .into_iter()
        .map(|(name, text)| (name, text.unwrap_or_default()))
        .collect();
    let default = library.default_prompt_name.clone().filter(|name| !name.is_empty());
    match default {
        // The reference library gives every model an empty prompt of these names.
        Some(name) if !prompts.contains_key(&name) && (name == "query" || name == "document") => Ok((prompts, None)),
        Some(name) if !prompts.contains_key(&name) => {
            Err(SpecError::invalid(path, format!("default_prompt_name {name:?} is not one of its prompts")))
        }
        default => Ok((prompts, default)),
    }
}
