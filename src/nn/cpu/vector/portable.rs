//! Vectors as arrays: plain loops, for processors without anything better, and the twin that the others are checked with.

#![expect(clippy::needless_range_loop, reason = "what a library's iterators call may be compiled without vectors")]

use super::{EXP2, EXP2_MIN, Vector, Work};

const LANES: usize = 8;

/// Eight numbers.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        let mut lanes = self.0;
        for lane in 0..LANES {
            lanes[lane] = operation(lanes[lane], other.0[lane]);
        }
        Self(lanes)
    }
}

#[inline(always)]
fn larger(one: f32, other: f32) -> f32 {
    if one > other { one } else { other }
}

impl Vector for Portable {
    const LANES: usize = LANES;
    const TILES: [(usize, usize); 2] = [(4, 1), (4, 1)];

    #[inline(never)]
    unsafe fn call<W: Work>(work: W) -> W::Output {
        // SAFETY: every processor has what plain code needs.
        unsafe { work.on::<Self>() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has so many numbers there; the array is read unaligned.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; LANES];
        for (lane, value) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: the caller has `count` numbers there.
            *value = unsafe { *from.add(lane) };
        }
        Self(lanes)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has room for so many numbers; the array is written unaligned.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (lane, value) in self.0.iter().enumerate().take(count) {
            // SAFETY: the caller has room for `count` numbers.
            unsafe { *to.add(lane) = *value };
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |one, other| one + other)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |one, other| one - other)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |one, other| one * other)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self {
        // Rounded twice: without an instruction for it, a single rounding is a call for each number.
        // SAFETY: plain code.
        unsafe { self.mul(factor).add(summand) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, larger)
    }

    #[inline(always)]
    unsafe fn only(self, first: usize, end: usize) -> Self {
        Self(std::array::from_fn(|lane| if (first..end).contains(&lane) { self.0[lane] } else { f32::NEG_INFINITY }))
    }

    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // Adding this rounds to an integer, which then stands in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let mut lanes = self.0;
        for lane in &mut lanes {
            let x = *lane;
            let shifted = x + ROUND;
            let rest = x - (shifted - ROUND);
            let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
            let mut value = EXP2[0];
            for factor in &EXP2[1..] {
                value = value * rest + factor;
            }
            *lane = if x < EXP2_MIN { 0.0 } else { value * power };
        }
        Self(lanes)
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, rows: usize, columns: usize, factor: Self, to: *mut f32) {
        for column in 0..columns {
            for row in 0..LANES {
                // SAFETY: the caller has [rows, columns] numbers at this stride, and room for [columns, LANES].
                unsafe {
                    let value = if row < rows { *from.add(row * stride + column) } else { 0.0 };
                    *to.add(column * LANES + row) = value * factor.0[row];
                };
            }
        }
    }
}
