//! Rotary positions as `config.json` describes them, in the styles of both `transformers` 4 and 5.

use serde_json::Value;

use super::LoadError;
use crate::nn::{Pairing, Rotary};

/// Those of an encoder: `rope_parameters`, or `rope_theta` and `rope_scaling`, else the default base.
pub(super) fn read(config: &Value, head_size: usize, default_theta: f64) -> Result<Rotary, LoadError> {
    let parameters = match (set(config, "rope_parameters"), set(config, "rope_scaling")) {
        (Some(_), Some(scaling)) => {
            return Err(unsupported("rope_scaling", scaling, "null, where there are rope_parameters"));
        }
        (parameters, scaling) => parameters.or(scaling),
    };
    let within = |key| parameters.and_then(|parameters| set(parameters, key));
    let theta = match within("rope_theta").or_else(|| set(config, "rope_theta")) {
        Some(theta) => number("rope_theta", theta)?,
        None => default_theta,
    };
    let fraction = within("partial_rotary_factor").or_else(|| set(config, "partial_rotary_factor"));
    if let Some(fraction) = fraction.filter(|fraction| fraction.as_f64() != Some(1.0)) {
        return Err(unsupported("partial_rotary_factor", fraction, "1.0"));
    }
    match within("rope_type").or_else(|| within("type")) {
        None => Ok(Rotary::new(theta, head_size, Pairing::HalfSplit)),
        Some(kind) if kind == "default" => Ok(Rotary::new(theta, head_size, Pairing::HalfSplit)),
        Some(kind) if kind == "ntk" => {
            let factor = within("factor").map_or(Ok(1.0), |factor| number("rope_scaling.factor", factor))?;
            if let Some(mixed) = within("mixed_b") {
                return Err(unsupported("rope_scaling.mixed_b", mixed, "null"));
            }
            Ok(ntk(theta, factor, head_size))
        }
        Some(kind) => Err(unsupported("rope_type", kind, "default, ntk")),
    }
}

/// Fixed NTK scaling as the code of Alibaba's GTE models has it: a larger base, and all frequencies a little lower, so
/// that the lowest is divided by `factor` (<https://kexue.fm/archives/9706>, equation 6). Without a factor above 1,
/// nothing is scaled there.
fn ntk(theta: f64, factor: f64, head_size: usize) -> Rotary {
    if factor <= 1.0 {
        return Rotary::new(theta, head_size, Pairing::HalfSplit);
    }
    let mut rotary = Rotary::new(theta * factor, head_size, Pairing::HalfSplit);
    #[expect(clippy::cast_possible_truncation, reason = "the reference divides by an f32")]
    let divisor = factor.powf(2.0 / head_size as f64) as f32;
    rotary.inverse_frequencies.iter_mut().for_each(|frequency| *frequency /= divisor);
    rotary
}

fn set<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

fn number(key: &'static str, value: &Value) -> Result<f64, LoadError> {
    value.as_f64().filter(|number| *number > 0.0).ok_or_else(|| unsupported(key, value, "a number above 0"))
}

fn unsupported(key: &'static str, value: &Value, supported: &'static str) -> LoadError {
    LoadError::Unsupported { key, value: value.to_string(), supported }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn frequencies(config: &Value) -> Vec<f32> {
        read(config, 4, 10_000.0).unwrap().inverse_frequencies
    }

    #[test]
    fn the_base_is_found_in_either_style() {
        assert_eq!(frequencies(&json!({})), [1.0, 0.01]);
        assert_eq!(frequencies(&json!({"rope_theta": 100, "rope_scaling": null})), [1.0, 0.1]);
        assert_eq!(frequencies(&json!({"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}})), [1.0, 0.1]);
    }

    #[test]
    fn ntk_scaling_divides_the_lowest_frequency_by_the_factor() {
        let config = json!({"rope_theta": 10_000.0, "rope_scaling": {"type": "ntk", "factor": 4.0}});
        let found = frequencies(&config);
        assert!((found[0] - 0.5).abs() < 1e-7 && (found[1] - 0.01 / 4.0).abs() < 1e-9, "{found:?}");
        let config = json!({"rope_scaling": {"type": "ntk", "factor": 1.0}});
        assert_eq!(frequencies(&config), [1.0, 0.01]);
    }

    #[test]
    fn other_scalings_are_refused_by_name() {
        for (config, key) in [
            (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "rope_type = \"dynamic\""),
            (json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}), "rope_type = \"yarn\""),
            (json!({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}}), "rope_scaling.mixed_b = 0.5"),
            (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor = 0.5"),
            (json!({"rope_theta": -1}), "rope_theta = -1"),
            (json!({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {}}), "rope_scaling = {}"),
        ] {
            let error = read(&config, 4, 10_000.0).unwrap_err().to_string();
            assert!(error.contains(key), "{error} lacks {key}");
        }
    }
}
