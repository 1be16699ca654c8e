#![doc = include_str!("ARCHITECTURE.md")]

pub mod collection;
pub mod domain;
