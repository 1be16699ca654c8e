//! The few tensor operations that an encoder needs, over packed sequences.
//!
//! Architectures in `arch` are written once against [`Backend`]. [`Cpu`] runs on the CPU; [`Candle`] runs on GPUs, and on
//! the CPU is the plain twin in tests. A backend decides how weights are laid out, how sequences of different lengths are
//! batched, and in what precision layers compute. Pooling is always in f32.

mod attention;
mod backend;
mod candle;
pub mod cpu;
mod error;
mod layers;
mod pending;
mod relative_attention;
mod splade;

#[cfg(test)]
mod agreement_tests;

pub use attention::{Attention, HeadNorm, Mask, Pairing, PositionBias, Rotary};
pub use backend::Backend;
pub(crate) use candle::erf;
pub use candle::{Candle, Gpu, GpuError, Grouping, Kernels, LARGEST_FUSED_HEAD, Numbers, VOCABULARY_BYTES};
pub use cpu::{Cpu, Instructions};
pub use error::NnError;
pub use layers::{Activation, Branch, Epilogue, FeedForward, Inner, Matrix, Wanted};
pub use pending::Pending;
pub use relative_attention::{Distances, RelativeAttention};
