//! Encoders of BERT's kind: embeddings are summed and normalised, and in each layer the norm follows the sum with what
//! went in.
//!
//! Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>, section 3.1. BERT's many relatives differ in what they add up
//! at the beginning, in how positions reach the attention, in the shape of the feed-forward half, and in the names of it
//! all: their files say so, and everything they share is here.

use std::sync::Arc;

use super::parts::{Bias, Parts, Shape, Up};
use super::{Architecture, LoadError};
use crate::domain::PackedBatch;
use crate::nn::{Activation, Backend, Branch, Epilogue, FeedForward, NnError};

/// An encoder of this kind.
pub(super) struct PostNorm<B: Backend> {
    pub(super) embeddings: Embeddings<B>,
    /// In the order in which they run; one may run several times.
    pub(super) layers: Vec<Arc<Layer<B>>>,
    pub(super) attention: LayerAttention<B>,
    pub(super) hidden_size: usize,
    /// Longest sequence.
    pub(super) max_positions: usize,
}

/// How tokens of a sequence reach each other.
pub(super) enum LayerAttention<B: Backend> {
    /// The same in all layers.
    Same(B::Attention),
    /// With relative positions of its own in each layer.
    Relative(Vec<B::RelativeAttention>),
}

/// From token ids to the input of the first layer.
pub(super) struct Embeddings<B: Backend> {
    pub(super) words: B::Embedding,
    /// Of these, only the first is used: there is one text in a sequence.
    pub(super) types: Option<B::Embedding>,
    pub(super) positions: Option<(B::Embedding, Numbering)>,
    pub(super) norm: B::Norm,
    pub(super) projection: Projection<B>,
}

/// To the width of the layers, where embeddings have another.
pub(super) enum Projection<B: Backend> {
    None,
    BeforeNorm(B::Linear),
    AfterNorm(B::Linear),
}

/// Which row of the table a token's position has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbering {
    /// Its place in the sequence, from 0.
    FromZero,
    /// As `RoBERTa` has it: the number of tokens up to this one, itself included, after the padding token's id; padding
    /// tokens, which a text may spell out, do not count and have that id for a position.
    AfterPadding(u32),
}

/// Sizes of what is looked up, for [`Embeddings::load`].
pub(super) struct EmbeddingSizes {
    pub(super) vocabulary: usize,
    /// Types of tokens; none where it is 0.
    pub(super) types: usize,
    /// Rows of the table of positions, where there is one.
    pub(super) positions: Option<(usize, Numbering)>,
    pub(super) width: usize,
    /// What comes out of the norm; another width than that of the tables where a projection lies before it.
    pub(super) norm_width: usize,
    pub(super) norm: &'static str,
    pub(super) epsilon: f64,
}

/// One layer.
pub(super) struct Layer<B: Backend> {
    query_key_value: B::Linear,
    attention_output: B::Linear,
    attention_norm: B::Norm,
    feed_forward: FeedForward<B::Linear>,
    output_norm: B::Norm,
}

/// Where a checkpoint has the parts of a layer, below the name of the layer itself.
pub(super) struct LayerNames {
    pub(super) query_key_value: QueryKeyValue,
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) up: Up,
    pub(super) down: &'static str,
    pub(super) output_norm: &'static str,
}

/// Whether a checkpoint has queries, keys and values in one tensor.
pub(super) enum QueryKeyValue {
    Apart([&'static str; 3]),
    Stacked(&'static str),
}

/// Sizes of a layer.
pub(super) struct LayerSizes {
    pub(super) hidden: usize,
    /// Heads times their size.
    pub(super) attention: usize,
    /// Width between the two feed-forward layers.
    pub(super) inner: usize,
    pub(super) activation: Activation,
    pub(super) epsilon: f64,
    pub(super) biases: Biases,
}

/// Which linear layers have a bias.
pub(super) struct Biases {
    pub(super) query_key_value: Bias,
    pub(super) attention_output: Bias,
    pub(super) up: Bias,
    pub(super) down: Bias,
}

impl Biases {
    /// All have one.
    pub(super) const ALL: Self = Self {
        query_key_value: Bias::Present,
        attention_output: Bias::Present,
        up: Bias::Present,
        down: Bias::Present,
    };
}

/// The names of BERT, which many others kept.
pub(super) const BERT_LAYER: LayerNames = LayerNames {
    query_key_value: QueryKeyValue::Apart(["attention.self.query", "attention.self.key", "attention.self.value"]),
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: Up::Plain("intermediate.dense"),
    down: "output.dense",
    output_norm: "output.LayerNorm",
};

impl<B: Backend> Embeddings<B> {
    /// Reads `embeddings.word_embeddings` and its kin.
    pub(super) fn load(parts: &Parts<'_, B>, sizes: &EmbeddingSizes) -> Result<Self, LoadError> {
        let table = |part: &str, rows| parts.embedding(&format!("embeddings.{part}_embeddings"), rows, sizes.width);
        let positions = |(rows, numbering)| Ok::<_, LoadError>((table("position", rows)?, numbering));
        Ok(Self {
            words: table("word", sizes.vocabulary)?,
            types: (sizes.types > 0).then(|| table("token_type", sizes.types)).transpose()?,
            positions: sizes.positions.map(positions).transpose()?,
            norm: parts.layer_norm(sizes.norm, sizes.norm_width, sizes.epsilon)?,
            projection: Projection::None,
        })
    }

    /// [tokens, hidden].
    pub(super) fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError> {
        let types = vec![0; batch.tokens()];
        let positions = match &self.positions {
            Some((_, numbering)) => numbering.rows(batch),
            None => Vec::new(),
        };
        let mut lookups = vec![(&self.words, batch.ids())];
        if let Some(table) = &self.types {
            lookups.push((table, &types));
        }
        if let Some((table, _)) = &self.positions {
            lookups.push((table, &positions));
        }
        let embedded = backend.embed(&lookups)?;
        match &self.projection {
            Projection::None => backend.apply_norm(&self.norm, &embedded),
            Projection::BeforeNorm(projection) => {
                backend.apply_norm(&self.norm, &backend.apply_linear(projection, &embedded, Epilogue::Bias)?)
            }
            Projection::AfterNorm(projection) => {
                backend.apply_linear(projection, &backend.apply_norm(&self.norm, &embedded)?, Epilogue::Bias)
            }
        }
    }
}

impl Numbering {
    /// How many rows of a table never belong to a token of a sequence without padding.
    pub(super) fn offset(self) -> usize {
        match self {
            Self::FromZero => 0,
            Self::AfterPadding(padding) => padding as usize + 1,
        }
    }

    /// `[tokens]`.
    fn rows(self, batch: &PackedBatch) -> Vec<u32> {
        let Self::AfterPadding(padding) = self else { return batch.positions() };
        let mut rows = Vec::with_capacity(batch.tokens());
        for bounds in batch.cu_seqlens().windows(2) {
            let mut last = padding;
            rows.extend(batch.ids()[bounds[0]..bounds[1]].iter().map(|&id| {
                if id == padding {
                    return padding;
                }
                last += 1;
                last
            }));
        }
        rows
    }
}

impl<B: Backend> Layer<B> {
    /// Reads `count` layers, numbered below `prefix`.
    pub(super) fn load_all(
        parts: &Parts<'_, B>,
        prefix: &str,
        count: usize,
        names: &LayerNames,
        sizes: &LayerSizes,
    ) -> Result<Vec<Arc<Self>>, LoadError> {
        (0..count).map(|index| Self::load(parts, &format!("{prefix}.{index}"), names, sizes).map(Arc::new)).collect()
    }

    /// Reads the layer that the checkpoint has under `prefix`.
    pub(super) fn load(
        parts: &Parts<'_, B>,
        prefix: &str,
        names: &LayerNames,
        sizes: &LayerSizes,
    ) -> Result<Self, LoadError> {
        let name = |part: &str| format!("{prefix}.{part}");
        let &LayerSizes { hidden, attention, inner, activation, epsilon, ref biases } = sizes;
        let query_key_value = match names.query_key_value {
            QueryKeyValue::Apart(parts_of_it) => {
                let [query, key, value] = parts_of_it.map(name);
                let stack = [(query.as_str(), attention), (&key, attention), (&value, attention)];
                parts.stacked(&stack, hidden, biases.query_key_value)?
            }
            QueryKeyValue::Stacked(part) => {
                let shape = Shape { outputs: 3 * attention, inputs: hidden, bias: biases.query_key_value };
                parts.linear(&name(part), shape)?
            }
        };
        let output = Shape { outputs: hidden, inputs: attention, bias: biases.attention_output };
        Ok(Self {
            query_key_value,
            attention_output: parts.linear(&name(names.attention_output), output)?,
            attention_norm: parts.layer_norm(&name(names.attention_norm), hidden, epsilon)?,
            feed_forward: FeedForward {
                inner: parts.inner(prefix, names.up, activation, (hidden, inner), biases.up)?,
                down: parts.linear(&name(names.down), Shape { outputs: hidden, inputs: inner, bias: biases.down })?,
            },
            output_norm: parts.layer_norm(&name(names.output_norm), hidden, epsilon)?,
        })
    }
}

impl<B: Backend> Architecture<B> for PostNorm<B> {
    fn forward(&self, backend: &B, batch: &PackedBatch) -> Result<B::Activations, NnError> {
        let mut hidden = self.embeddings.forward(backend, batch)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let qkv = backend.apply_linear(&layer.query_key_value, &hidden, Epilogue::Bias)?;
            let context = match &self.attention {
                LayerAttention::Same(attention) => backend.apply_attention(attention, &qkv, batch)?,
                LayerAttention::Relative(layers) => backend.apply_relative_attention(&layers[index], &qkv, batch)?,
            };
            let output = Branch::Linear(&layer.attention_output);
            let attended = backend.add_branch_then_norm(output, &context, &hidden, &layer.attention_norm)?;
            let output = Branch::FeedForward(&layer.feed_forward);
            hidden = backend.add_branch_then_norm(output, &attended, &attended, &layer.output_norm)?;
        }
        Ok(hidden)
    }

    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn positions(&self) -> usize {
        self.max_positions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_begin_after_the_padding_token_in_each_sequence() {
        let batch = PackedBatch::new([&[7, 8, 9][..], &[], &[5]]);
        assert_eq!(Numbering::FromZero.rows(&batch), [0, 1, 2, 0]);
        assert_eq!(Numbering::AfterPadding(1).rows(&batch), [2, 3, 4, 2]);
        assert_eq!(Numbering::AfterPadding(0).rows(&batch), [1, 2, 3, 1]);
    }

    #[test]
    fn padding_tokens_inside_a_text_do_not_count() {
        let batch = PackedBatch::new([&[7, 1, 9][..], &[1, 1, 4]]);
        assert_eq!(Numbering::AfterPadding(1).rows(&batch), [2, 1, 3, 1, 1, 2]);
    }
}
