//! Weights in the order in which the kernel reads them.
//!
//! A weight of [outputs, inputs] is cut into panels of some outputs. Within a panel, the weights of one input stand
//! together, one for each output, and the inputs follow each other: the kernel reads from the first value to the last.

use crate::nn::Matrix;

/// A cache line, and the widest vector.
const ALIGNMENT_BYTES: usize = 64;

/// A weight in panels.
#[derive(Debug)]
pub(super) struct Panels {
    inputs: usize,
    /// Outputs with the padding at their end: a multiple of the granule.
    padded_outputs: usize,
    width: usize,
    /// Begins at the first cache line in `values`.
    offset: usize,
    values: Vec<f32>,
}

/// The weights of some outputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel<'a> {
    /// The first output.
    pub(super) first: usize,
    /// Number of outputs, with padding.
    pub(super) width: usize,
    /// [inputs, width].
    pub(super) weight: &'a [f32],
}

impl Panels {
    /// Cuts a weight of [outputs, inputs] into panels of `width` outputs; the last has as many granules as it needs and
    /// is filled up with zeros.
    pub(super) fn pack(weight: &Matrix, granule: usize, width: usize) -> Self {
        let (outputs, inputs) = (weight.rows, weight.columns);
        assert_eq!(weight.values.len(), outputs * inputs, "a matrix has as many values as its shape says");
        let padded_outputs = outputs.next_multiple_of(granule);
        let length = padded_outputs * inputs;
        let values = vec![0.0; length + ALIGNMENT_BYTES / size_of::<f32>()];
        // A vector that straddles two lines costs two reads.
        let offset = values.as_ptr().align_offset(ALIGNMENT_BYTES).min(values.len() - length);
        let mut packed = Self { inputs, padded_outputs, width, offset, values };
        for first in (0..outputs).step_by(width) {
            let (start, panel_width) = packed.place(first / width);
            let panel = &mut packed.values[start..start + panel_width * inputs];
            let rows = first..(first + width).min(outputs);
            // Written in order and read from some rows at once: the other way round, each value written is a cache line
            // of its own.
            for (input, places) in panel.chunks_exact_mut(panel_width).enumerate() {
                for (place, output) in places.iter_mut().zip(rows.clone()) {
                    *place = weight.values[output * inputs + input];
                }
            }
        }
        packed
    }

    /// All panels, in the order of their outputs.
    pub(super) fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        (0..self.padded_outputs.div_ceil(self.width)).map(|index| {
            let (start, width) = self.place(index);
            let weight = &self.values[start..start + width * self.inputs];
            Panel { first: index * self.width, width, weight }
        })
    }

    /// Where a panel begins in `values`, and its width.
    fn place(&self, index: usize) -> (usize, usize) {
        let first = index * self.width;
        (self.offset + first * self.inputs, self.width.min(self.padded_outputs - first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_holds_the_weights_of_its_outputs_input_by_input() {
        // [5, 2]: output o, input i is 10 o + i.
        let values = (0..5).flat_map(|output| [10.0 * output as f32, 10.0 * output as f32 + 1.0]).collect();
        let panels = Panels::pack(&Matrix { rows: 5, columns: 2, values }, 2, 4);
        let seen: Vec<(usize, usize, &[f32])> = panels.panels().map(|p| (p.first, p.width, p.weight)).collect();
        let (whole, rest) = ([0.0, 10.0, 20.0, 30.0, 1.0, 11.0, 21.0, 31.0], [40.0, 0.0, 41.0, 0.0]);
        assert_eq!(seen, [(0, 4, &whole[..]), (4, 2, &rest[..])]);
        assert_eq!(seen[0].2.as_ptr().align_offset(ALIGNMENT_BYTES), 0);
    }
}
