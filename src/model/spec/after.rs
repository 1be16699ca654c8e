//! What happens to a vector after pooling: layers of its own and scaling, in the order of `modules.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::SpecError;
use super::modules::{VectorsOf, refuse_other_vectors};
use super::weight_files;

/// A step after pooling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterPooling {
    /// A linear layer with an activation.
    Dense(Dense),
    /// Scaling to unit length. The last one of a model is [`ModelSpec::normalize`](super::ModelSpec::normalize)
    /// instead, because vectors are cut before it.
    Normalize,
}

/// A linear layer with an activation, for the vector of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dense {
    /// Its directory.
    pub directory: PathBuf,
    /// Its weight files: `linear.weight`, and as the other fields say `linear.bias` and `residual.weight`; without the
    /// `linear.` in files of its own that hold nothing else. Empty where it is among the weights of the transformer.
    pub weights: Vec<PathBuf>,
    /// Length of the vectors that it takes.
    pub inputs: usize,
    /// Length of the vectors that it gives.
    pub outputs: usize,
    /// Whether it adds a bias.
    pub bias: bool,
    /// What it does to each component.
    pub activation: DenseActivation,
    /// Whether it adds its input, where the lengths differ after a linear layer of its own.
    pub residual: bool,
}

/// What a [`Dense`] does to each component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseActivation {
    /// Nothing.
    Identity,
    /// tanh(x).
    Tanh,
    /// max(x, 0).
    Relu,
    /// x Φ(x).
    Gelu,
    /// x σ(x).
    Silu,
    /// σ(x).
    Sigmoid,
    /// x where that is positive, else x / 100.
    LeakyRelu,
    /// x where that is positive, else eˣ - 1.
    Elu,
    /// ln(1 + eˣ).
    Softplus,
    /// x tanh(ln(1 + eˣ)).
    Mish,
}

impl DenseActivation {
    const ALL: [Self; 10] = [
        Self::Identity,
        Self::Tanh,
        Self::Relu,
        Self::Gelu,
        Self::Silu,
        Self::Sigmoid,
        Self::LeakyRelu,
        Self::Elu,
        Self::Softplus,
        Self::Mish,
    ];

    /// The name of the class in torch.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "Identity",
            Self::Tanh => "Tanh",
            Self::Relu => "ReLU",
            Self::Gelu => "GELU",
            Self::Silu => "SiLU",
            Self::Sigmoid => "Sigmoid",
            Self::LeakyRelu => "LeakyReLU",
            Self::Elu => "ELU",
            Self::Softplus => "Softplus",
            Self::Mish => "Mish",
        }
    }

    /// From a name such as `torch.nn.modules.activation.Tanh`.
    fn named(path: &str) -> Option<Self> {
        let class = path.strip_prefix("torch.nn.")?;
        let class =
            class.strip_prefix("modules.activation.").or(class.strip_prefix("modules.linear.")).unwrap_or(class);
        Self::ALL.into_iter().find(|activation| activation.as_str() == class)
    }
}

/// Reads the directory of a Dense module.
pub(super) fn dense(directory: &Path, of: VectorsOf) -> Result<Dense, SpecError> {
    let path = directory.join("config.json");
    if !path.is_file() {
        return Err(SpecError::Missing { path, what: "it says what a Dense layer does" });
    }
    let config = refuse_other_vectors(&path, of)?;
    let size = |key: &str| match config.get(key).and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok()) {
        Some(size) if size > 0 => Ok(size),
        _ => Err(SpecError::invalid(&path, format!("{key} is not a whole number above 0"))),
    };
    let flag = |key: &str, default: bool| match config.get(key) {
        None => Ok(default),
        Some(Value::Bool(value)) => Ok(*value),
        // As in the reference library, where nothing is no.
        Some(Value::Null) => Ok(false),
        Some(other) => Err(SpecError::invalid(&path, format!("{key} {other} is neither true nor false"))),
    };
    let activation = match config.get("activation_function") {
        // The reference library's default.
        None => DenseActivation::Tanh,
        Some(value) => value.as_str().and_then(DenseActivation::named).ok_or_else(|| {
            let known = DenseActivation::ALL.map(DenseActivation::as_str).join(", ");
            SpecError::unsupported(&path, format!("the activation_function {value} (of torch.nn, {known} are)"))
        })?,
    };
    Ok(Dense {
        directory: directory.to_owned(),
        weights: weight_files::find(directory)?,
        inputs: size("in_features")?,
        outputs: size("out_features")?,
        bias: flag("bias", true)?,
        activation,
        residual: flag("use_residual", false)?,
    })
}

/// Width of vectors after some steps, whose sizes must fit each other.
pub(super) fn width_after(steps: &[AfterPooling], width: usize) -> Result<usize, SpecError> {
    let mut width = width;
    for step in steps {
        if let AfterPooling::Dense(dense) = step {
            if dense.inputs != width {
                let what = format!("it takes vectors of {}, but gets some of {width}", dense.inputs);
                return Err(SpecError::invalid(&dense.directory.join("config.json"), what));
            }
            width = dense.outputs;
        }
    }
    Ok(width)
}
