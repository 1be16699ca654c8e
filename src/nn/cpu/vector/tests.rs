//! Each vector against plain numbers, on every set of instructions that this processor has.

#![expect(clippy::float_cmp, reason = "small whole numbers are exact, and what is moved stays as it is")]

use super::super::instructions::{Instructions, Supported};
use super::*;

/// All operations of one vector type.
struct Everything;

impl Work for Everything {
    type Output = ();

    #[inline(always)]
    unsafe fn on<V: Vector>(self) {
        // SAFETY: the caller has the instructions; all pointers are into arrays that are long enough.
        unsafe {
            check_lanes::<V>();
            check_exp2::<V>();
            check_transpose::<V>();
        }
    }
}

#[inline(always)]
unsafe fn numbers<V: Vector>(vector: V) -> Vec<f32> {
    let mut numbers = vec![0.0; V::LANES];
    // SAFETY: there is room for all lanes.
    unsafe { vector.store(numbers.as_mut_ptr()) };
    numbers
}

/// 0, 1, 4, 9, …
fn squares(count: usize) -> Vec<f32> {
    (0..count).map(|n| (n * n) as f32).collect()
}

#[inline(always)]
unsafe fn check_lanes<V: Vector>() {
    let values = squares(V::LANES);
    // SAFETY: there are as many numbers as lanes, or as many as are asked for.
    unsafe {
        let (vector, ten) = (V::load(values.as_ptr()), V::splat(10.0));
        let check = |result: V, plain: &dyn Fn(f32) -> f32| {
            assert_eq!(numbers(result), values.iter().map(|&x| plain(x)).collect::<Vec<_>>());
        };
        check(vector.add(ten), &|x| x + 10.0);
        check(vector.sub(ten), &|x| x - 10.0);
        check(vector.mul(ten), &|x| x * 10.0);
        check(vector.mul_add(ten, ten), &|x| x * 10.0 + 10.0);
        check(vector.max(ten), &|x| x.max(10.0));
        for count in 0..=V::LANES {
            let mut first = values[..count].to_vec();
            first.resize(V::LANES, 0.0);
            assert_eq!(numbers(V::load_first(values[..count].as_ptr(), count)), first);
            let mut stored = vec![0.0; V::LANES];
            vector.store_first(stored.as_mut_ptr(), count);
            assert_eq!(stored, first);
            for before in 0..=count {
                for (lane, value) in numbers(vector.only(before, count)).into_iter().enumerate() {
                    let expected = if lane >= before && lane < count { values[lane] } else { f32::NEG_INFINITY };
                    assert_eq!(value, expected, "lane {lane} of {before}..{count}");
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn check_exp2<V: Vector>() {
    for step in 0..=126_000_u32 {
        let x = -126.0 + step as f32 / 1000.0;
        // SAFETY: no pointers.
        let result = unsafe { numbers(V::splat(x).exp2()) }[0];
        let error = f64::from(result) / f64::from(x).exp2() - 1.0;
        assert!(error.abs() < 2e-7, "2^{x} is wrong by {error:e}");
    }
    for (x, expected) in [(0.0, 1.0), (-126.5, 0.0), (-1e30, 0.0), (f32::NEG_INFINITY, 0.0)] {
        // SAFETY: no pointers.
        assert_eq!(unsafe { numbers(V::splat(x).exp2()) }[V::LANES - 1], expected, "2^{x}");
    }
    // SAFETY: no pointers.
    assert!(unsafe { numbers(V::splat(f32::NAN).exp2()) }[0].is_nan());
}

#[inline(always)]
unsafe fn check_transpose<V: Vector>() {
    let stride = V::LANES + 3;
    let from = squares(V::LANES * stride);
    for rows in 0..=V::LANES {
        for columns in 0..=V::LANES {
            let mut to = vec![-1.0; V::LANES * V::LANES];
            // SAFETY: both arrays are large enough for a whole block.
            unsafe { V::transpose(from.as_ptr(), stride, rows, columns, V::splat(2.0), to.as_mut_ptr()) };
            for column in 0..V::LANES {
                for row in 0..V::LANES {
                    let there = if row < rows { 2.0 * from[row * stride + column] } else { 0.0 };
                    let expected = if column < columns { there } else { -1.0 };
                    assert_eq!(to[column * V::LANES + row], expected, "[{row}, {column}] of [{rows}, {columns}]");
                }
            }
        }
    }
}

#[test]
fn vectors_compute_as_plain_numbers_do() {
    for instructions in [Instructions::Portable, Instructions::Avx2, Instructions::Avx512] {
        Supported::at_most(instructions).run(Everything);
    }
}
