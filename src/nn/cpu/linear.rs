//! Linear and feed-forward layers over rows of activations, on one core or several.

use std::ops::Range;
use std::sync::Arc;

use super::buffers::Buffers;
use super::cores;
use super::gemm::{Columns, Finish, PackedLinear, Step, apply_panels, in_parts};
use crate::nn::{FeedForward, Inner};

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
    /// [rows, inputs] to [rows, outputs].
    pub(super) fn apply(&self, cores: usize, input: &[f32], finish: Finish<'_>, out: &mut [f32]) {
        apply(cores, [Step { layer: &self.0, finish }], input, out);
    }
}

/// Layers of one shape, each put where the one before it was. Where there are too few rows for all cores, the outputs are
/// divided.
fn apply<const N: usize>(cores: usize, steps: [Step<'_>; N], input: &[f32], out: &mut [f32]) {
    let layer = steps[0].layer;
    let shape = (layer.inputs(), layer.outputs());
    let rows = out.len().checked_div(shape.1).unwrap_or(0);
    let by_rows = parts(cores, out.len(), shape.1);
    let by_columns = cores.min(layer.panels()).min(N * rows * shape.0 * shape.1 / WORK_OF_A_CORE);
    if by_columns > by_rows {
        cores::each(by_panels(layer, by_columns, out), |(panels, out)| apply_panels(&steps, &panels, input, out));
    } else if by_rows > 1 {
        in_parts(by_rows, shape, input, out, |input, values, out| {
            let steps = steps.map(|step| Step { finish: step.finish.of(&values), ..step });
            apply_panels(&steps, &(0..layer.panels()), input, Columns::all(out, shape.1));
        });
    } else {
        apply_panels(&steps, &(0..layer.panels()), input, Columns::all(out, shape.1));
    }
}

/// Parts of a layer's result with the panels that give them, as equal as can be.
fn by_panels<'out>(layer: &PackedLinear, parts: usize, out: &'out mut [f32]) -> Vec<(Range<usize>, Columns<'out>)> {
    let mut rest = Columns::all(out, layer.outputs());
    let part = |part| {
        let panels = part * layer.panels() / parts..(part + 1) * layer.panels() / parts;
        let own = rest.take_to(layer.columns(&panels).end);
        (panels, own)
    };
    (0..parts).map(part).collect()
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
        let (inner, hidden) = (self.down.0.inputs(), self.down.0.outputs());
        let by_rows = parts(cores, out.len(), hidden);
        if by_rows < cores {
            return self.apply_to_block(cores, buffers, input, finish, out);
        }
        let block = (MIDDLE_BYTES / size_of::<f32>() / inner.max(1)).max(MIDDLE_ROWS) * hidden;
        in_parts(by_rows, (hidden, hidden), input, out, |input, values, out| {
            let mut first = values.start;
            for (input, out) in input.chunks(block).zip(out.chunks_mut(block)) {
                let finish = finish.of(&(first..first + out.len()));
                first += out.len();
                self.apply_to_block(1, buffers, input, finish, out);
            }
        });
    }

    fn apply_to_block(&self, cores: usize, buffers: &Arc<Buffers>, input: &[f32], finish: Finish<'_>, out: &mut [f32]) {
        let (inner, hidden) = (self.down.0.inputs(), self.down.0.outputs());
        let rows = out.len().checked_div(hidden).unwrap_or(0);
        let mut wide = Buffers::take(buffers, rows * inner);
        match &self.inner {
            Inner::Plain { up, activation } => up.apply(cores, input, Finish::Activation(*activation), &mut wide),
            Inner::Gated { gate, up, activation } => {
                let gate = Step { layer: &gate.0, finish: Finish::Activation(*activation) };
                let up = Step { layer: &up.0, finish: Finish::Product };
                apply(cores, [gate, up], input, &mut wide);
            }
        }
        self.down.apply(cores, &wide, finish, out);
    }
}

/// Among how many cores the rows of a result are divided.
fn parts(cores: usize, values: usize, width: usize) -> usize {
    let rows = values.checked_div(width).unwrap_or(0);
    cores.min(rows / ROWS_OF_A_CORE).max(1)
}
