//! `embed-collections` without a sub-command: embeds collections with one model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::machine::{cores, this_machine};
use crate::batch::BatchLimits;
use crate::collection::{self, Collection, Discovery};
use crate::config::{Resolved, Settings};
use crate::domain::{PackedBatch, Shard};
use crate::encoder::{self, EncodeError, Encoder, Finish};
use crate::exit;
use crate::model::source::{self, ModelFiles, SourceEvent, SourceRequest};
use crate::model::spec::{ModelSpec, PromptChoice};
use crate::model::vector_space::{vector_space, VectorSpace};
use crate::model::weights::Weights;
use crate::output::{self, CollectionTotals, CollectionWriter, CommitError, Existing, OutputLock, Plan};
use crate::pipeline::{self, Commit, Pass, PassEnd, StageClock, StopSwitch};
use crate::telemetry::event::{Event, LeaseSample, Observer, Observers, OutputFile, PassInfo, StopCause};
use crate::telemetry::{epoch_seconds, Log, Progress, Recorder, Summary, SummaryBuilder};
use crate::tokenize::Tokenizer;
