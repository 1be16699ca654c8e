//! From token vectors to one vector a sequence, in f32.

use crate::nn::Pooling;

/// The vector of one sequence of [tokens, width].
///
/// # Panics
/// When there is no token.
pub(super) fn pool(pooling: Pooling, tokens: &[f32], width: usize) -> Vec<f32> {
    let count = tokens.len() / width;
    match pooling {
        Pooling::Cls => tokens[..width].to_vec(),
        Pooling::LastToken => tokens[tokens.len() - width..].to_vec(),
        Pooling::Max => {
            combine(tokens, width, |largest, x, _| if x <= largest || largest.is_nan() { largest } else { x })
        }
        Pooling::Mean => divided(combine(tokens, width, |sum, x, _| sum + x), count as f32),
        Pooling::MeanSqrtLen => divided(combine(tokens, width, |sum, x, _| sum + x), (count as f32).sqrt()),
        Pooling::WeightedMean => {
            let sum = combine(tokens, width, |sum, x, position| sum + x * (position + 1) as f32);
            divided(sum, (count * (count + 1) / 2) as f32)
        }
    }
}

/// The first row, with all others worked into it; the operation also gets a row's position.
fn combine(tokens: &[f32], width: usize, operation: impl Fn(f32, f32, usize) -> f32) -> Vec<f32> {
    let (first, rest) = tokens.split_at(width);
    let mut combined = first.to_vec();
    for (row, position) in rest.chunks_exact(width).zip(1..) {
        combined.iter_mut().zip(row).for_each(|(combined, x)| *combined = operation(*combined, *x, position));
    }
    combined
}

fn divided(mut values: Vec<f32>, divisor: f32) -> Vec<f32> {
    values.iter_mut().for_each(|value| *value /= divisor);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poolings_are_what_they_are_called() {
        let tokens = [1.0, 8.0, 3.0, -2.0, 2.0, 0.0, 6.0, 2.0];
        for (pooling, expected) in [
            (Pooling::Cls, [1.0, 8.0]),
            (Pooling::LastToken, [6.0, 2.0]),
            (Pooling::Max, [6.0, 8.0]),
            (Pooling::Mean, [3.0, 2.0]),
            (Pooling::MeanSqrtLen, [6.0, 4.0]),
            (Pooling::WeightedMean, [3.7, 1.2]),
        ] {
            assert_eq!(pool(pooling, &tokens, 2), expected, "{pooling:?}");
        }
    }

    #[test]
    fn what_is_not_a_number_is_never_the_largest_unnoticed() {
        assert!(pool(Pooling::Max, &[f32::NAN, 1.0], 1)[0].is_nan());
        assert!(pool(Pooling::Max, &[1.0, f32::NAN], 1)[0].is_nan());
        assert!(pool(Pooling::Max, &[1.0, f32::NAN, 2.0], 1)[0].is_nan());
    }
}
