//! What kernels over words of several numbers share.

use std::arch::x86_64::{__m512i, _mm512_loadu_si512};

/// Implements [`Tiles`] for a proof of instructions beyond AVX-512, whose rows and panels are both made of words, with an
/// instance of a kernel for each number of rows and vectors.
macro_rules! tiles_of_words {
    ($proof:ident, $kernel:ident, $convert:ident) => {
        impl $proof {
            /// [rows, inputs] to [rows, words].
            pub(super) fn convert(self, inputs: usize, rows: &[f32], words: &mut [u32]) {
                if inputs == 0 {
                    return words.fill(0);
                }
                for (row, words) in rows.chunks_exact(inputs).zip(words.chunks_exact_mut(Self::words(inputs))) {
                    // SAFETY: a value of this type exists only where the processor has the instructions.
                    unsafe { $convert(row, words) };
                }
            }
        }

        impl Tiles for $proof {
            type Input = u32;
            type Word = u32;
            type Simd = V4;

            const ROWS: usize = 8;
            const WIDTH: usize = 48;
            const GRANULE: usize = 16;

            fn simd(self) -> V4 {
                self.0
            }

            fn sum(self, rows: usize, input: &[u32], panel: &[u32], later: &[u32], sums: &mut [f32]) {
                let vectors = sums.len() / rows / Self::GRANULE;
                tiles_of_words!(@match $kernel, rows, vectors, input, panel, later, sums, [1 2 3 4 5 6 7 8])
            }
        }
    };
    (@match $kernel:ident, $rows:ident, $vectors:ident, $input:ident, $panel:ident, $later:ident, $sums:ident,
        [$($row:literal)*]) => {
        // SAFETY: a value of this type exists only where the processor has the instructions.
        unsafe {
            match ($vectors, $rows) {
                $((1, $row) => $kernel::<$row, 1>($input, $panel, $later, $sums),)*
                $((2, $row) => $kernel::<$row, 2>($input, $panel, $later, $sums),)*
                $((3, $row) => $kernel::<$row, 3>($input, $panel, $later, $sums),)*
                (vectors, rows) => unreachable!("no tile of {rows} rows and {vectors} vectors"),
            }
        }
    };
}
pub(super) use tiles_of_words;

/// The rows of [ROWS, words]. A loop, as what a library calls is not compiled for the instructions of the caller, and so
/// not inlined.
#[inline(always)]
pub(super) fn rows_of<const ROWS: usize>(input: &[u32], words: usize) -> [&[u32]; ROWS] {
    assert_eq!(input.len(), ROWS * words);
    let mut rows = [&input[..words]; ROWS];
    for row in 1..ROWS {
        rows[row] = &input[row * words..(row + 1) * words];
    }
    rows
}

/// A vector of words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(words: &[u32; 16]) -> __m512i {
    // SAFETY: sixteen words are a vector.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}
