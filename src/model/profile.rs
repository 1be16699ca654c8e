//! How a model is asked for vectors. One loaded model serves several profiles.

use super::spec::{ModelSpec, Prompt, TextRole};
use super::vector_space::Scale;
use crate::domain::{VectorKind, Widths};

/// A way to ask a model for vectors; its weights are the same for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// What goes before every text.
    pub prompt: Prompt,
    /// What the texts are, where that matters.
    pub role: TextRole,
    /// Longest text in tokens, prompt and special tokens included.
    pub max_length: usize,
    /// Leading tokens that pooling leaves out: those of a prompt that is read and not pooled.
    pub left_out: usize,
    /// The kinds of vectors.
    pub kinds: Vec<VectorKind>,
    /// Scale dense vectors to unit length.
    pub normalize: bool,
    /// Keep only so many leading components (Matryoshka): cut first, then normalise.
    pub truncate_dim: Option<usize>,
    /// Keep only so many leading components of the finished vector, as the model's own files may ask: normalise first,
    /// then cut. Nothing is scaled again.
    pub cut_last: Option<usize>,
}

impl Profile {
    /// What a model's files ask for under this prompt.
    pub fn new(spec: &ModelSpec, prompt: Prompt) -> Self {
        let role = spec.role(&prompt);
        Self {
            role,
            max_length: spec.longest(role),
            left_out: 0,
            kinds: vec![spec.default_kind],
            normalize: spec.normalize,
            truncate_dim: None,
            cut_last: spec.truncate_dim,
            prompt,
        }
    }

    /// The same with dense vectors of so many components, which replaces the cut of the model's files.
    #[must_use]
    pub fn cut_to(self, truncate_dim: Option<usize>) -> Self {
        Self { truncate_dim, cut_last: self.cut_last.filter(|_| truncate_dim.is_none()), ..self }
    }

    /// Whether it asks for this kind of vectors.
    pub fn asks_for(&self, kind: VectorKind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Length of a finished dense vector that pooling and Dense layers leave `width` long.
    pub fn dimension(&self, width: usize) -> usize {
        [self.truncate_dim, self.cut_last].into_iter().flatten().fold(width, usize::min)
    }

    /// The widths of the vectors that a model gives.
    pub fn widths(&self, spec: &ModelSpec) -> Widths {
        let widths = spec.widths().only(&self.kinds);
        Widths { dense: widths.dense.map(|_| self.dimension(spec.dimension)), ..widths }
    }

    /// How long dense vectors are, as arrows.
    pub fn scale(&self) -> Scale {
        Scale::new(self.normalize, self.cut_last.is_some())
    }
}
