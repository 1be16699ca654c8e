//! Qwen3: norms over the heads of queries and keys; a head's size of its keys.
//!
//! Yang et al. 2025, <https://arxiv.org/abs/2505.09388>; checked against `transformers` (`Qwen3Model`).

use serde_json::{Value, json};

use super::Loaded;
use super::decoder::{self, Config, Family};
use super::parts::{self, Parts};
use super::qwen2::{self, FamilyConfig};
use crate::nn::Backend;

pub(super) fn load<B: Backend>(raw: &Value, parts: &Parts<'_, B>) -> Loaded<B> {
    let config = Config::read(raw, defaults())?;
    let keys: FamilyConfig = parts::config(raw, defaults())?;
    let family = Family {
        head_norms: true,
        ..Family::new(&config, ("hidden_act", keys.hidden_act.clone()), qwen2::layers(raw, &config, &keys)?)
    };
    decoder::load(&config, &family, parts)
}

/// Those of `Qwen3Config`.
fn defaults() -> Value {
    parts::merged(qwen2::defaults(), json!({"head_dim": 128}))
}
