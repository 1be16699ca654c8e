//! Linear and feed-forward layers over rows of activations, on one core or several.

use std::sync::Arc;

use super::Buffers;
use super::gemm::{Finish, Gate, PackedLinear, in_parts};
use crate::nn::{FeedForward, Middle};

/// Fewest rows that are worth a core of their own: a thousand times the cost of asking it.
const ROWS_OF_A_CORE: usize = 128;

/// Bytes of the middle of a feed-forward layer that exist at once, so that it is still in the second-level cache when it
/// is read: half of 2 MiB.
const MIDDLE_BYTES: usize = 1 << 20;

/// Fewest rows of the middle: all weights of the layer are read once for these.
const MIDDLE_ROWS: usize = 96;

/// Weight of [outputs, inputs], packed, and bias of `[outputs]`.
#[derive(Debug)]
pub struct Linear(pub(super) PackedLinear);

impl Linear {
    /// [rows, inputs] to [rows, outputs].
    pub(super) fn apply(&self, cores: usize, input: &[f32], finish: Finish<'_>, out: &mut [f32]) {
        let Self(layer) = self;
        let shape = (layer.inputs(), layer.outputs());
        in_parts(parts(cores, out.len(), shape.1), shape, input, finish, out, |input, finish, out| {
            layer.apply(input, finish, out);
        });
    }
}

impl FeedForward<Linear> {
    /// [rows, hidden] to [rows, hidden].
    pub(super) fn apply(
        &self,
        cores: usize,
        buffers: &Arc<Buffers>,
        input: &[f32],
        finish: Finish<'_>,
        out: &mut [f32],
    ) {
        let shape = (self.up.0.inputs(), self.down.0.outputs());
        let rows = (MIDDLE_BYTES / size_of::<f32>() / self.up.0.outputs().max(1)).max(MIDDLE_ROWS);
        in_parts(parts(cores, out.len(), shape.1), shape, input, finish, out, |input, finish, out| {
            let mut first = 0;
            let (inputs, outputs) = shape;
            for (input, out) in input.chunks(rows * inputs).zip(out.chunks_mut(rows * outputs)) {
                let finish = finish.of(first..first + out.len());
                first += out.len();
                self.apply_to_block(buffers, input, finish, out);
            }
        });
    }

    fn apply_to_block(&self, buffers: &Arc<Buffers>, input: &[f32], finish: Finish<'_>, out: &mut [f32]) {
        let Self { up: Linear(up), middle, down: Linear(down) } = self;
        let rows = out.len() / down.outputs();
        let mut wide = Buffers::take(buffers, rows * up.outputs());
        match *middle {
            Middle::Activation(activation) => {
                up.apply(input, Finish::Activation(activation), &mut wide);
                down.apply(&wide, finish, out);
            }
            Middle::Gate(activation) => {
                up.apply(input, Finish::Bias, &mut wide);
                let mut gated = Buffers::take(buffers, rows * down.inputs());
                Gate { activation, halves: &wide, out: &mut gated, width: down.inputs() }
                    .apply(up.kernel().instructions());
                down.apply(&gated, finish, out);
            }
        }
    }
}

/// Among how many threads the rows of a result are divided.
fn parts(cores: usize, values: usize, width: usize) -> usize {
    let rows = values.checked_div(width).unwrap_or(0);
    cores.min(rows / ROWS_OF_A_CORE).max(1)
}
