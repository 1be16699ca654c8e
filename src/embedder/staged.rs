//! A model that is ready to be loaded: its directory is read, its weights are mapped, nothing is on a device.

use std::time::Instant;

use super::arithmetic::Computation;
use super::{EmbedError, LimitOrigin, ModelError, ModelFault};
use crate::config::{Dtype, Resolved, Settings};
use crate::domain::{Bytes, Digest, Fetching, VectorKind, Widths};
use crate::encoder::HeadOptions;
use crate::model::registry::Registry;
use crate::model::source::{
    self, HubCache, ModelFiles, Network, Peek, Provenance, SourceError, SourceRequest, blob_digest,
    default_pip_commands,
};
use crate::model::spec::{ModelSpec, PromptChoice, SparseHead, TextRole};
use crate::model::vector_space::{ModelDigests, Scale, vector_space};
use crate::model::weights::Weights;
use crate::model::{Footprint, Profile};
use crate::nn::cpu::gemm::Kernel;
use crate::nn::{LARGEST_FUSED_HEAD, Numbers, VOCABULARY_BYTES};
use crate::output::{Existing, Plan, PlannedShare, directory_name};
use crate::plan::{Footprints, Need};
use crate::prepare::Tokenizer;
use crate::telemetry::event::{Event, Observer, PassInfo};

/// A model that is ready to be loaded.
pub(super) struct Staged {
    pub spec: ModelSpec,
    pub weights: Weights,
    pub tokenizer: Tokenizer,
    /// How it is asked; the tokenizer is for it.
    pub profile: Profile,
    pub footprint: Footprint,
    /// Most sequences in a batch, if that was asked for.
    pub batch_size: Option<usize>,
    /// How its layers are computed on the processor.
    pub kernel: Kernel,
    /// Its place in the ensemble, from 0.
    pub place: u32,
    /// In what on GPUs, where it is computed there.
    pub numbers: Option<Numbers>,
    /// What is known of its passes; devices and batches are those of a turn.
    pub info: PassInfo,
}

/// Why a model is not ready.
pub(super) enum Unstaged {
    /// It alone cannot be used.
    Fault(ModelError),
    /// What is asked of it makes no sense, so that no work should begin.
    Usage(EmbedError),
}

impl Staged {
    /// Finds, reads and maps a model, fetching its files if need be.
    pub(super) fn new(
        asked: &str,
        resolved: &Resolved,
        registry: &Registry,
        computation: Computation,
        observer: &dyn Observer,
    ) -> Result<Self, Unstaged> {
        let start = Instant::now();
        let fault = |fault: ModelFault| Unstaged::Fault(ModelError::new(asked, fault));
        let files = find_files(asked, resolved, registry, observer).map_err(|error| fault(error.into()))?;
        // A directory may be written in many ways; its name is what outputs are called after.
        let name = match files.provenance {
            Provenance::Local => {
                directory_name(&files.directory.canonicalize().unwrap_or(files.directory.clone()).to_string_lossy())
            }
            _ => files.name.clone(),
        };
        let spec = ModelSpec::read(&files.directory).map_err(|error| fault(error.into()))?;
        for note in files.notes.iter().chain(&spec.notes) {
            observer.observe(&Event::ModelNote { model: name.clone(), note: note.clone() });
        }
        let options = ModelOptions::of(asked, &name, &spec, &resolved.settings).map_err(Unstaged::Usage)?;
        let place = resolved.ensemble.models.iter().position(|model| model == asked).unwrap_or_default();
        let staged = Self::read(name, &files, spec, &options, computation).map_err(fault)?;
        let staged = Self { place: u32::try_from(place).unwrap_or(u32::MAX), ..staged };
        observer.observe(&Event::ModelStaged {
            model: staged.info.model.clone(),
            bytes: staged.weights.bytes(),
            seconds: start.elapsed().as_secs_f64(),
        });
        Ok(staged)
    }

    fn read(
        name: String,
        files: &ModelFiles,
        spec: ModelSpec,
        options: &ModelOptions,
        computation: Computation,
    ) -> Result<Self, ModelFault> {
        let profile = options.profile(&name, &spec)?;
        let weights = Weights::of(&spec, &profile.kinds)?;
        let tokenizer = || -> Result<_, ModelFault> { Ok((spec.tokenizer_digest()?, Tokenizer::of(&spec, &profile)?)) };
        let (digests, tokenizer) = rayon::join(|| weights.all_digests(), tokenizer);
        let (digests, tensors) = digests?;
        check_names(&weights, &digests)?;
        let (tokenizer_digest, tokenizer) = tokenizer?;
        let left_out = if spec.include_prompt { 0 } else { tokenizer.prompt_tokens()? };
        let profile = Profile { left_out, ..profile };
        let Computation { numbers, kernel, class: dtype } = computation;
        let widths = profile.widths(&spec);
        let space = vector_space(&spec, &ModelDigests { tensors, tokenizer: tokenizer_digest }, &profile, dtype);
        let info = PassInfo {
            model: name,
            source: files.provenance.to_string(),
            revision: files.provenance.revision().map(str::to_owned),
            weights_sha256: digests,
            vector_space: space,
            emit: profile.kinds.clone(),
            dimension: widths.dense.unwrap_or_default(),
            sparse_dimension: widths.sparse,
            multi_dimension: widths.multi,
            dtype: dtype.as_str().to_owned(),
            pooling: spec.pooling_names(widths),
            normalize: profile.scale() == Scale::Unit,
            max_length: profile.max_length,
            prompt: profile.prompt.text.clone(),
            threads: 0,
            batch_tokens: options.batch_tokens,
            batch_size: options.batch_size.unwrap_or(options.batch_tokens),
            devices: Vec::new(),
        };
        let footprint = Footprint::new(&spec, &weights, widths);
        let batch_size = options.batch_size;
        Ok(Self { spec, weights, tokenizer, profile, footprint, batch_size, kernel, numbers, place: 0, info })
    }

    /// What an encoder needs beside its layers.
    pub(super) fn heads(&self) -> HeadOptions<'_> {
        HeadOptions { kinds: &self.profile.kinds, instructions: self.kernel.instructions() }
    }

    /// Its name in outputs.
    pub(super) fn name(&self) -> &str {
        &self.info.model
    }

    /// The kinds of vectors that it is to give, and their widths.
    pub(super) fn widths(&self) -> Widths {
        let PassInfo { dimension, sparse_dimension, multi_dimension, .. } = self.info;
        Widths { dense: (dimension > 0).then_some(dimension), sparse: sparse_dimension, multi: multi_dimension }
    }

    /// What planning needs to know of it.
    pub(super) fn need(&self, settings: &Settings) -> Need {
        Need {
            model: self.name().to_owned(),
            max_length: self.info.max_length,
            batch_tokens: self.info.batch_tokens,
            batch_size: self.batch_size,
            footprints: Footprints { cpu: self.footprint, gpu: self.gpu_footprint(settings) },
        }
    }

    /// Its memory on a GPU: two bytes a number unless f32 is asked for, and the tile of the vocabulary that the head of a
    /// masked language model needs whatever the batch.
    pub(super) fn gpu_footprint(&self, settings: &Settings) -> Footprint {
        if settings.rehearse {
            return self.footprint;
        }
        let mut footprint = if settings.dtype == Dtype::F32 { self.footprint } else { self.footprint.in_numbers_of(2) };
        let weighs =
            matches!(self.spec.sparse, Some(SparseHead::MaskedLm { .. })) && self.profile.asks_for(VectorKind::Sparse);
        if weighs {
            footprint.weights = Bytes(footprint.weights.0.saturating_add(VOCABULARY_BYTES));
        }
        // A build has kernels for one kind of GPUs, and finds no other.
        if cfg!(feature = "cuda") { footprint.with_fused_attention(&self.spec, LARGEST_FUSED_HEAD) } else { footprint }
    }

    /// Rows of its shards: as many as the settings ask for, and fewer where vectors of tokens would take too much memory.
    pub(super) fn shard_rows(&self, settings: &Settings) -> u32 {
        rows_within(settings.part_rows, self.info.multi_dimension, self.info.max_length)
    }

    /// What it is to write.
    pub(super) fn plan(&self, settings: &Settings) -> Plan {
        let Self { info, .. } = self;
        let provenance = serde_json::json!({
            "source": info.source,
            "revision": info.revision,
            "weights_sha256": info.weights_sha256,
            "dtype": info.dtype,
            "pooling": info.pooling,
            "normalize": info.normalize,
            "max_length": info.max_length,
            "prompt": info.prompt,
        });
        Plan {
            model: info.model.clone(),
            vector_space: info.vector_space.to_string(),
            widths: self.widths(),
            shard_rows: self.shard_rows(settings),
            formats: settings.format.clone(),
            provenance: provenance.as_object().cloned().unwrap_or_default(),
            existing: existing(settings),
            share: settings.share().map(|share| PlannedShare { share, model_place: self.place }),
        }
    }
}

/// Refuses weights that are not what the hub gave. Their digests are needed anyway.
fn check_names(weights: &Weights, digests: &[Digest]) -> Result<(), ModelFault> {
    for (path, found) in weights.paths().into_iter().zip(digests) {
        if let Some(expected) = blob_digest(path).filter(|expected| expected != found) {
            let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            return Err(ModelFault::Changed { path, found: *found, expected });
        }
    }
    Ok(())
}

/// Most bytes of the vectors of tokens in a shard of texts as long as chunks are.
const MULTI_BYTES: usize = 256 << 20;

/// Tokens of a long chunk. Models that take more are rarely given more, and shards of a few rows would be no good to
/// anybody else.
const CHUNK_TOKENS: usize = 512;

/// `wanted` rows, or the power of two below that keeps vectors of tokens within [`MULTI_BYTES`]. It depends on settings and
/// model alone, as the bounds of shards must.
fn rows_within(wanted: u32, multi_dimension: Option<usize>, max_length: usize) -> u32 {
    let Some(dimension) = multi_dimension else { return wanted };
    let row_bytes = dimension * max_length.min(CHUNK_TOKENS) * size_of::<f32>();
    let rows = u32::try_from(MULTI_BYTES / row_bytes.max(1)).unwrap_or(u32::MAX).max(1);
    if wanted <= rows { wanted } else { 1 << rows.ilog2() }
}

/// What to do with an output that is there.
pub(super) fn existing(settings: &Settings) -> Existing {
    match (settings.overwrite, settings.resume || settings.incremental) {
        (true, _) => Existing::Overwrite,
        (false, true) => Existing::Resume,
        (false, false) => Existing::Refuse,
    }
}

/// What the user asks of one model.
struct ModelOptions {
    prompt: PromptChoice,
    max_length: usize,
    truncate_dim: Option<usize>,
    batch_tokens: usize,
    batch_size: Option<usize>,
    /// Empty for what the model is for.
    emit: Vec<VectorKind>,
}

impl ModelOptions {
    fn profile(&self, name: &str, spec: &ModelSpec) -> Result<Profile, ModelFault> {
        let profile = Profile::new(spec, spec.prompt(&self.prompt)?).cut_to(self.truncate_dim);
        let gives = spec.widths();
        let kinds = if self.emit.is_empty() { profile.kinds } else { gives.only(&self.emit).kinds().collect() };
        match self.emit.iter().find(|kind| gives.of(**kind).is_none()) {
            Some(kind) => Err(ModelFault::Kind { model: name.to_owned(), asked: *kind, gives: gives.to_string() }),
            None => Ok(Profile { kinds, max_length: self.max_length, ..profile }),
        }
    }

    fn of(asked: &str, name: &str, spec: &ModelSpec, settings: &Settings) -> Result<Self, EmbedError> {
        let model = || name.to_owned();
        let truncate_dim = settings.truncate_dim.of(asked);
        if let Some(wanted) = truncate_dim.filter(|wanted| spec.dimension > 0 && *wanted > spec.dimension) {
            return Err(EmbedError::TooWide { model: model(), wanted, dimension: spec.dimension });
        }
        let emit = settings.emit.clone();
        let dense = emit.contains(&VectorKind::Dense) || (emit.is_empty() && spec.default_kind == VectorKind::Dense);
        if truncate_dim.is_some() && !dense {
            return Err(EmbedError::NothingToCut { model: model() });
        }
        let prompt = match (&settings.prompt, &settings.prompt_name) {
            (Some(text), _) => PromptChoice::Text(text.clone()),
            (None, Some(name)) => PromptChoice::Named(name.clone()),
            (None, None) => PromptChoice::Default,
        };
        // A prompt that is not there is told of when it is to be used.
        let role = spec.prompt(&prompt).map_or(TextRole::Document, |prompt| spec.role(&prompt));
        let limit = spec.longest(role);
        let max_length = match settings.max_length {
            Some(wanted) if wanted > limit => {
                let origin = LimitOrigin::of(spec, limit);
                return Err(EmbedError::TooLong { model: model(), wanted, limit, origin });
            }
            Some(wanted) => wanted,
            None => limit,
        };
        let (batch_tokens, batch_size) = (settings.batch_tokens, settings.batch_size.of(asked));
        Ok(Self { prompt, max_length, truncate_dim, batch_tokens, batch_size, emit })
    }
}

/// Finds the model's files, fetching them if need be.
///
/// # Errors
/// [`SourceError`], with all that was tried.
pub fn find_files(
    name: &str,
    resolved: &Resolved,
    registry: &Registry,
    observer: &dyn Observer,
) -> Result<ModelFiles, SourceError> {
    asking(name, resolved, registry, |request| {
        source::resolve(request, &|what| observer.observe(&fetching(name, what)))
    })
}

/// Asks the hub what a model is, without its weights.
///
/// # Errors
/// [`SourceError`], with what the hub says.
pub fn peek_files(
    name: &str,
    resolved: &Resolved,
    registry: &Registry,
    observer: &dyn Observer,
) -> Result<Peek, SourceError> {
    asking(name, resolved, registry, |request| source::peek(request, &|what| observer.observe(&fetching(name, what))))
}

/// Hands on a request as the settings have it.
fn asking<T>(name: &str, resolved: &Resolved, registry: &Registry, ask: impl FnOnce(&SourceRequest<'_>) -> T) -> T {
    let Resolved { settings, places, .. } = resolved;
    let hub_home = settings.hf_cache_dir.clone().unwrap_or_else(|| places.cache.join("huggingface"));
    let hub_cache = match &settings.hf_hub_cache {
        Some(cache) => HubCache::HfHubCache(cache.clone()),
        None => HubCache::HfHome(hub_home.clone()),
    };
    // Where `hf auth login` puts it.
    let stored = std::fs::read_to_string(places.hub_token.clone().unwrap_or_else(|| hub_home.join("token"))).ok();
    let stored = stored.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    let request = SourceRequest {
        name,
        registry,
        revision: None,
        home: places.home.as_deref(),
        hub_cache,
        endpoint: settings.hf_endpoint.as_deref().unwrap_or("https://huggingface.co"),
        token: settings.hf_token.as_deref().or(stored.as_deref()),
        network: if settings.offline { Network::Offline } else { Network::Online },
        own_cache: &places.cache.join("embed-collections"),
        pip: &default_pip_commands(),
    };
    ask(&request)
}

fn fetching(model: &str, what: Fetching) -> Event {
    Event::ModelFetching { model: model.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(multi_dimension: Option<usize>, max_length: usize, expected: u32) {
        assert_eq!(rows_within(1024, multi_dimension, max_length), expected);
    }

    #[test]
    fn shards_of_token_vectors_have_fewer_rows_where_they_are_large() {
        check(None, 8192, 1024);
        check(Some(128), 512, 1024);
        check(Some(129), 512, 512);
        check(Some(1024), 8192, 128);
        check(Some(1024), 32, 1024);
        check(Some(usize::MAX >> 20), 512, 1);
    }
}
