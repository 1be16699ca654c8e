//! Why collections could not be embedded, and the exit code that stands for it.

use std::io;
use std::path::{Path, PathBuf};

use super::LimitOrigin;
use crate::arch::LoadError;
use crate::collection::DiscoverError;
use crate::config::{ConfigError, Resolved};
use crate::device::ChoiceError;
use crate::domain::{Digest, VectorKind};
use crate::exit;
use crate::fusion::{FUSED, FuseError, ShapeError};
use crate::lease::{DeviceKeyError, DirectoryError, LeaseError, PolicyError};
use crate::model::registry::RegistryError;
use crate::model::source::SourceError;
use crate::model::spec::SpecError;
use crate::model::weights::WeightError;
use crate::nn::GpuError;
use crate::output::{CommitError, LockError, OpenError, StorageError};
use crate::pipeline::{LaneError, PassError};
use crate::plan::Refusals;
use crate::prepare::TokenizerError;
use crate::telemetry::event::{Event, Observer};

/// Why collections could not be embedded. What was committed before stays.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The user's file of models cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// There is nothing to read.
    #[error(transparent)]
    Input(#[from] DiscoverError),
    /// A model could not be found, loaded or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// None of several models could; each has been told of.
    #[error("none of the {} models could be embedded with; the first: {}", .0.len(), .0.first().map(|error| with_causes(error)).unwrap_or_default())]
    Models(Vec<ModelError>),
    /// Two models would write into one directory.
    #[error("{one} and {other} would both write into directories called {directory}; embed them in separate runs")]
    SameName {
        /// One of them.
        one: String,
        /// The other.
        other: String,
        /// The directory.
        directory: String,
    },
    /// More tokens are asked for than the model takes.
    #[error(
        "--max-length {wanted} is more than the {limit} tokens that {model} takes; ask for at most {limit} ({origin})"
    )]
    TooLong {
        /// The model.
        model: String,
        /// What was asked for.
        wanted: usize,
        /// What there is.
        limit: usize,
        /// Who says so.
        origin: LimitOrigin,
    },
    /// More components are asked for than a vector has.
    #[error("--truncate-dim {wanted} is more than the {dimension} components of {model}; ask for at most {dimension}")]
    TooWide {
        /// The model.
        model: String,
        /// What was asked for.
        wanted: usize,
        /// What there is.
        dimension: usize,
    },
    /// Components are to be cut off, and there are no dense vectors.
    #[error(
        "--truncate-dim cuts dense vectors, and {model} is to give none; name another model (MODEL=N) or emit dense"
    )]
    NothingToCut {
        /// The model.
        model: String,
    },
    /// The layers cannot be computed in these numbers.
    #[error("--dtype {wanted} cannot be had here: {reason}; --dtype f32 always can")]
    Dtype {
        /// What was asked for.
        wanted: &'static str,
        /// Why not.
        reason: String,
    },
    /// The output directory is not to be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The output of an earlier run cannot be continued.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The models cannot be fused as asked for.
    #[error(transparent)]
    Shape(ShapeError),
    /// Fused vectors are there that were made in another way.
    #[error(
        "{} holds vectors that were fused in another way: other members, weights, method, formats or shards; remove the \
         directory {FUSED} of each collection to have them made anew from the members, which stay as they are",
        directory.display()
    )]
    FusedOtherwise {
        /// Where they are.
        directory: PathBuf,
    },
    /// A collection cannot be fused; the members' own vectors are there.
    #[error(transparent)]
    Fuse(Box<FuseError>),
    /// The pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// The devices asked for are not to be had.
    #[error("--devices: {0}")]
    Devices(#[from] ChoiceError),
    /// A GPU cannot be used.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A device has a name that cannot be leased.
    #[error(transparent)]
    DeviceName(#[from] DeviceKeyError),
    /// Waiting and not waiting.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// There is no directory of lock files.
    #[error(transparent)]
    LeaseDirectory(#[from] DirectoryError),
    /// The devices are not to be had.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The stream of events cannot be written.
    #[error("cannot write {} (free space there, make the directory writable, or choose another --output-dir)", path.display())]
    Events {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The summary cannot be written.
    #[error(transparent)]
    Summary(StorageError),
    /// What is written would be read.
    #[error("the output directory {} is inside of the input {}, and would be read as input; choose an --output-dir outside of it", output.display(), input.display())]
    OutputInside {
        /// The output root.
        output: PathBuf,
        /// The input root.
        input: PathBuf,
    },
    /// The system gives no thread.
    #[error("cannot start a thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(io::Error),
    /// The thread of the run panicked; its message is on standard error.
    #[error(
        "internal error: the run panicked, see above; what was committed is kept, and the same command goes on from there"
    )]
    Panicked,
}

/// Why one model could not be embedded with, while others may.
#[derive(Debug, thiserror::Error)]
#[error("model {model}: {fault}")]
pub struct ModelError {
    /// The model.
    pub model: String,
    /// Why.
    #[source]
    pub fault: Box<ModelFault>,
}

/// What is wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelFault {
    /// Its files cannot be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its directory asks for something that cannot be done.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A weight file cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A weight file in the hub's cache is not the one that its name says.
    #[error("{} in the hub's cache is damaged: its SHA-256 is {found} instead of {expected}; delete it and fetch it again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its digest.
        found: Digest,
        /// The digest that is its name.
        expected: Digest,
    },
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The weights do not make a model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It does not give what is asked for.
    #[error("{model} gives no {} vectors, which --emit asks for; it gives {gives}", asked.as_str())]
    Kind {
        /// The model.
        model: String,
        /// What was asked for.
        asked: VectorKind,
        /// What there is.
        gives: String,
    },
    /// It is too large.
    #[error("{0}")]
    DoesNotFit(Refusals),
    /// It failed while it ran.
    #[error(transparent)]
    Lane(#[from] LaneError),
}

impl From<FuseError> for EmbedError {
    fn from(error: FuseError) -> Self {
        match error {
            FuseError::Open(OpenError::Mismatch { path, .. }) => {
                Self::FusedOtherwise { directory: path.parent().map(Path::to_owned).unwrap_or_default() }
            }
            error => Self::Fuse(Box::new(error)),
        }
    }
}

impl EmbedError {
    /// The exit code that tells other programs what kind of error it is.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) => exit::INPUT,
            Self::Config(_)
            | Self::Registry(_)
            | Self::TooLong { .. }
            | Self::TooWide { .. }
            | Self::NothingToCut { .. }
            | Self::Dtype { .. }
            | Self::SameName { .. }
            | Self::OutputInside { .. }
            | Self::Devices(_)
            | Self::Gpu(_)
            | Self::DeviceName(_)
            | Self::Policy(_)
            | Self::Shape(_) => exit::USAGE,
            Self::Fuse(error) => fuse_exit_code(error),
            Self::Model(error) => error.exit_code(),
            Self::Models(errors) => errors.first().map_or(exit::INTERNAL, ModelError::exit_code),
            Self::Lock(LockError::OtherShares { .. }) => exit::RESUME_MISMATCH,
            Self::Lock(_)
            | Self::Open(OpenError::Storage(_))
            | Self::Events { .. }
            | Self::Summary(_)
            | Self::Lease(LeaseError::File(_))
            | Self::LeaseDirectory(_) => exit::OUTPUT,
            Self::Open(_) | Self::FusedOtherwise { .. } => exit::RESUME_MISMATCH,
            Self::Lease(_) => exit::LEASE,
            Self::Pass(error) => pass_exit_code(error),
            Self::Thread(_) | Self::Panicked => exit::INTERNAL,
        }
    }
}

impl ModelError {
    pub(super) fn new(model: &str, fault: impl Into<ModelFault>) -> Self {
        Self { model: model.to_owned(), fault: Box::new(fault.into()) }
    }

    /// Tells of it, if others go on. The failure of the only model is that of the run.
    pub(super) fn tell(&self, resolved: &Resolved, observer: &dyn Observer) {
        if resolved.ensemble.models.len() > 1 {
            let (model, error) = (self.model.clone(), with_causes(self));
            observer.observe(&Event::PassFailed { model, error, exit_code: self.exit_code() });
        }
    }

    /// The exit code that tells other programs what kind of error it is.
    pub fn exit_code(&self) -> u8 {
        match *self.fault {
            ModelFault::DoesNotFit(_) => exit::MEMORY,
            ModelFault::Lane(LaneError::Panicked) => exit::INTERNAL,
            _ => exit::MODEL,
        }
    }
}

fn pass_exit_code(error: &PassError) -> u8 {
    match error {
        PassError::InputChanged(_)
        | PassError::Commit(CommitError::InputDiffers { .. } | CommitError::LedgerLost { .. }) => exit::RESUME_MISMATCH,
        PassError::Commit(CommitError::Invalid { .. } | CommitError::RowsLost { .. }) | PassError::Panicked { .. } => {
            exit::INTERNAL
        }
        PassError::DevicesLost => exit::LEASE,
        PassError::Commit(_) => exit::OUTPUT,
    }
}

fn fuse_exit_code(error: &FuseError) -> u8 {
    match error {
        FuseError::Shape(_) | FuseError::Weights(_) => exit::USAGE,
        FuseError::Read(_) | FuseError::Ledger(_) | FuseError::Commit(_) | FuseError::Open(OpenError::Storage(_)) => {
            exit::OUTPUT
        }
        _ => exit::RESUME_MISMATCH,
    }
}

/// An error and all that caused it, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Transparent errors repeat their source.
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    message
}
