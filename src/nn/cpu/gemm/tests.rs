//! The packed layer against its definition in f64, on every instruction set that the processor has.

use proptest::prelude::*;
use pulp::{Simd, WithSimd};

use super::*;
use crate::nn::{Activation, Instructions};

fn instructions() -> impl Iterator<Item = Instructions> {
    [Instructions::Avx512, Instructions::Avx2, Instructions::Portable]
        .into_iter()
        .filter(|&set| Vectors::at_most(set).instructions() == set)
}

/// Numbers in [-1, 1) that look random.
pub(super) fn numbers(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    (0..length).map(next).collect()
}

pub(super) struct Case {
    pub(super) weight: Matrix,
    pub(super) bias: Vec<f32>,
    pub(super) input: Vec<f32>,
    pub(super) residual: Vec<f32>,
}

impl Case {
    pub(super) fn new(rows: usize, outputs: usize, inputs: usize) -> Self {
        Self {
            weight: Matrix { rows: outputs, columns: inputs, values: numbers(outputs * inputs, 1) },
            bias: numbers(outputs, 2),
            input: numbers(rows * inputs, 3),
            residual: numbers(rows * outputs, 4),
        }
    }

    pub(super) fn finishes(&self) -> [Finish<'_>; 7] {
        let activations = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];
        let [gelu, gelu_tanh, relu, silu] = activations.map(Finish::Activation);
        [Finish::Bias, gelu, gelu_tanh, relu, silu, Finish::Residual(&self.residual), Finish::Product]
    }

    fn packed(&self, set: Instructions) -> PackedLinear {
        PackedLinear::new(Kernel::single(set), &self.weight, Some(self.bias.clone()))
    }

    /// What stands where the result will be: what a product is taken with, else nothing of use.
    pub(super) fn before(&self, finish: Finish<'_>) -> Vec<f32> {
        match finish {
            Finish::Product => self.residual.clone(),
            _ => vec![f32::NAN; self.residual.len()],
        }
    }

    fn apply(&self, set: Instructions, finish: Finish<'_>) -> Vec<f32> {
        let mut out = self.before(finish);
        self.packed(set).apply(&self.input, finish, &mut out);
        out
    }

    /// What follows a sum.
    pub(super) fn finished(&self, index: usize, sum: f64, finish: Finish<'_>) -> f64 {
        let sum = sum + f64::from(self.bias[index % self.weight.rows]);
        match finish {
            Finish::Bias => sum,
            Finish::Activation(activation) => plain_activation(activation, sum),
            Finish::Residual(residual) => sum + f64::from(residual[index]),
            Finish::Product => sum * f64::from(self.residual[index]),
        }
    }

    /// Value and the sum of the magnitudes that it came from.
    fn plain(&self, finish: Finish<'_>) -> Vec<(f64, f64)> {
        let (outputs, inputs) = (self.weight.rows, self.weight.columns);
        let element = |index: usize| {
            let (row, column) = (index / outputs, index % outputs);
            let terms = (0..inputs)
                .map(|k| f64::from(self.input[row * inputs + k]) * f64::from(self.weight.values[column * inputs + k]));
            let magnitude = terms.clone().map(f64::abs).sum::<f64>() + 2.0;
            (self.finished(index, terms.sum::<f64>(), finish), magnitude)
        };
        (0..self.residual.len()).map(element).collect()
    }

    #[track_caller]
    fn check(&self) {
        for set in instructions() {
            for finish in self.finishes() {
                for (index, (fast, (plain, magnitude))) in
                    self.apply(set, finish).iter().zip(self.plain(finish)).enumerate()
                {
                    // A sum of n terms is off by less than n roundings of what it came from; these are random.
                    let tolerance = 1e-6 + magnitude * f64::from(f32::EPSILON) * (self.weight.columns as f64).sqrt();
                    let difference = (f64::from(*fast) - plain).abs();
                    let shape = (self.weight.rows, self.weight.columns);
                    assert!(difference <= tolerance, "{set:?}, {finish:.20?}, {shape:?}, {index}: {fast}, not {plain}");
                }
            }
        }
    }
}

pub(super) fn plain_activation(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

#[test]
fn layers_of_odd_sizes_are_their_definition() {
    for (rows, outputs, inputs) in [
        (0, 5, 3),
        (3, 0, 5),
        (2, 3, 0),
        (1, 1, 1),
        (1, 47, 9),
        (9, 48, 17),
        (8, 49, 33),
        (7, 65, 2),
        (17, 95, 5),
        (65, 100, 31),
        (13, 384, 130),
        (150, 20, 4100),
    ] {
        Case::new(rows, outputs, inputs).check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn layers_of_any_size_are_their_definition(rows in 0_usize..40, outputs in 1_usize..130, inputs in 0_usize..70) {
        Case::new(rows, outputs, inputs).check();
    }

    #[test]
    fn a_row_is_the_same_bits_alone_and_in_any_company(
        rows in 2_usize..150,
        outputs in 1_usize..130,
        inputs in 1_usize..300,
        first in any::<prop::sample::Index>(),
        count in any::<prop::sample::Index>(),
    ) {
        let first = first.index(rows);
        check_company(&Case::new(rows, outputs, inputs), first..first + count.index(rows - first) + 1);
    }
}

#[test]
fn rows_divided_among_threads_are_the_same_bits() {
    let divide = |layer: &PackedLinear, parts, input: &[f32], finish: Finish<'_>, out: &mut [f32]| {
        let shape = (layer.inputs(), layer.outputs());
        in_parts(parts, shape, input, out, |input, values, out| layer.apply(input, finish.of(&values), out));
    };
    let case = Case::new(301, 70, 40);
    for set in instructions() {
        for finish in case.finishes() {
            let whole = case.apply(set, finish);
            for parts in [1, 2, 3, 7, 400] {
                let mut divided = case.before(finish);
                divide(&case.packed(set), parts, &case.input, finish, &mut divided);
                assert!(whole.iter().zip(&divided).all(|(one, other)| one.to_bits() == other.to_bits()), "{parts}");
            }
        }
    }
    divide(&Case::new(0, 5, 4).packed(Instructions::Portable), 3, &[], Finish::Bias, &mut []);
}

#[test]
fn a_row_is_the_same_bits_in_any_block() {
    // More rows than pass under one panel after the other at this width.
    check_company(&Case::new(150, 50, 4100), 70..80);
}

/// Some rows on their own are what they are among the others.
#[track_caller]
fn check_company(case: &Case, rows: std::ops::Range<usize>) {
    let (outputs, inputs) = (case.weight.rows, case.weight.columns);
    let values = rows.start * outputs..rows.end * outputs;
    for set in instructions() {
        for finish in case.finishes() {
            let together = case.apply(set, finish);
            let mut alone = case.before(finish)[values.clone()].to_vec();
            let finish = finish.of(&values);
            case.packed(set).apply(&case.input[rows.start * inputs..rows.end * inputs], finish, &mut alone);
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(&together[values.clone()]), bits(&alone), "{set:?}, {finish:.20?}, rows {rows:?}");
        }
    }
}

/// A function on vectors, applied to a list.
trait Function: Copy {
    fn of<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s;
}

macro_rules! functions {
    ($($name:ident: $function:ident),*) => {$(
        #[derive(Clone, Copy)]
        struct $name;

        impl Function for $name {
            #[inline(always)]
            fn of<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
                function::$function(simd, x)
            }
        }
    )*};
}

functions!(Exp: exp, Erf: erf, Gelu: gelu, GeluTanh: gelu_tanh, Silu: silu, Relu: relu);

struct Map<'a, F>(F, &'a mut [f32]);

impl<F: Function> WithSimd for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for chunk in self.1.chunks_mut(S::F32_LANES) {
            let value = self.0.of(simd, simd.partial_load_f32s(chunk));
            simd.partial_store_f32s(chunk, value);
        }
    }
}

fn map(set: Instructions, function: impl Function, values: &mut [f32]) {
    let map = Map(function, values);
    Vectors::at_most(set).run(map);
}

/// The largest error of a function on a grid, against f64 and in units of what `scale` says for argument and value.
#[track_caller]
#[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
fn check(
    function: impl Function,
    range: std::ops::RangeInclusive<f64>,
    bound: f64,
    plain: impl Fn(f64) -> f64,
    scale: impl Fn(f64, f64) -> f64,
) {
    let steps = 400_000;
    let arguments: Vec<f32> = (0..=steps)
        .map(|step| (range.start() + (range.end() - range.start()) * f64::from(step) / f64::from(steps)) as f32)
        .collect();
    for set in instructions() {
        let mut values = arguments.clone();
        map(set, function, &mut values);
        let (mut worst, mut place) = (0.0, 0.0);
        for (&x, &value) in arguments.iter().zip(&values) {
            let expected = plain(f64::from(x));
            let error = (f64::from(value) - expected).abs() / scale(f64::from(x), expected);
            if error > worst {
                (worst, place) = (error, x);
            }
        }
        println!("{set:?}: error {worst:.3e} at {place}");
        assert!(worst < bound, "{set:?}: error {worst:e} at {place} is not below {bound:e}");
    }
}

#[test]
fn functions_are_exact_to_single_precision() {
    let relative = |_: f64, value: f64| value.abs();
    let of_argument = |x: f64, _: f64| x.abs().max(f64::MIN_POSITIVE);
    check(Exp, -87.0..=88.0, 1e-7, f64::exp, relative);
    check(Erf, -6.0..=6.0, 5e-7, libm::erf, |x, value| if x == 0.0 { 1.0 } else { value.abs() });
    check(Gelu, -12.0..=12.0, 2.6e-7, |x| plain_activation(Activation::Gelu, x), of_argument);
    check(GeluTanh, -12.0..=12.0, 1.3e-7, |x| plain_activation(Activation::GeluTanh, x), of_argument);
    check(Silu, -80.0..=80.0, 1.3e-7, |x| plain_activation(Activation::Silu, x), of_argument);
    check(Relu, -9.0..=9.0, 1e-9, |x| x.max(0.0), of_argument);
}

#[test]
fn what_is_not_a_number_stays_so() {
    #[track_caller]
    fn check(function: impl Function) {
        for set in instructions() {
            let mut values = [1.0, f32::NAN, -2.0];
            map(set, function, &mut values);
            assert!(values[1].is_nan() && !values[0].is_nan() && !values[2].is_nan(), "{set:?}: {values:?}");
        }
    }
    check(Gelu);
    check(GeluTanh);
    check(Silu);
    check(Relu);
}

#[test]
#[should_panic(expected = "input and result have the same number of rows")]
fn an_input_of_another_number_of_rows_is_refused() {
    let case = Case::new(2, 3, 4);
    case.packed(Instructions::Portable).apply(&case.input[..4], Finish::Bias, &mut [0.0; 6]);
}
