//! Finished outputs of several models, made into one more: `<output>/<collection>/fused/`.
//!
//! Models work one after the other, and each leaves its vectors on the disk; fusing reads them back shard by shard and
//! needs no model and no device. Before any work, [`plan`] says whether the members can be fused at all; when all of
//! them are complete for a collection, [`fuse`] does it, with the shards, the commits and the resume of any output.
//!
//! Fused vectors are no common space of the members, which were trained apart: [`Method`] says what their cosine is.
//! Whether they retrieve better than the best member is a question to the data.

mod error;
mod fuse;
mod member;
mod plan;
mod space;
mod status;
mod vector;
mod weights;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod tests;

pub use error::FuseError;
pub use fuse::{Rebuilt, Request, Step, fuse};
pub use plan::{FUSED, MemberShape, Method, ShapeError, plan};
pub use vector::{Part, VectorFault, fuse_vectors};
pub use weights::{Member, WeightsError, normalized_weights};
