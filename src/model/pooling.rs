//! How token vectors or logits become one vector, by the names of sentence-transformers.

/// How the token vectors of a sequence become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first token's vector.
    Cls,
    /// The largest of each component over all tokens.
    Max,
    /// The mean over all tokens.
    Mean,
    /// The sum over all tokens divided by the square root of their number.
    #[serde(rename = "mean_sqrt_len_tokens")]
    MeanSqrtLen,
    /// The mean weighted by position, counted from 1.
    WeightedMean,
    /// The last token's vector.
    LastToken,
}

impl Pooling {
    /// All of them, in the order in which several are joined.
    pub const ALL: [Self; 6] =
        [Self::Cls, Self::Max, Self::Mean, Self::MeanSqrtLen, Self::WeightedMean, Self::LastToken];

    /// The name that sentence-transformers gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanSqrtLen => "mean_sqrt_len_tokens",
            Self::WeightedMean => "weightedmean",
            Self::LastToken => "lasttoken",
        }
    }
}

/// What is done to logits, and how tokens come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpladePooling {
    /// Over the tokens of a sequence.
    pub strategy: SpladeStrategy,
    /// From a logit to a weight.
    pub activation: SpladeActivation,
}

/// What becomes of a vocabulary entry's weights in all tokens of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpladeStrategy {
    /// The largest counts.
    Max,
    /// They are added up.
    Sum,
}

/// From a logit to a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpladeActivation {
    /// log(1 + max(x, 0)).
    Relu,
    /// log(1 + log(1 + max(x, 0))).
    Log1pRelu,
}

impl SpladePooling {
    /// The names of strategy and activation in `config.json`.
    pub fn names(self) -> (&'static str, &'static str) {
        let strategy = match self.strategy {
            SpladeStrategy::Max => "max",
            SpladeStrategy::Sum => "sum",
        };
        let activation = match self.activation {
            SpladeActivation::Relu => "relu",
            SpladeActivation::Log1pRelu => "log1p_relu",
        };
        (strategy, activation)
    }
}
