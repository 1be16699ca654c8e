//! The innermost loop: some rows of activations by one panel of weights, the sums in registers.
//!
//! Both are made of words of 32 bits, of which a kernel takes one an output and step: a number of f32, two of bf16, four
//! of int8. What else a kernel wants to know stands in words of its own among them.
//!
//! The sizes of a tile are those that fill the registers of an instruction set and leave room for one row of the panel
//! and one activation. Per input, a panel's weights are read once and used for every row of the tile. It is safe code:
//! slices of known length let the compiler leave out every bound check.

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};
use pulp::{Scalar, Simd, WithSimd};

/// How many inputs ahead weights are asked for: about a hundred cycles, the way from the second-level cache and back. It
/// is worth a few hundredths in all and a tenth where few rows pass under each panel; longer distances measured the same.
const PREFETCH_INPUTS: usize = 8;

/// Room for the sums of a tile of any shape.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Tile([f32; 8 * 48]);

impl Default for Tile {
    fn default() -> Self {
        Self([0.0; 8 * 48])
    }
}

impl Tile {
    /// The first so many.
    pub(super) fn of(&mut self, length: usize) -> &mut [f32] {
        &mut self.0[..length]
    }
}

/// Tiles of a kernel.
pub(super) trait Tiles: Copy {
    /// What rows and panels are made of.
    type Word: Copy + Default;
    /// The instructions for what follows a product.
    type Simd: Simd;
    /// Most rows of a tile.
    const ROWS: usize;
    /// Width of a whole panel.
    const WIDTH: usize;
    /// The width of a panel is a multiple of this.
    const GRANULE: usize;

    /// The instructions for what follows a product.
    fn simd(self) -> Self::Simd;

    /// [rows, words] · [words, width] to [rows, width]; at most [`Tiles::ROWS`] and at least one row.
    fn sum(self, rows: usize, input: &[Self::Word], panel: &[Self::Word], sums: &mut [f32]);
}

/// Implements [`Tiles`] in f32 with a kernel for each number of rows and each width, in vectors.
macro_rules! tiles {
    ($simd:ty, rows: $most_rows:literal, width: $vectors:literal, granule: $granule:literal, $kernels:tt) => {
        impl Tiles for $simd {
            type Word = f32;
            type Simd = Self;

            const ROWS: usize = $most_rows;
            const WIDTH: usize = $vectors * <$simd as Simd>::F32_LANES;
            const GRANULE: usize = $granule * <$simd as Simd>::F32_LANES;

            fn simd(self) -> Self {
                self
            }

            fn sum(self, rows: usize, input: &[f32], panel: &[f32], sums: &mut [f32]) {
                let vectors = sums.len() / rows / <$simd as Simd>::F32_LANES;
                tiles!(@kernels self, rows, vectors, input, panel, sums, $kernels);
            }
        }
    };
    (@kernels $simd:ident, $rows:ident, $vectors:ident, $input:ident, $panel:ident, $sums:ident,
        { $($count:literal: [$($row:literal)*]),* }) => {
        match ($vectors, $rows) {
            $($(($count, $row) => Simd::vectorize($simd, Kernel::<$row, $count> {
                input: $input, panel: $panel, sums: $sums,
            }),)*)*
            (vectors, rows) => unreachable!("no tile of {rows} rows and {vectors} vectors"),
        }
    };
}

/// Calls the instance of a kernel in words for a number of rows and the vectors of a panel.
#[cfg(target_arch = "x86_64")]
macro_rules! tile_of_words {
    ($kernel:ident($rows:expr, $input:expr, $panel:expr, $sums:expr)) => {
        tile_of_words!(@match $kernel, $rows, $sums.len() / $rows / 16, $input, $panel, $sums, [1 2 3 4 5 6 7 8])
    };
    (@match $kernel:ident, $rows:expr, $vectors:expr, $input:expr, $panel:expr, $sums:expr, [$($row:literal)*]) => {
        match ($vectors, $rows) {
            $((1, $row) => $kernel::<$row, 1>($input, $panel, $sums),)*
            $((2, $row) => $kernel::<$row, 2>($input, $panel, $sums),)*
            $((3, $row) => $kernel::<$row, 3>($input, $panel, $sums),)*
            (vectors, rows) => unreachable!("no tile of {rows} rows and {vectors} vectors"),
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use tile_of_words;

// 24 of 32 registers are sums, three the panel's, one the activation's.
#[cfg(target_arch = "x86_64")]
tiles!(V4, rows: 8, width: 3, granule: 1, {
    1: [1 2 3 4 5 6 7 8],
    2: [1 2 3 4 5 6 7 8],
    3: [1 2 3 4 5 6 7 8]
});

// 12 of 16 registers are sums, two the panel's, one the activation's.
#[cfg(target_arch = "x86_64")]
tiles!(V3, rows: 6, width: 2, granule: 2, { 2: [1 2 3 4 5 6] });

// 32 sums, which compilers put into eight registers of four.
tiles!(Scalar, rows: 4, width: 8, granule: 8, { 8: [1 2 3 4] });

/// `ROWS` rows by a panel of `VECTORS` vectors.
struct Kernel<'a, const ROWS: usize, const VECTORS: usize> {
    /// [ROWS, inputs].
    input: &'a [f32],
    /// [inputs, VECTORS].
    panel: &'a [f32],
    /// [ROWS, VECTORS].
    sums: &'a mut [f32],
}

impl<const ROWS: usize, const VECTORS: usize> WithSimd for Kernel<'_, ROWS, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (panel, _) = S::as_simd_f32s(self.panel).0.as_chunks::<VECTORS>();
        let inputs = panel.len();
        assert_eq!(self.input.len(), ROWS * inputs);
        let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &self.input[row * inputs..(row + 1) * inputs]);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        for (index, weights) in panel.iter().enumerate() {
            prefetch(weights);
            let weights = *weights;
            for row in 0..ROWS {
                let activation = simd.splat_f32s(rows[row][index]);
                for vector in 0..VECTORS {
                    sums[row][vector] = simd.mul_add_e_f32s(activation, weights[vector], sums[row][vector]);
                }
            }
        }
        let (places, _) = S::as_mut_simd_f32s(self.sums).0.as_chunks_mut::<VECTORS>();
        assert_eq!(places.len(), ROWS);
        #[expect(clippy::manual_memcpy, reason = "a copy of all at once would need the sums in memory all along")]
        for row in 0..ROWS {
            places[row] = sums[row];
        }
    }
}

/// Asks for the weights of a later step.
#[inline(always)]
pub(super) fn prefetch<V, const VECTORS: usize>(weights: &[V; VECTORS]) {
    #[cfg(target_arch = "x86_64")]
    for vector in 0..VECTORS {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let later = weights.as_ptr().wrapping_add(PREFETCH_INPUTS * VECTORS + vector);
        // SAFETY: a prefetch is a hint that may name any address, also one beyond the panel's end.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(later.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = weights;
}
