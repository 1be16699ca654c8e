//! The arithmetic of one row.

use super::plan::Method;

/// The shortest mean that still has a direction. Members' components are f32, so that the mean of unit vectors is off by
/// about this much: what is left of two that cancel out is rounding, and would be blown up to unit length.
const SHORTEST: f64 = f32::EPSILON as f64;

/// One member's share in a row.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its vector, of any length above 0.
    pub vector: &'a [f32],
    /// Its weight; those of a row sum to 1.
    pub weight: f64,
}

/// Why a row has no fused vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorFault {
    /// A member's vector is zero or not finite, which a committed one never should be.
    Member {
        /// Number of the member, from 0.
        index: usize,
    },
    /// The weighted unit vectors add up to nothing.
    Cancelled,
}

/// Fuses the vectors of one row into `fused`, which has the dimension that [`plan`](super::plan()) gave: as many components
/// as each part for a mean, as all parts together for a concatenation.
///
/// # Errors
/// When there is no direction to give; `fused` is then left as it was.
pub fn fuse_vectors(method: Method, parts: &[Part<'_>], fused: &mut [f32]) -> Result<(), VectorFault> {
    let (mut sums, mut start) = (vec![0.0; fused.len()], 0);
    for (index, part) in parts.iter().enumerate() {
        let part_length = length(part.vector.iter().map(|&component| f64::from(component)));
        // Squares of f32 neither overflow nor vanish in f64.
        if part_length == 0.0 || !part_length.is_finite() {
            return Err(VectorFault::Member { index });
        }
        for (sum, &component) in sums[start..].iter_mut().zip(part.vector) {
            *sum += part.weight * (f64::from(component) / part_length);
        }
        if method == Method::Concat {
            start += part.vector.len();
        }
    }
    let whole_length = length(sums.iter().copied());
    if !(SHORTEST..f64::INFINITY).contains(&whole_length) {
        return Err(VectorFault::Cancelled);
    }
    for (component, sum) in fused.iter_mut().zip(sums) {
        *component = rounded(sum / whole_length);
    }
    Ok(())
}

fn length(components: impl Iterator<Item = f64>) -> f64 {
    components.map(|component| component * component).sum::<f64>().sqrt()
}

#[expect(clippy::cast_possible_truncation, reason = "components of a unit vector fit f32; this is the rounding step")]
fn rounded(component: f64) -> f32 {
    component as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Members = Vec<(f64, Vec<f32>)>;

    fn fuse(method: Method, members: &[(f64, Vec<f32>)]) -> Result<Vec<f32>, VectorFault> {
        let parts: Vec<_> = members.iter().map(|(weight, vector)| Part { vector, weight: *weight }).collect();
        let dimension = match method {
            Method::Mean => members[0].1.len(),
            Method::Concat => members.iter().map(|(_, vector)| vector.len()).sum(),
        };
        let mut fused = vec![f32::NAN; dimension];
        fuse_vectors(method, &parts, &mut fused).map(|()| fused)
    }

    #[track_caller]
    fn check(method: Method, members: &[(f64, &[f32])], expected: Result<&[f32], VectorFault>) {
        let members: Members = members.iter().map(|(weight, vector)| (*weight, vector.to_vec())).collect();
        let found = fuse(method, &members);
        match (&found, expected) {
            (Ok(found), Ok(expected)) => {
                assert_eq!(found.len(), expected.len());
                let far = found.iter().zip(expected).any(|(found, expected)| (found - expected).abs() > 1e-7);
                assert!(!far, "{found:?} instead of {expected:?}");
            }
            _ => assert_eq!(found.as_deref(), expected.as_ref().map(|vector| &**vector)),
        }
    }

    #[test]
    fn lengths_of_members_do_not_matter_and_weights_do() {
        let half = std::f32::consts::FRAC_1_SQRT_2;
        check(Method::Mean, &[(0.5, &[3.0, 0.0]), (0.5, &[0.0, 1e-30])], Ok(&[half, half]));
        check(Method::Mean, &[(0.75, &[1.0, 0.0]), (0.25, &[0.0, -9.0])], Ok(&[0.948_683_3, -0.316_227_77]));
        check(Method::Mean, &[(1.0, &[3e38, -3e38])], Ok(&[half, -half]));
        check(Method::Mean, &[(1.0, &[1e-45, 0.0])], Ok(&[1.0, 0.0]));
        check(Method::Concat, &[(0.5, &[3.0, 4.0]), (0.5, &[-2.0])], Ok(&[0.6 * half, 0.8 * half, -half]));
        check(Method::Concat, &[(0.6, &[5.0]), (0.0, &[1.0, -2.0]), (0.4, &[0.0, 7.0])], {
            Ok(&[0.832_050_3, 0.0, 0.0, 0.0, 0.554_700_2])
        });
    }

    #[test]
    fn a_row_without_a_direction_has_a_fault() {
        let third = 1.0 / 3.0;
        check(Method::Mean, &[(0.5, &[1.0, 2.0]), (0.5, &[-1.0, -2.0])], Err(VectorFault::Cancelled));
        // Equal but for the rounding of their components.
        check(Method::Mean, &[(0.5, &[0.1, 0.2]), (0.5, &[-0.3, -0.6])], Err(VectorFault::Cancelled));
        check(
            Method::Mean,
            &[(third, &[1.0, 0.0]), (third, &[-0.5, 0.866_025_4]), (third, &[-0.5, -0.866_025_4])],
            Err(VectorFault::Cancelled),
        );
        check(Method::Mean, &[(0.51, &[1.0, 0.0]), (0.49, &[-1.0, 0.0])], Ok(&[1.0, 0.0]));
        let half = std::f32::consts::FRAC_1_SQRT_2;
        check(Method::Concat, &[(0.5, &[1.0]), (0.5, &[-1.0])], Ok(&[half, -half]));
        for useless in [0.0, f32::NAN, f32::INFINITY] {
            for method in [Method::Mean, Method::Concat] {
                let expected = Err(VectorFault::Member { index: 1 });
                check(method, &[(0.5, &[1.0]), (0.5, &[useless])], expected);
            }
        }
        check(Method::Concat, &[(0.5, &[1.0]), (0.5, &[])], Err(VectorFault::Member { index: 1 }));
    }

    fn norm(vector: &[f64]) -> f64 {
        vector.iter().fold(0.0, |sum, component| sum + component * component).sqrt()
    }

    /// The definition, word for word; the length of the sum before it is scaled comes with it.
    fn reference(method: Method, members: &[(f64, Vec<f32>)]) -> (Vec<f64>, f64) {
        let scaled: Vec<Vec<f64>> = members
            .iter()
            .map(|(weight, vector)| {
                let vector: Vec<f64> = vector.iter().map(|&component| component.into()).collect();
                vector.iter().map(|component| weight * component / norm(&vector)).collect()
            })
            .collect();
        let whole = match method {
            Method::Concat => scaled.concat(),
            Method::Mean => (0..scaled[0].len()).map(|axis| scaled.iter().map(|part| part[axis]).sum()).collect(),
        };
        let length = norm(&whole);
        (whole.iter().map(|component| component / length).collect(), length)
    }

    fn any_members(rows: usize) -> impl Strategy<Value = Vec<Members>> {
        (1_usize..5, 1_usize..9).prop_flat_map(move |(members, dimension)| {
            let vector = || {
                let component = prop_oneof![-1.0_f32..1.0, -1e30_f32..1e30, -1e-40_f32..1e-40, Just(0.0_f32)];
                let not_zero = |vector: &Vec<f32>| vector.iter().any(|&component| component != 0.0);
                prop::collection::vec(component, dimension).prop_filter("not zero", not_zero)
            };
            let weights = prop::collection::vec(0.01_f64..1.0, members);
            let vectors = prop::collection::vec(prop::collection::vec(vector(), members), rows);
            (weights, vectors).prop_map(|(weights, rows)| {
                let sum: f64 = weights.iter().sum();
                let weights = weights.into_iter().map(move |weight| weight / sum);
                rows.into_iter().map(|vectors| weights.clone().zip(vectors).collect()).collect()
            })
        })
    }

    proptest! {
        #[test]
        fn fused_vectors_are_those_of_the_definition(rows in any_members(1)) {
            for method in [Method::Mean, Method::Concat] {
                let (expected, length) = reference(method, &rows[0]);
                match fuse(method, &rows[0]) {
                    Ok(found) => {
                        prop_assert!(length > SHORTEST * 0.999);
                        prop_assert_eq!(found.len(), expected.len());
                        // Half a unit in the last place below 1, and what a mean of little length adds to it.
                        let tolerance = 6e-8 + 1e-14 / length;
                        for (found, expected) in found.iter().zip(&expected) {
                            prop_assert!((f64::from(*found) - expected).abs() <= tolerance, "{} {}", found, expected);
                        }
                    }
                    Err(fault) => {
                        prop_assert_eq!((method, fault), (Method::Mean, VectorFault::Cancelled));
                        prop_assert!(length < SHORTEST * 1.001);
                    }
                }
            }
        }

        #[test]
        fn the_cosine_of_concatenations_is_the_weighted_mean_of_cosines(rows in any_members(2)) {
            let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
            let cosine = |a: &[f32], b: &[f32]| dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt());
            let fused: Vec<_> = rows.iter().map(|members| fuse(Method::Concat, members).unwrap()).collect();
            let parts = || rows[0].iter().zip(&rows[1]);
            let squares: f64 = parts().map(|((weight, _), _)| weight * weight).sum();
            let expected: f64 = parts().map(|((weight, a), (_, b))| weight * weight * cosine(a, b)).sum::<f64>() / squares;
            prop_assert!((cosine(&fused[0], &fused[1]) - expected).abs() < 1e-6);
        }
    }
}
