//! Where a model comes from, and what its directory says.
//!
//! The directory is the truth: how long a text may be, how its token vectors become one vector, which prompt goes
//! before it. A model whose directory asks for something that this program does not do is refused by name, because
//! the alternative is vectors that look right and are not.

mod footprint;
mod pointer;
pub mod pooling;
mod profile;
pub mod registry;
pub(crate) mod serde_key;
pub mod source;
pub mod spec;
pub mod tokenizer_files;
pub mod vector_space;
pub mod weights;

pub use footprint::Footprint;
pub use profile::Profile;
