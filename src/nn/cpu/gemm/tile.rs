//! The innermost loop: some rows of activations by one panel of weights, the sums in registers.
//!
//! Panels are made of words of 32 bits, one an output and step: a number of f32, two of bf16, four of int8.
//!
//! A tile fills the registers of an instruction set, with room for one row of the panel and one activation. It is safe
//! code: slices of known length let the compiler leave out every bound check.

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};
use pulp::{Scalar, Simd, WithSimd};

/// How many inputs ahead weights are prefetched: about a hundred cycles, the latency of the second-level cache. Worth a
/// few hundredths in all and a tenth with few rows; longer distances measured the same.
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
    /// What rows are made of.
    type Input: Copy;
    /// What panels are made of.
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

    /// Some rows by a panel to [rows, width]; at most [`Tiles::ROWS`] and at least one row. `later` are weights that will be
    /// wanted soon.
    fn sum(self, rows: usize, input: &[Self::Input], panel: &[Self::Word], later: &[Self::Word], sums: &mut [f32]);
}

/// How numbers stand in words.
pub(super) trait Packing<const NUMBERS: usize> {
    type Word;
    type Vector<S: Simd>: Copy;

    fn vectors<S: Simd>(words: &[Self::Word]) -> &[Self::Vector<S>];

    /// One of the numbers of each word.
    fn number<S: Simd>(simd: S, words: Self::Vector<S>, place: usize) -> S::f32s;
}

/// One f32.
pub(super) struct Single;

impl Packing<1> for Single {
    type Word = f32;
    type Vector<S: Simd> = S::f32s;

    #[inline(always)]
    fn vectors<S: Simd>(words: &[f32]) -> &[S::f32s] {
        S::as_simd_f32s(words).0
    }

    #[inline(always)]
    fn number<S: Simd>(_: S, words: S::f32s, _: usize) -> S::f32s {
        words
    }
}

/// Two of bf16, which are the upper halves of numbers of f32.
pub(super) struct Pair;

impl Packing<2> for Pair {
    type Word = u32;
    type Vector<S: Simd> = S::u32s;

    #[inline(always)]
    fn vectors<S: Simd>(words: &[u32]) -> &[S::u32s] {
        S::as_simd_u32s(words).0
    }

    #[inline(always)]
    fn number<S: Simd>(simd: S, words: S::u32s, place: usize) -> S::f32s {
        simd.transmute_f32s_u32s(if place == 0 {
            simd.wrapping_dyn_shl_u32s(words, simd.splat_u32s(16))
        } else {
            simd.and_u32s(words, simd.splat_u32s(0xffff_0000))
        })
    }
}

/// Tiles whose weights are in bf16, in pairs, and which multiply and add in f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widened<S>(pub(super) S);

/// Implements [`Tiles`] in f32 with a kernel for each number of rows and each width, in vectors.
macro_rules! tiles {
    ($simd:ty, rows: $most_rows:literal, width: $vectors:literal, granule: $granule:literal, $kernels:tt) => {
        tiles!(@tiles $simd, $simd, Single, 1, $most_rows, $vectors, $granule, $kernels);
        tiles!(@tiles Widened<$simd>, $simd, Pair, 2, $most_rows, $vectors, $granule, $kernels);

        impl From<Widened<$simd>> for $simd {
            fn from(Widened(simd): Widened<$simd>) -> Self {
                simd
            }
        }
    };
    (@tiles $tiles:ty, $simd:ty, $packing:ty, $numbers:literal, $rows:literal, $vectors:literal, $granule:literal,
        $kernels:tt) => {
        impl Tiles for $tiles {
            type Input = f32;
            type Word = <$packing as Packing<$numbers>>::Word;
            type Simd = $simd;

            const ROWS: usize = $rows;
            const WIDTH: usize = $vectors * <$simd as Simd>::F32_LANES;
            const GRANULE: usize = $granule * <$simd as Simd>::F32_LANES;

            fn simd(self) -> $simd {
                self.into()
            }

            fn sum(self, rows: usize, input: &[f32], panel: &[Self::Word], later: &[Self::Word], sums: &mut [f32]) {
                let (simd, vectors) = (self.simd(), sums.len() / rows / <$simd as Simd>::F32_LANES);
                tiles!(@kernels simd, $packing, $numbers, rows, vectors, input, panel, later, sums, $kernels);
            }
        }
    };
    (@kernels $simd:ident, $packing:ty, $numbers:literal, $rows:ident, $vectors:ident, $input:ident, $panel:ident,
        $later:ident, $sums:ident, { $($count:literal: [$($row:literal)*]),* }) => {
        match ($vectors, $rows) {
            $($(($count, $row) => Simd::vectorize($simd, Kernel::<$packing, $numbers, $row, $count> {
                input: $input, panel: $panel, later: $later, sums: $sums,
            }),)*)*
            (vectors, rows) => unreachable!("no tile of {rows} rows and {vectors} vectors"),
        }
    };
}

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

/// `ROWS` rows by a panel of `VECTORS` vectors of words of `NUMBERS` numbers.
struct Kernel<'a, P: Packing<NUMBERS>, const NUMBERS: usize, const ROWS: usize, const VECTORS: usize> {
    /// [ROWS, inputs].
    input: &'a [f32],
    /// [inputs / NUMBERS, VECTORS].
    panel: &'a [P::Word],
    /// What will be wanted soon.
    later: &'a [P::Word],
    /// [ROWS, VECTORS].
    sums: &'a mut [f32],
}

impl<P: Packing<NUMBERS>, const NUMBERS: usize, const ROWS: usize, const VECTORS: usize> WithSimd
    for Kernel<'_, P, NUMBERS, ROWS, VECTORS>
{
    type Output = ();

    #[expect(clippy::needless_range_loop, reason = "an index for several arrays at once")]
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (panel, _) = P::vectors::<S>(self.panel).as_chunks::<VECTORS>();
        let inputs = self.input.len() / ROWS;
        let (panel, last) = panel.split_at(inputs / NUMBERS);
        let row_of = |row| &self.input[row * inputs..(row + 1) * inputs];
        let rows: [&[[f32; NUMBERS]]; ROWS] = std::array::from_fn(|row| &row_of(row).as_chunks().0[..panel.len()]);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        let mut later = Later::new(self.later, panel.len());
        for (index, words) in panel.iter().enumerate() {
            prefetch(words);
            later.ask();
            let words = *words;
            for place in 0..NUMBERS {
                let mut weights = [simd.splat_f32s(0.0); VECTORS];
                for vector in 0..VECTORS {
                    weights[vector] = P::number(simd, words[vector], place);
                }
                for row in 0..ROWS {
                    let activation = simd.splat_f32s(rows[row][index][place]);
                    for vector in 0..VECTORS {
                        sums[row][vector] = simd.mul_add_e_f32s(activation, weights[vector], sums[row][vector]);
                    }
                }
            }
        }
        // Where inputs do not fill the last word.
        for (place, words) in last.iter().enumerate() {
            for row in 0..ROWS {
                let activation = simd.splat_f32s(row_of(row)[inputs / NUMBERS * NUMBERS + place]);
                for vector in 0..VECTORS {
                    let weight = P::number(simd, words[vector], place);
                    sums[row][vector] = simd.mul_add_e_f32s(activation, weight, sums[row][vector]);
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

/// Weights after the current panel, prefetched from beyond the second-level cache a little at each step.
pub(super) struct Later {
    first: *const u8,
    /// In 1/65,536 of a byte.
    offset: usize,
    step: usize,
}

impl Later {
    #[inline(always)]
    pub(super) fn new<W>(words: &[W], steps: usize) -> Self {
        Self {
            first: words.as_ptr().cast(),
            offset: 0,
            step: (size_of_val(words) << 16).checked_div(steps).unwrap_or(0),
        }
    }

    /// The part of one step.
    #[inline(always)]
    pub(super) fn ask(&mut self) {
        let address = self.first.wrapping_add(self.offset >> 16);
        self.offset += self.step;
        // SAFETY: a prefetch is a hint that may name any address.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
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
