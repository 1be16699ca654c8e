//! Models against what others compute for them, and where they come from. One file's tests:
//! `cargo test --test models half_precision::`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at the first surprise, in helpers too")]

mod configurations;
mod half_precision;
mod model_sources;
mod reference_models;
mod reference_vectors;
mod tokenizer_files;

#[path = "../program/mod.rs"]
mod program;
#[path = "../stand_in_hub/mod.rs"]
mod stand_in_hub;
