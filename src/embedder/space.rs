//! The vector space of a run without settings of its own, for commands that embed nothing.

use super::ModelFault;
use crate::domain::{Digest, VectorKind};
use crate::model::spec::{ModelSpec, PromptChoice};
use crate::model::vector_space::{DtypeClass, Scale, Settings, vector_space};
use crate::model::weights::TensorDigests;
use crate::tokenize::Tokenizer;

/// The `vector_space` that a run writes which asks for these kinds of vectors and for nothing else, in f32.
///
/// # Errors
/// When the tokenizer or the default prompt cannot be used.
pub fn default_space(spec: &ModelSpec, tensors: TensorDigests, kinds: &[VectorKind]) -> Result<Digest, ModelFault> {
    let prompt = spec.prompt(&PromptChoice::Default)?;
    let role = spec.role(&prompt);
    let max_length = spec.longest(role);
    let tokenizer = Tokenizer::of(spec, role, max_length, prompt.text.clone())?.digest()?;
    let widths = spec.widths().only(kinds);
    let scale = Scale::new(spec.normalize, spec.truncate_dim.is_some());
    let dtype = DtypeClass::F32;
    Ok(vector_space(spec, &Settings { tensors, tokenizer, prompt, max_length, widths, scale, dtype }))
}
