//! Weights in the order in which a kernel reads them.
//!
//! A weight of [outputs, words] is cut into panels of some outputs. Within a panel, the first words of all outputs stand
//! together, then the second ones: the kernel reads from the first word to the last.

use half::bf16;

use crate::nn::Matrix;

/// Numbers of bf16 in a word.
pub(super) const PAIR: usize = 2;

/// A cache line, and the widest vector.
const ALIGNMENT_BYTES: usize = 64;

/// A weight in panels.
#[derive(Debug)]
pub(super) struct Panels<W> {
    /// Of one output.
    words: usize,
    /// Outputs with the padding at their end: a multiple of the granule.
    padded_outputs: usize,
    width: usize,
    /// Begins at the first cache line in `values`.
    offset: usize,
    values: Vec<W>,
}

/// The weights of some outputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel<'a, W> {
    /// The first output.
    pub(super) first: usize,
    /// Number of outputs, with padding.
    pub(super) width: usize,
    /// [words, width].
    pub(super) weight: &'a [W],
}

/// How panels are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Width of a whole panel.
    pub(super) width: usize,
    /// The width of the last one is a multiple of this.
    pub(super) granule: usize,
}

impl<W: Copy + Default> Panels<W> {
    /// Cuts a weight of [outputs, words] into panels; the last has as many granules as it needs and is filled up with
    /// zeros.
    pub(super) fn pack(outputs: usize, words: usize, cut: Cut, word: impl Fn(usize, usize) -> W) -> Self {
        let Cut { width, granule } = cut;
        let padded_outputs = outputs.next_multiple_of(granule);
        let length = padded_outputs * words;
        let values = vec![W::default(); length + ALIGNMENT_BYTES / size_of::<W>()];
        // A vector that straddles two lines costs two reads.
        let offset = values.as_ptr().align_offset(ALIGNMENT_BYTES).min(values.len() - length);
        let mut packed = Self { words, padded_outputs, width, offset, values };
        for first in (0..outputs).step_by(width) {
            let (start, panel_width) = packed.place(first / width);
            let panel = &mut packed.values[start..start + panel_width * words];
            let rows = first..(first + width).min(outputs);
            // Written in order and read from some rows at once: the other way round, each value written is a cache line
            // of its own.
            for (index, places) in panel.chunks_exact_mut(panel_width).enumerate() {
                for (place, output) in places.iter_mut().zip(rows.clone()) {
                    *place = word(output, index);
                }
            }
        }
        packed
    }

    /// How many there are.
    pub(super) fn panels(&self) -> usize {
        self.padded_outputs.div_ceil(self.width)
    }

    /// Width of all but the last.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// One of them, in the order of their outputs.
    pub(super) fn panel(&self, index: usize) -> Panel<'_, W> {
        let (start, width) = self.place(index);
        Panel { first: index * self.width, width, weight: &self.values[start..start + width * self.words] }
    }

    /// Words of one output.
    pub(super) fn words(&self) -> usize {
        self.words
    }

    /// Where a panel begins in `values`, and its width.
    fn place(&self, index: usize) -> (usize, usize) {
        let first = index * self.width;
        (self.offset + first * self.words, self.width.min(self.padded_outputs - first))
    }
}

impl Panels<u32> {
    /// A weight of [outputs, inputs] in bf16, rounded to the nearest, the even one of two; two inputs in a word, the first
    /// in its lower half.
    pub(super) fn pairs(weight: &Matrix, cut: Cut) -> Self {
        let (outputs, inputs) = (weight.rows, weight.columns);
        let rounded = |output: usize, input: usize| -> u32 {
            let value = if input < inputs { weight.values[output * inputs + input] } else { 0.0 };
            bf16::from_f32(value).to_bits().into()
        };
        Self::pack(outputs, inputs.div_ceil(PAIR), cut, |output, word| {
            rounded(output, PAIR * word) | rounded(output, PAIR * word + 1) << 16
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_holds_the_weights_of_its_outputs_word_by_word() {
        let cut = Cut { width: 4, granule: 2 };
        let panels = Panels::pack(5, 2, cut, |output, word| 10.0 * output as f32 + word as f32);
        let seen: Vec<(usize, usize, &[f32])> =
            [0, 1].map(|index| panels.panel(index)).map(|p| (p.first, p.width, p.weight)).to_vec();
        let (whole, rest) = ([0.0, 10.0, 20.0, 30.0, 1.0, 11.0, 21.0, 31.0], [40.0, 0.0, 41.0, 0.0]);
        assert_eq!(seen, [(0, 4, &whole[..]), (4, 2, &rest[..])]);
        assert_eq!(seen[0].2.as_ptr().align_offset(ALIGNMENT_BYTES), 0);
    }
}
