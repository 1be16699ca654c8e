//! Layers in bf16 and int8: against their definition in plain numbers, and against the exact product within the error
//! that rounding can have. On a processor without the instructions only the definitions are checked.
#![expect(clippy::cast_possible_truncation, reason = "steps are small whole numbers")]

use half::bf16 as Half;
use proptest::prelude::*;

use super::tests::Case;
use super::*;
use crate::nn::Instructions;

/// What a kernel makes of its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduction {
    /// Weights in bf16, activations in f32.
    Widened,
    /// Both in bf16.
    Pairs,
    /// Both in int8.
    Fours,
}

const ALL: [Reduction; 3] = [Reduction::Widened, Reduction::Pairs, Reduction::Fours];

/// The kernels that the processor has.
fn kernels(reduction: Reduction) -> Vec<Kernel> {
    match reduction {
        Reduction::Widened => {
            let sets = [Instructions::Avx512, Instructions::Avx2, Instructions::Portable];
            sets.map(|set| Kernel(Proof::Widened(Vectors::at_most(set)))).to_vec()
        }
        #[cfg(target_arch = "x86_64")]
        Reduction::Pairs => bf16::Bf16::try_new().map(|kernel| Kernel(Proof::Bf16(kernel))).into_iter().collect(),
        #[cfg(not(target_arch = "x86_64"))]
        Reduction::Pairs => Vec::new(),
        Reduction::Fours => Kernel::new(Arithmetic::Int8, Instructions::Avx512).into_iter().collect(),
    }
}

/// A row of numbers as multiples of a step, and the step.
struct Steps {
    step: f64,
    multiples: Vec<i64>,
}

impl Steps {
    /// At most 127 to either side.
    fn of_weights(row: &[f32]) -> Self {
        let step = row.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0;
        let multiple = |value: &f32| if step == 0.0 { 0 } else { (value / step).round_ties_even() as i64 };
        Self { step: step.into(), multiples: row.iter().map(multiple).collect() }
    }

    /// 255 from the least to the largest, of which one is zero.
    fn of_activations(row: &[f32]) -> Self {
        let (least, largest) =
            row.iter().fold((0.0_f32, 0.0_f32), |(least, largest), &value| (least.min(value), largest.max(value)));
        let step = ((largest - least) / 255.0).max(1e-36);
        let inverse = 1.0 / step;
        let zero = (-least * inverse).round_ties_even() as i64;
        let multiple = |value: &f32| ((value * inverse).round_ties_even() as i64 + zero).clamp(0, 255) - zero;
        Self { step: step.into(), multiples: row.iter().map(multiple).collect() }
    }

    fn values(&self) -> Vec<f64> {
        self.multiples.iter().map(|&multiple| multiple as f64 * self.step).collect()
    }
}

/// A row as the layer has it, and how far a number can be from what it was.
fn reduced(reduction: Reduction, row: &[f32], is_weight: bool) -> Vec<(f64, f64)> {
    match reduction {
        Reduction::Widened if !is_weight => row.iter().map(|&value| (value.into(), 0.0)).collect(),
        Reduction::Widened | Reduction::Pairs => {
            let rounded = |&value: &f32| (Half::from_f32(value).to_f64(), f64::from(value).abs() / 256.0);
            row.iter().map(rounded).collect()
        }
        Reduction::Fours => {
            let steps = if is_weight { Steps::of_weights(row) } else { Steps::of_activations(row) };
            // The zero is rounded as well, which moves the largest number by as much.
            let bound = if is_weight { 0.5001 } else { 1.001 } * steps.step;
            steps.values().into_iter().map(|value| (value, bound)).collect()
        }
    }
}

#[track_caller]
fn check(case: &Case) {
    let (outputs, inputs) = (case.weight.rows, case.weight.columns);
    for reduction in ALL {
        let reduce = |values: &[f32], is_weight| -> Vec<(f64, f64)> {
            values.chunks_exact(inputs.max(1)).flat_map(|row| reduced(reduction, row, is_weight)).collect()
        };
        let (weight, input) = (reduce(&case.weight.values, true), reduce(&case.input, false));
        // The layer's sum, and the sum of its terms' magnitudes.
        let sums: Vec<(f64, f64)> = (0..case.residual.len())
            .map(|index| {
                let (row, column) = (index / outputs, index % outputs);
                let (mut sum, mut exact, mut magnitude, mut bound) = (0.0, 0.0, 2.0, 0.0);
                for k in 0..inputs {
                    let ((x, dx), (w, dw)) = (input[row * inputs + k], weight[column * inputs + k]);
                    let (true_x, true_w) =
                        (f64::from(case.input[row * inputs + k]), f64::from(case.weight.values[column * inputs + k]));
                    assert!((x - true_x).abs() <= dx && (w - true_w).abs() <= dw, "{reduction:?}: {x} {w}");
                    sum += x * w;
                    exact += true_x * true_w;
                    magnitude += (x * w).abs();
                    bound += true_x.abs() * dw + true_w.abs() * dx + dx * dw;
                }
                assert!((sum - exact).abs() <= bound * 1.000_1, "{reduction:?}: {sum}, not {exact}");
                (sum, magnitude)
            })
            .collect();
        for kernel in kernels(reduction) {
            let layer = PackedLinear::new(kernel, &case.weight, Some(case.bias.clone()));
            for finish in case.finishes() {
                let mut out = case.before(finish);
                layer.apply(&case.input, finish, &mut out);
                for (index, (out, (sum, magnitude))) in out.iter().zip(&sums).enumerate() {
                    let plain = case.finished(index, *sum, finish);
                    let tolerance = 1e-6 + magnitude * f64::from(f32::EPSILON) * (inputs as f64).sqrt().max(4.0);
                    assert!(
                        (f64::from(*out) - plain).abs() <= tolerance,
                        "{kernel:?}, {finish:.20?}, {outputs} of {inputs}, {index}: {out}, not {plain}"
                    );
                }
            }
        }
    }
}

#[test]
fn layers_of_odd_sizes_are_their_definition() {
    for (rows, outputs, inputs) in
        [(0, 5, 3), (3, 0, 5), (2, 3, 0), (1, 1, 1), (1, 47, 9), (9, 48, 17), (8, 49, 33), (17, 95, 5), (5, 20, 1537)]
    {
        check(&Case::new(rows, outputs, inputs));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn layers_of_any_size_are_their_definition(rows in 0_usize..40, outputs in 1_usize..130, inputs in 0_usize..140) {
        check(&Case::new(rows, outputs, inputs));
    }
}

#[test]
fn lopsided_and_empty_rows_keep_their_digits() {
    let mut case = Case::new(4, 20, 64);
    case.input[..64].iter_mut().for_each(|value| *value = value.abs() * 30.0);
    case.input[64..128].iter_mut().for_each(|value| *value = -value.abs() * 1e-30);
    case.input[128..192].fill(0.0);
    case.weight.values[..64].fill(0.0);
    check(&case);
}

#[test]
fn a_row_is_the_same_bits_alone_and_in_any_company() {
    let case = Case::new(141, 70, 300);
    for kernel in ALL.into_iter().flat_map(kernels) {
        let layer = PackedLinear::new(kernel, &case.weight, Some(case.bias.clone()));
        let mut together = vec![f32::NAN; 141 * 70];
        layer.apply(&case.input, Finish::Bias, &mut together);
        for rows in [0..1, 3..17, 140..141, 8..16] {
            let mut alone = vec![f32::NAN; rows.len() * 70];
            layer.apply(&case.input[rows.start * 300..rows.end * 300], Finish::Bias, &mut alone);
            let expected = &together[rows.start * 70..rows.end * 70];
            assert!(alone.iter().zip(expected).all(|(one, other)| one.to_bits() == other.to_bits()), "{rows:?}");
        }
    }
}

#[test]
fn what_is_not_finite_never_becomes_a_number() {
    for kernel in ALL.into_iter().flat_map(kernels) {
        for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 17, 32] {
                let mut case = Case::new(2, 5, 33);
                case.input[place] = fault;
                let layer = PackedLinear::new(kernel, &case.weight, None);
                let mut out = vec![0.0; 10];
                layer.apply(&case.input, Finish::Bias, &mut out);
                assert!(out[..5].iter().all(|value| !value.is_finite()), "{kernel:?}, {fault} at {place}: {out:?}");
                assert!(out[5..].iter().all(|value| value.is_finite()), "{kernel:?}: {out:?}");

                let mut case = Case::new(2, 5, 33);
                case.weight.values[33 + place] = fault;
                let layer = PackedLinear::new(kernel, &case.weight, None);
                layer.apply(&case.input, Finish::Bias, &mut out);
                assert!(!out[1].is_finite() && !out[6].is_finite(), "{kernel:?}, {fault} at {place}: {out:?}");
            }
        }
    }
}
