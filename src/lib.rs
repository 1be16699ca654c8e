#![doc = include_str!("ARCHITECTURE.md")]

pub mod arch;
pub mod batch;
pub mod cli;
pub mod collection;
pub mod commands;
pub mod config;
pub mod device;
pub mod domain;
pub mod encoder;
pub mod exit;
pub mod model;
pub mod nn;
pub mod output;
pub mod pipeline;
pub mod telemetry;
pub mod tokenize;
