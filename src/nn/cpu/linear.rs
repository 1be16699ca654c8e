//! Linear and feed-forward layers over rows of activations, on one core or several.

use std::ops::Range;
use std::sync::Arc;

use super::buffers::Buffers;
use super::cores;
use super::gemm::{Columns, Finish, Gate, PackedLinear, in_parts};
use crate::nn::{FeedForward, Middle};

/// Fewest rows that are worth a core of their own: a thousand times the cost of asking it.
const ROWS_OF_A_CORE: usize = 128;

/// Fewest multiplications of some columns that are worth a core of their own: some two microseconds of work, which a core
/// that is awake takes over in one.
const WORK_OF_A_CORE: usize = 1 << 17;

/// Bytes of the middle of a feed-forward layer that exist at once, so that it is still in the second-level cache when it
/// is read: half of 2 MiB.
const MIDDLE_BYTES: usize = 1 << 20;

/// Fewest rows of the middle: all weights of the layer are read once for these.
const MIDDLE_ROWS: usize = 96;

/// Weight of [outputs, inputs], packed, and bias of `[outputs]`.
#[derive(Debug)]
pub struct Linear(pub(super) PackedLinear);

impl Linear {
    /// [rows, inputs] to [rows, outputs]. Where there are too few rows for all cores, the outputs are divided.
    pub(super) fn apply(&self, cores: usize, input: &[f32], finish: Finish<'_>, out: &mut [f32]) {
        let Self(layer) = self;
        let shape = (layer.inputs(), layer.outputs());
        let rows = out.len().checked_div(shape.1).unwrap_or(0);
        let by_rows = parts(cores, out.len(), shape.1);
        let by_columns = cores.min(layer.panels()).min(rows * shape.0 * shape.1 / WORK_OF_A_CORE);
        if by_columns > by_rows {
            cores::each(self.by_panels(by_columns, out), |(panels, out)| {
                layer.apply_panels(panels, input, finish, out);
            });
        } else if by_rows > 1 {
            in_parts(by_rows, shape, input, finish, out, |input, finish, out| layer.apply(input, finish, out));
        } else {
            layer.apply(input, finish, out);
        }
    }

    /// Parts of a result with the panels that give them, as equal as can be.
    fn by_panels<'out>(&self, parts: usize, out: &'out mut [f32]) -> Vec<(Range<usize>, Columns<'out>)> {
        let Self(layer) = self;
        let mut rest = Columns::all(out, layer.outputs());
        let part = |part| {
            let panels = part * layer.panels() / parts..(part + 1) * layer.panels() / parts;
            let own = rest.take_to(layer.columns(&panels).end);
            (panels, own)
        };
        (0..parts).map(part).collect()
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
        let by_rows = parts(cores, out.len(), shape.1);
        if by_rows < cores {
            return self.apply_to_block(cores, buffers, input, finish, out);
        }
        let rows = (MIDDLE_BYTES / size_of::<f32>() / self.up.0.outputs().max(1)).max(MIDDLE_ROWS);
        in_parts(by_rows, shape, input, finish, out, |input, finish, out| {
            let mut first = 0;
            let (inputs, outputs) = shape;
            for (input, out) in input.chunks(rows * inputs).zip(out.chunks_mut(rows * outputs)) {
                let finish = finish.of(first..first + out.len());
                first += out.len();
                self.apply_to_block(1, buffers, input, finish, out);
            }
        });
    }

    fn apply_to_block(&self, cores: usize, buffers: &Arc<Buffers>, input: &[f32], finish: Finish<'_>, out: &mut [f32]) {
        let Self { up, middle, down } = self;
        let (inner, hidden) = (down.0.inputs(), down.0.outputs());
        let rows = out.len().checked_div(hidden).unwrap_or(0);
        let mut wide = Buffers::take(buffers, rows * up.0.outputs());
        match *middle {
            Middle::Activation(activation) => {
                up.apply(cores, input, Finish::Activation(activation), &mut wide);
                down.apply(cores, &wide, finish, out);
            }
            Middle::Gate(activation) => {
                up.apply(cores, input, Finish::Bias, &mut wide);
                let mut gated = Buffers::take(buffers, rows * inner);
                let gate = Gate { activation, halves: &wide, out: &mut gated, width: inner };
                gate.apply(up.0.kernel().instructions());
                down.apply(cores, &gated, finish, out);
            }
        }
    }
}

/// Among how many cores the rows of a result are divided.
fn parts(cores: usize, values: usize, width: usize) -> usize {
    let rows = values.checked_div(width).unwrap_or(0);
    cores.min(rows / ROWS_OF_A_CORE).max(1)
}
