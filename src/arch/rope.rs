//! What a `config.json` says about rotary positions, in the old style (`rope_theta`, `rope_scaling`) and in the new one
//! (`rope_parameters`).
//!
//! The arithmetic is that of `transformers` (`modeling_rope_utils`), rounding included: frequencies are f32 tensors
//! there, and at far positions a last digit shows. Scalings whose frequencies depend on the texts of a batch (dynamic,
//! longrope) are refused.

use std::f64::consts::PI;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::LoadError;
use crate::nn::{Attention, Pairing, Rotary};

/// Rotary positions of whole heads.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    /// The frequencies.
    pub(super) rotary: Rotary,
    /// What turned queries and keys are multiplied with; 1 for all scalings but `YaRN`.
    pub(super) attention_factor: f64,
}

/// The base that `transformers` takes where nothing is said.
pub(super) const DEFAULT_THETA: f64 = 10_000.0;

impl Rope {
    /// An attention layer with these positions.
    pub(super) fn turning(self, attention: Attention) -> Attention {
        // Turned queries and keys are both multiplied with the factor; so their products are, with its square.
        let scale = rounded(f64::from(attention.scale) * self.attention_factor.powi(2));
        Attention { scale, rotary: Some(self.rotary), ..attention }
    }
}

/// Rotary positions that are the same in all layers.
pub(super) fn read(config: &Value, head_size: usize) -> Result<Rope, LoadError> {
    read_with_base(config, head_size, DEFAULT_THETA)
}

/// The same for a model with another base where nothing is said.
pub(super) fn read_with_base(config: &Value, head_size: usize, default_theta: f64) -> Result<Rope, LoadError> {
    let of = |key: &str| config.get(key).and_then(Value::as_object).filter(|parameters| !parameters.is_empty());
    let mut parameters = of("rope_scaling").or_else(|| of("rope_parameters")).cloned().unwrap_or_default();
    let outer = |key: &str| config.get(key).filter(|value| !value.is_null()).cloned();
    let theta = outer("rope_theta").unwrap_or_else(|| default_theta.into());
    parameters.entry("rope_theta").or_insert(theta);
    if let Some(part) = outer("partial_rotary_factor") {
        parameters.entry("partial_rotary_factor").or_insert(part);
    }
    // Of this one, the outer counts.
    if let Some(length) = outer("original_max_position_embeddings") {
        parameters.insert("original_max_position_embeddings".to_owned(), length);
    }
    from_parameters(&parameters, config, head_size)
}

/// Refuses a scaling under the old name of its kind where layers have parameters of their own: there, the reference
/// reads the new name alone, and would not scale.
pub(super) fn refuse_old_kind(config: &Value) -> Result<(), LoadError> {
    let scaling = config.get("rope_scaling").and_then(Value::as_object);
    match scaling.filter(|scaling| !scaling.contains_key("rope_type")).and_then(|scaling| scaling.get("type")) {
        None | Some(Value::Null) => Ok(()),
        Some(kind) if kind == "default" => Ok(()),
        Some(kind) => {
            let supported = "rope_type in place of type, if positions are to be scaled";
            Err(LoadError::unsupported("rope_scaling", &format!("of type {kind}"), supported))
        }
    }
}

/// Rotary positions from one of several sets of parameters, each for some layers of a model.
pub(super) fn from_parameters(
    parameters: &Map<String, Value>,
    config: &Value,
    head_size: usize,
) -> Result<Rope, LoadError> {
    if head_size == 0 || !head_size.is_multiple_of(2) {
        return Err(LoadError::unsupported("head_dim", &head_size, "even numbers"));
    }
    if let Some(part) = parameters.get("partial_rotary_factor").filter(|part| part.as_f64() != Some(1.0))
        && !part.is_null()
    {
        return Err(LoadError::unsupported("partial_rotary_factor", part, "1"));
    }
    let Plain { rope_theta: theta } = parse(parameters)?;
    let mut rotary = Rotary::new(theta, head_size, Pairing::HalfSplit);
    let frequencies = &mut rotary.inverse_frequencies;
    let mut attention_factor = 1.0;
    let mut parameters = parameters.clone();
    if let Some(positions) = config.get("max_position_embeddings").filter(|positions| !positions.is_null()) {
        parameters.entry("original_max_position_embeddings").or_insert_with(|| positions.clone());
        parameters.insert("max_position_embeddings".to_owned(), positions.clone());
    }
    let kind = ["rope_type", "type"].into_iter().find_map(|key| parameters.get(key)).and_then(Value::as_str);
    match kind.unwrap_or("default") {
        "default" => {}
        "linear" => {
            let Linear { factor } = parse(&parameters)?;
            frequencies.iter_mut().for_each(|frequency| *frequency /= rounded(factor));
        }
        "llama3" => parse::<Llama3>(&parameters)?.scale(frequencies),
        "yarn" => {
            let yarn: Yarn = parse(&parameters)?;
            yarn.scale(theta, head_size, frequencies);
            attention_factor = yarn.attention_factor();
        }
        other => return Err(LoadError::unsupported("rope_type", &other, "default, linear, llama3, yarn")),
    }
    Ok(Rope { rotary, attention_factor })
}

fn parse<T: DeserializeOwned>(parameters: &Map<String, Value>) -> Result<T, LoadError> {
    T::deserialize(Value::Object(parameters.clone())).map_err(LoadError::Config)
}

/// A number as it enters the arithmetic of f32 tensors.
#[expect(clippy::cast_possible_truncation, reason = "meant to be rounded")]
fn rounded(number: f64) -> f32 {
    number as f32
}

#[derive(Deserialize)]
struct Plain {
    rope_theta: f64,
}

/// Chen et al. 2023, <https://arxiv.org/abs/2306.15595>.
#[derive(Deserialize)]
struct Linear {
    factor: f64,
}

/// Slow frequencies are divided, fast ones stay, those between are mixed; Llama 3.1.
#[derive(Deserialize)]
struct Llama3 {
    factor: f64,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original_max_position_embeddings: f64,
}

impl Llama3 {
    fn scale(&self, frequencies: &mut [f32]) {
        let original = self.original_max_position_embeddings;
        let longest = rounded(original / self.low_freq_factor);
        let shortest = rounded(original / self.high_freq_factor);
        let factor = rounded(self.factor);
        for frequency in frequencies {
            let length = rounded(2.0 * PI) / *frequency;
            *frequency = if length > longest {
                *frequency / factor
            } else if length < shortest {
                *frequency
            } else {
                let share = (rounded(original) / length - rounded(self.low_freq_factor))
                    / rounded(self.high_freq_factor - self.low_freq_factor);
                (1.0 - share) * *frequency / factor + share * *frequency
            };
        }
    }
}

/// Peng et al. 2023, <https://arxiv.org/abs/2309.00071>.
#[derive(Deserialize)]
struct Yarn {
    /// Absent or null: the ratio of the two lengths.
    factor: Option<f64>,
    original_max_position_embeddings: f64,
    max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
}

impl Yarn {
    fn factor(&self) -> f64 {
        let original = self.original_max_position_embeddings;
        self.factor.unwrap_or_else(|| self.max_position_embeddings.unwrap_or(original) / original)
    }

    fn attention_factor(&self) -> f64 {
        let factor = self.factor();
        let of_scale = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let set = |scale: Option<f64>| scale.filter(|scale| *scale != 0.0);
        match (self.attention_factor, set(self.mscale), set(self.mscale_all_dim)) {
            (Some(attention_factor), ..) => attention_factor,
            (None, Some(scale), Some(all)) => of_scale(scale) / of_scale(all),
            (None, ..) => of_scale(1.0),
        }
    }

    /// Pairs that turn often keep their frequency, slow ones are divided by the factor, those between are mixed.
    fn scale(&self, theta: f64, rotated: usize, frequencies: &mut [f32]) {
        let rotated = rotated as f64;
        // The pair that makes so many turns in the length that the model was trained on.
        let pair_of = |turns: f64| {
            rotated * (self.original_max_position_embeddings / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
        };
        let set = |beta: Option<f64>, default| beta.filter(|beta| *beta != 0.0).unwrap_or(default);
        let (mut first, mut last) = (pair_of(set(self.beta_fast, 32.0)), pair_of(set(self.beta_slow, 1.0)));
        if self.truncate.unwrap_or(true) {
            (first, last) = (first.floor(), last.ceil());
        }
        (first, last) = (first.max(0.0), last.min(rotated - 1.0));
        #[expect(clippy::float_cmp, reason = "the library's own way around a division by zero")]
        if first == last {
            last += 0.001;
        }
        for (pair, frequency) in frequencies.iter_mut().enumerate() {
            let divided = *frequency / rounded(self.factor());
            let ramp = ((pair as f32 - rounded(first)) / rounded(last - first)).clamp(0.0, 1.0);
            let kept = 1.0 - ramp;
            *frequency = divided * (1.0 - kept) + *frequency * kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Against what `ROPE_INIT_FUNCTIONS` of `transformers` gives for the same parameters.
    #[track_caller]
    fn check(config: &Value, expected: [f32; 4], attention_factor: f64) {
        let rope = read(config, 8).unwrap();
        for (found, expected) in rope.rotary.inverse_frequencies.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 3e-7, "{:?}", rope.rotary.inverse_frequencies);
        }
        assert!((rope.attention_factor - attention_factor).abs() < 1e-12, "{}", rope.attention_factor);
    }

    #[test]
    fn frequencies_are_scaled_as_the_reference_library_scales_them() {
        let config = |parameters: Value| json!({"rope_theta": 500.0, "max_position_embeddings": 128, "rope_scaling": parameters});
        check(
            &config(json!({"type": "linear", "factor": 2.5})),
            [0.4, 0.084_589_7, 0.017_888_544, 0.003_782_966_4],
            1.0,
        );
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        check(&config(llama3), [1.0, 0.097_616_63, 0.005_590_17, 0.001_182_177], 1.0);
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 6});
        let mixed = [1.0, 0.132_171_39, 0.011_180_34, 0.002_364_354];
        check(&config(yarn.clone()), mixed, 1.138_629_436_111_989);
        let mut whole = yarn;
        for (key, value) in [("mscale", json!(0.7)), ("mscale_all_dim", json!(1.2)), ("truncate", json!(false))] {
            whole[key] = value;
        }
        check(&config(whole), [1.0, 0.120_794_36, 0.011_180_34, 0.002_364_354], 0.940_571_525_101_084_1);
        let ratio = json!({"rope_type": "yarn", "factor": null, "original_max_position_embeddings": 32});
        check(&config(ratio), mixed, 1.138_629_436_111_989);
    }

    #[test]
    fn the_inner_base_goes_before_the_outer_one() {
        let base = |config: Value| read(&config, 4).unwrap().rotary.inverse_frequencies[1];
        assert_eq!(base(json!({})).to_bits(), 0.01_f32.to_bits());
        assert_eq!(base(json!({"rope_theta": 100, "rope_scaling": null})).to_bits(), 0.1_f32.to_bits());
        let both = json!({"rope_theta": 1e6, "rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}});
        assert_eq!(base(both).to_bits(), 0.1_f32.to_bits());
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (config, named) in [
            (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "rope_type = dynamic"),
            (json!({"rope_parameters": {"rope_type": "longrope"}}), "rope_type = longrope"),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor = 0.5"),
            (json!({"rope_scaling": {"rope_type": "linear"}}), "factor"),
            (json!({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}), "low_freq_factor"),
        ] {
            let error = read(&config, 8).unwrap_err().to_string();
            assert!(error.contains(named), "{error} does not name {named}");
        }
        assert!(read(&json!({}), 7).unwrap_err().to_string().contains("head_dim = 7"));
    }
}
