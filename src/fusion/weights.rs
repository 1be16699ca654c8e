//! How much each member counts.

/// A model whose finished output takes part, and how much it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The model as its output's manifest names it.
    pub model: String,
    /// From 0 on; only the ratios matter. A member of weight 0 adds nothing to vectors, but its statuses count.
    pub weight: f64,
}

/// Weights that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WeightsError {
    /// Negative, infinite or not a number.
    #[error("the weight of {model} is {weight}, not a number from 0 on (as in --ensemble-weights {model}=0.5)")]
    Unusable {
        /// The member.
        model: String,
        /// Its weight.
        weight: f64,
    },
    /// No member counts.
    #[error("the weights of all models are 0 (give one of them a weight, as in --ensemble-weights {model}=1)")]
    AllZero {
        /// The first member.
        model: String,
    },
}

/// The weights in the order of the members, scaled so that they sum to 1.
///
/// # Errors
/// When a weight is negative or not finite, or all are 0.
pub fn normalized_weights(members: &[Member]) -> Result<Vec<f64>, WeightsError> {
    if let Some(Member { model, weight }) = members.iter().find(|member| !(0.0..f64::INFINITY).contains(&member.weight))
    {
        return Err(WeightsError::Unusable { model: model.clone(), weight: *weight });
    }
    let largest = members.iter().map(|member| member.weight).fold(0.0, f64::max);
    match members.first() {
        Some(Member { model, .. }) if largest == 0.0 => Err(WeightsError::AllZero { model: model.clone() }),
        _ => {
            // By the largest first: the sum of large weights may be beyond f64.
            let sum: f64 = members.iter().map(|member| member.weight / largest).sum();
            // Adding zero makes -0 a plain 0, which is the same weight and must be the same vector space.
            Ok(members.iter().map(|member| member.weight / largest / sum + 0.0).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[f64]) -> Vec<Member> {
        weights.iter().enumerate().map(|(index, &weight)| Member { model: format!("org/m{index}"), weight }).collect()
    }

    #[track_caller]
    fn check(weights: &[f64], expected: &[f64]) {
        let found = normalized_weights(&members(weights)).unwrap();
        let bits = |weights: &[f64]| weights.iter().map(|weight| weight.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(expected), "{found:?}");
    }

    #[test]
    fn weights_sum_to_one_and_only_their_ratios_matter() {
        check(&[], &[]);
        check(&[7.0], &[1.0]);
        check(&[1.0, 3.0], &[0.25, 0.75]);
        check(&[0.5, 1.5], &[0.25, 0.75]);
        check(&[0.0, -0.0, 2.0], &[0.0, 0.0, 1.0]);
        check(&[f64::MAX, f64::MAX], &[0.5, 0.5]);
        check(&[5e-324, 5e-324], &[0.5, 0.5]);
    }

    #[track_caller]
    fn check_refused(weights: &[f64], expected: &str) {
        assert_eq!(normalized_weights(&members(weights)).unwrap_err().to_string(), expected);
    }

    #[test]
    fn weights_that_make_no_mean_are_refused() {
        let unusable = |weight: &str| {
            format!("the weight of org/m1 is {weight}, not a number from 0 on (as in --ensemble-weights org/m1=0.5)")
        };
        check_refused(&[1.0, -0.5], &unusable("-0.5"));
        check_refused(&[1.0, f64::NAN], &unusable("NaN"));
        check_refused(&[1.0, f64::INFINITY], &unusable("inf"));
        check_refused(
            &[0.0, 0.0],
            "the weights of all models are 0 (give one of them a weight, as in --ensemble-weights org/m0=1)",
        );
    }
}
