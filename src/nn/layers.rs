//! What layers are made of: weights, activations and what may follow a product.

/// A dense matrix of the host, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Number of rows; for the weight of a linear layer its outputs.
    pub rows: usize,
    /// Number of columns; for the weight of a linear layer its inputs.
    pub columns: usize,
    /// [rows, columns].
    pub values: Vec<f32>,
}

impl Matrix {
    /// Several matrices with the same number of columns as one, rows after rows, so that linear layers with the same
    /// input can run as one.
    ///
    /// # Panics
    /// When the numbers of columns differ.
    pub fn stack(parts: impl IntoIterator<Item = Matrix>) -> Matrix {
        parts
            .into_iter()
            .reduce(|mut above, below| {
                assert_eq!(above.columns, below.columns, "matrices of one stack have the same width");
                above.rows += below.rows;
                above.values.extend(below.values);
                above
            })
            .unwrap_or(Matrix { rows: 0, columns: 0, values: Vec::new() })
    }
}

/// A point-wise non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x) with the error function; `gelu`.
    Gelu,
    /// Its approximation by tanh; `gelu_new`, `gelu_pytorch_tanh`. About 5e-4 from the exact one.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x σ(x); `silu`, `swish`.
    Silu,
}

impl Activation {
    /// The activation that `config.json` calls `name`, as transformers does; `None` for one that is not implemented.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" | "gelu_python" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
                Some(Self::GeluTanh)
            }
            "relu" => Some(Self::Relu),
            "silu" | "swish" => Some(Self::Silu),
            _ => None,
        }
    }
}

/// What follows a linear layer and can be done before its result leaves the registers.
#[derive(Debug)]
pub enum Epilogue<'a, A> {
    /// Nothing more.
    Bias,
    /// An activation.
    Activation(Activation),
    /// The sum with other activations of the same shape.
    Residual(&'a A),
}

/// The feed-forward half of a transformer layer: down(inner(x)). One operation, because its middle is the widest tensor
/// of an encoder and need not exist for all tokens at once.
#[derive(Debug)]
pub struct FeedForward<L> {
    /// [tokens, hidden] to [tokens, inner].
    pub inner: Inner<L>,
    /// [tokens, inner] to [tokens, hidden].
    pub down: L,
}

/// The first half of a feed-forward layer; each of its linear layers is [tokens, hidden] to [tokens, inner].
#[derive(Debug)]
pub enum Inner<L> {
    /// activation(up(x)).
    Plain {
        /// The layer.
        up: L,
        /// What follows it.
        activation: Activation,
    },
    /// activation(gate(x)) · up(x); `SwiGLU` and its kin (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
    Gated {
        /// The layer that is activated.
        gate: L,
        /// The layer that it is multiplied with.
        up: L,
        /// What follows the gate.
        activation: Activation,
    },
}

/// What is added to the tokens that went into a half of a transformer layer: its last step.
#[derive(Debug)]
pub enum Branch<'a, L> {
    /// A linear layer.
    Linear(&'a L),
    /// A feed-forward layer.
    FeedForward(&'a FeedForward<L>),
}

/// Some rows of [tokens, width], as they are or through a layer: [rows, width] or [rows, outputs].
#[derive(Debug)]
pub struct Wanted<'a, P> {
    /// Which tokens; `None` for all. Each is one of the batch.
    pub tokens: Option<&'a [u32]>,
    /// Through what.
    pub projection: Option<&'a P>,
}
