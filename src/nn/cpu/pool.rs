//! From token vectors to one vector a sequence, in f32.

use crate::model::pooling::Pooling;

/// The vector of one sequence of [tokens, width], of which so many leading tokens take no part.
pub(super) fn pool(pooling: Pooling, tokens: &[f32], width: usize, left_out: usize) -> Vec<f32> {
    if tokens.is_empty() {
        return vec![0.0; width];
    }
    let kept = tokens.get(left_out.saturating_mul(width)..).unwrap_or_default();
    if kept.is_empty() {
        return match pooling {
            Pooling::Cls => tokens[..width].to_vec(),
            Pooling::Max => vec![f32::NEG_INFINITY; width],
            _ => vec![0.0; width],
        };
    }
    let count = kept.len() / width;
    match pooling {
        Pooling::Cls => kept[..width].to_vec(),
        Pooling::LastToken => kept[kept.len() - width..].to_vec(),
        Pooling::Max => {
            combine(kept, width, 1.0, |largest, x, _| if x <= largest || largest.is_nan() { largest } else { x })
        }
        Pooling::Mean => divided(combine(kept, width, 1.0, |sum, x, _| sum + x), count as f32),
        Pooling::MeanSqrtLen => divided(combine(kept, width, 1.0, |sum, x, _| sum + x), (count as f32).sqrt()),
        Pooling::WeightedMean => {
            let weight = |index: usize| (left_out + index + 1) as f32;
            let sum = combine(kept, width, weight(0), |sum, x, index| sum + x * weight(index));
            divided(sum, (left_out * count + count * (count + 1) / 2) as f32)
        }
    }
}

/// The first row times a factor, with all others worked into it; the operation also gets a row's index.
fn combine(tokens: &[f32], width: usize, factor: f32, operation: impl Fn(f32, f32, usize) -> f32) -> Vec<f32> {
    let (first, rest) = tokens.split_at(width);
    let mut combined: Vec<f32> = first.iter().map(|x| x * factor).collect();
    for (row, index) in rest.chunks_exact(width).zip(1..) {
        combined.iter_mut().zip(row).for_each(|(combined, x)| *combined = operation(*combined, *x, index));
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
            assert_eq!(pool(pooling, &tokens, 2, 0), expected, "{pooling:?}");
        }
    }

    #[test]
    fn tokens_that_are_left_out_take_no_part_and_those_that_stay_keep_their_positions() {
        let tokens = [1.0, 8.0, 3.0, -2.0, 2.0, 0.0, 6.0, 2.0];
        for (pooling, expected) in [
            (Pooling::Cls, [2.0, 0.0]),
            (Pooling::LastToken, [6.0, 2.0]),
            (Pooling::Max, [6.0, 2.0]),
            (Pooling::Mean, [4.0, 1.0]),
            (Pooling::MeanSqrtLen, [8.0 / 2.0_f32.sqrt(), 2.0 / 2.0_f32.sqrt()]),
            (Pooling::WeightedMean, [30.0 / 7.0, 8.0 / 7.0]),
        ] {
            assert_eq!(pool(pooling, &tokens, 2, 2), expected, "{pooling:?}");
        }
    }

    #[test]
    fn where_no_token_stays_the_result_is_what_the_reference_library_gives() {
        let tokens = [1.0, 8.0, 3.0, -2.0];
        for left_out in [2, 3, usize::MAX] {
            for pooling in Pooling::ALL {
                let expected = match pooling {
                    Pooling::Cls => [1.0, 8.0],
                    Pooling::Max => [f32::NEG_INFINITY; 2],
                    _ => [0.0; 2],
                };
                assert_eq!(pool(pooling, &tokens, 2, left_out), expected, "{pooling:?}");
                assert_eq!(pool(pooling, &[], 2, left_out), [0.0; 2], "{pooling:?} of nothing");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_never_the_largest_unnoticed() {
        assert!(pool(Pooling::Max, &[f32::NAN, 1.0], 1, 0)[0].is_nan());
        assert!(pool(Pooling::Max, &[1.0, f32::NAN], 1, 0)[0].is_nan());
        assert!(pool(Pooling::Max, &[1.0, f32::NAN, 2.0], 1, 0)[0].is_nan());
    }
}
