//! A vector register as a type, so that a kernel is written once and compiled for every set of instructions.
//!
//! [`Portable`] is the plain twin of the others. A kernel is a [`Work`] whose body is inlined into a function with the
//! target features.
#![expect(clippy::inline_always, reason = "a body that is not inlined is compiled without the instructions")]

/// The operations that are one instruction each, which sets have under other names.
#[cfg(target_arch = "x86_64")]
macro_rules! single_instructions {
    (splat: $splat:ident, load: $load:ident, store: $store:ident, add: $add:ident, sub: $sub:ident, mul: $mul:ident,
        mul_add: $mul_add:ident, max: $max:ident) => {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Self(unsafe { $splat(value) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { $load(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { $store(to, self.0) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, summand: Self) -> Self {
            Self(unsafe { $mul_add(self.0, factor.0, summand.0) })
        }

        single_instructions! { @pairs add: $add, sub: $sub, mul: $mul, max: $max }
    };
    (@pairs $($name:ident: $instruction:ident),*) => {
        $(
            #[inline(always)]
            unsafe fn $name(self, other: Self) -> Self {
                Self(unsafe { $instruction(self.0, other.0) })
            }
        )*
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
pub(super) use portable::Portable;

/// Most lanes of a vector.
pub(super) const MAX_LANES: usize = 16;

/// Something to do with vectors.
pub(super) trait Work {
    /// What comes out.
    type Output;

    /// Does it. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    unsafe fn on<V: Vector>(self) -> Self::Output;
}

/// Some f32 numbers on which the processor works at once.
///
/// # Safety
/// Of every function: the processor has the instructions, and pointers reach as many numbers as the function says.
pub(super) trait Vector: Copy {
    /// How many numbers.
    const LANES: usize;
    /// Largest tile of a matrix product that stays in registers, in rows and vectors: first with as many rows, then with
    /// as many vectors as are of use.
    const TILES: [(usize, usize); 2];

    /// Does work where these instructions may be used; a call, not inlined.
    unsafe fn call<W: Work>(work: W) -> W::Output;

    /// The same number in all lanes.
    unsafe fn splat(value: f32) -> Self;
    /// `LANES` numbers.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` ≤ `LANES` numbers and zeros.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    /// All numbers.
    unsafe fn store(self, to: *mut f32);
    /// The first `count` ≤ `LANES` numbers.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    /// self + other.
    unsafe fn add(self, other: Self) -> Self;
    /// self - other.
    unsafe fn sub(self, other: Self) -> Self;
    /// self · other.
    unsafe fn mul(self, other: Self) -> Self;
    /// self · factor + summand, rounded once where there is an instruction for it.
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self;
    /// The larger; `other` where one is not a number.
    unsafe fn max(self, other: Self) -> Self;
    /// Minus infinity outside of lanes `first..end`, both ≤ `LANES`.
    unsafe fn only(self, first: usize, end: usize) -> Self;
    /// 2^x within 2e-7 for x ≤ 0, and 0 below -126, so that no slow denormal numbers arise.
    unsafe fn exp2(self) -> Self;
    /// Writes a block of [rows ≤ `LANES`, columns ≤ `LANES`] at a stride, times a factor, as [columns, `LANES`] with zeros
    /// for missing rows.
    unsafe fn transpose(from: *const f32, stride: usize, rows: usize, columns: usize, factor: Self, to: *mut f32);
}

/// 2^x on [-1/2, 1/2], by interpolation at Chebyshev's points, within 8e-8: factors of x^6, x^5, … x^0.
///
/// `gemm::function` has e^x on the vectors of `pulp`: they can neither round nor scale by powers of two in an instruction.
const EXP2: [f32; 7] = [1.545_316_3e-4, 1.339_086_3e-3, 9.618_083e-3, 5.550_357e-2, 2.402_265e-1, 6.931_472e-1, 1.0];

/// Below this, 2^x is not a normal number.
const EXP2_MIN: f32 = -126.0;

#[cfg(test)]
mod tests;
