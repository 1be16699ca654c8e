//! What weights and activations are kept in.

use std::fmt;

/// What weights and activations are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Brain floating point.
    Bf16,
}

impl fmt::Display for Numbers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}
