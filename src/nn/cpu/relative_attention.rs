//! Attention with relative positions: matrix products by the kernel of the linear layers, and the softmax in vectors.
//!
//! Queries and keys are multiplied with the vectors of those distances alone that occur. Scores exist for a block of
//! queries at a time. The plain twin is in `nn::candle`.
#![expect(clippy::inline_always, reason = "a body that is not inlined is compiled without the instructions")]

use std::ops::Range;
use std::sync::Arc;

use super::buffers::{Buffer, Buffers};
use super::gemm::{Finish, Kernel, PackedLinear};
use super::instructions::Supported;
use super::vector::{MAX_LANES, Vector, Work};
use crate::domain::PackedBatch;
use crate::nn::{Matrix, RelativeAttention};

/// Queries whose scores exist at once.
const ROW_BLOCK: usize = 64;

/// One such layer over a batch.
pub(super) struct Layer<'a> {
    pub(super) attention: &'a RelativeAttention,
    /// [tokens, input width].
    pub(super) qkv: &'a [f32],
    pub(super) batch: &'a PackedBatch,
    /// [tokens, output width].
    pub(super) out: &'a mut [f32],
    pub(super) buffers: &'a Arc<Buffers>,
    pub(super) instructions: Supported,
}

/// What all sequences of a batch share: the distances that occur in the longest.
struct Distances {
    /// [2 · longest - 1]: the row for a key `index - (longest - 1)` tokens after its query, counted from the first row.
    by_offset: Vec<usize>,
    longest: usize,
    /// The rows of the tables that occur.
    rows: Range<usize>,
}

/// The tables of one head, packed.
struct HeadTables {
    keys: Option<PackedLinear>,
    queries: Option<PackedLinear>,
}

impl Layer<'_> {
    /// Computes it.
    pub(super) fn apply(mut self) {
        let tokens = self.batch.tokens();
        assert_eq!(self.qkv.len(), tokens * self.attention.input_width(), "q, k and v have another shape");
        assert_eq!(self.out.len(), tokens * self.attention.output_width(), "the result has another shape");
        if tokens == 0 {
            return;
        }
        let distances = Distances::of(self.attention, self.batch.longest());
        for head in 0..self.attention.heads {
            let tables = self.tables(head, &distances.rows);
            for bounds in self.batch.cu_seqlens().windows(2) {
                if bounds[0] < bounds[1] {
                    self.apply_to_head(head, bounds[0]..bounds[1], &tables, &distances);
                }
            }
        }
    }

    /// Whatever kernel the linear layers have, scores are computed in f32.
    fn packed(&self, matrix: &Matrix) -> PackedLinear {
        PackedLinear::new(Kernel::single(self.instructions.instructions()), matrix, None)
    }

    fn tables(&self, head: usize, rows: &Range<usize>) -> HeadTables {
        let size = self.attention.head_size;
        let table = |table: &Matrix| {
            let row = |row: usize| &table.values[row * table.columns + head * size..][..size];
            let values = rows.clone().flat_map(row).copied().collect();
            self.packed(&Matrix { rows: rows.len(), columns: size, values })
        };
        HeadTables {
            keys: self.attention.keys.as_ref().map(table),
            queries: self.attention.queries.as_ref().map(table),
        }
    }

    /// `[tokens, head size]` of the queries, keys or values of one head.
    fn part(&self, place: usize, head: usize, tokens: Range<usize>) -> Vec<f32> {
        let (size, width) = (self.attention.head_size, self.attention.input_width());
        let first = (place * self.attention.heads + head) * size;
        tokens.flat_map(|token| &self.qkv[token * width + first..][..size]).copied().collect()
    }

    fn buffer(&self, length: usize) -> Buffer {
        Buffers::take(self.buffers, length)
    }

    fn apply_to_head(&mut self, head: usize, tokens: Range<usize>, tables: &HeadTables, distances: &Distances) {
        let (size, length, rows) = (self.attention.head_size, tokens.len(), distances.rows.len());
        let (query, key) = (self.part(0, head, tokens.clone()), self.part(1, head, tokens.clone()));
        let value = self.part(2, head, tokens.clone());
        let of_keys = tables.queries.as_ref().map(|queries| {
            let mut of_keys = self.buffer(length * rows);
            queries.apply(&key, Finish::Bias, &mut of_keys);
            of_keys
        });
        let key = self.packed(&Matrix { rows: length, columns: size, values: key });
        let transposed = (0..size).flat_map(|column| value[column..].iter().step_by(size)).copied().collect();
        let value = self.packed(&Matrix { rows: size, columns: length, values: transposed });
        let mut scores = self.buffer(ROW_BLOCK.min(length) * length);
        let mut of_queries = self.buffer(tables.keys.as_ref().map_or(0, |_| ROW_BLOCK.min(length) * rows));
        let mut context = self.buffer(ROW_BLOCK.min(length) * size);
        for first in (0..length).step_by(ROW_BLOCK) {
            let block = first..(first + ROW_BLOCK).min(length);
            let query = &query[block.start * size..block.end * size];
            let scores = &mut scores[..block.len() * length];
            key.apply(query, Finish::Bias, scores);
            if let Some(keys) = &tables.keys {
                keys.apply(query, Finish::Bias, &mut of_queries[..block.len() * rows]);
            }
            self.instructions.run(Weights {
                scores,
                first_query: first,
                length,
                scale: self.attention.scale,
                of_queries: tables.keys.as_ref().map(|_| &of_queries[..block.len() * rows]),
                of_keys: of_keys.as_deref(),
                distances,
            });
            let context = &mut context[..block.len() * size];
            value.apply(scores, Finish::Bias, context);
            let width = self.attention.output_width();
            for (row, context) in block.zip(context.chunks_exact(size)) {
                self.out[(tokens.start + row) * width + head * size..][..size].copy_from_slice(context);
            }
        }
    }
}

impl Distances {
    fn of(attention: &RelativeAttention, longest: usize) -> Self {
        let mut by_offset = attention.distances.by_offset(longest);
        // They do not rise.
        let (last, first) = (by_offset[0], by_offset[by_offset.len() - 1]);
        by_offset.iter_mut().for_each(|row| *row -= first);
        Self { by_offset, longest, rows: first..last + 1 }
    }

    /// `[length]`: the rows for one query and all keys.
    fn of_query(&self, query: usize, length: usize) -> &[usize] {
        &self.by_offset[self.longest - 1 - query..][..length]
    }
}

/// Makes products into weights, row by row.
struct Weights<'a> {
    /// [queries, length]: q · k, and the weights in the end.
    scores: &'a mut [f32],
    first_query: usize,
    length: usize,
    scale: f32,
    /// [queries, rows].
    of_queries: Option<&'a [f32]>,
    /// [length, rows].
    of_keys: Option<&'a [f32]>,
    distances: &'a Distances,
}

impl Work for Weights<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn on<V: Vector>(self) {
        let rows = self.distances.rows.len();
        for (index, scores) in self.scores.chunks_exact_mut(self.length).enumerate() {
            let places = self.distances.of_query(self.first_query + index, self.length);
            if let Some(of_queries) = self.of_queries {
                let of_query = &of_queries[index * rows..][..rows];
                scores.iter_mut().zip(places).for_each(|(score, &place)| *score += of_query[place]);
            }
            if let Some(of_keys) = self.of_keys {
                let of_keys = of_keys.chunks_exact(rows).zip(places);
                scores.iter_mut().zip(of_keys).for_each(|(score, (of_key, &place))| *score += of_key[place]);
            }
            // SAFETY: the caller has the instructions.
            unsafe { softmax::<V>(scores, self.scale) };
        }
    }
}

/// softmax(scale · scores).
#[inline(always)]
unsafe fn softmax<V: Vector>(scores: &mut [f32], scale: f32) {
    // SAFETY: the chunks are as long as is said to the vectors; the caller has the instructions.
    unsafe {
        let scale = V::splat(scale * std::f32::consts::LOG2_E);
        let mut largest = V::splat(f32::MIN);
        for chunk in scores.chunks_mut(V::LANES) {
            let scaled = V::load_first(chunk.as_ptr(), chunk.len()).mul(scale);
            scaled.store_first(chunk.as_mut_ptr(), chunk.len());
            largest = largest.max(scaled.only(0, chunk.len()));
        }
        let mut lanes = [f32::MIN; MAX_LANES];
        largest.store(lanes.as_mut_ptr());
        let largest = V::splat(lanes.into_iter().fold(f32::MIN, f32::max));
        let mut sum = V::splat(0.0);
        for chunk in scores.chunks_mut(V::LANES) {
            let weight = V::load_first(chunk.as_ptr(), chunk.len()).sub(largest).only(0, chunk.len()).exp2();
            weight.store_first(chunk.as_mut_ptr(), chunk.len());
            sum = sum.add(weight);
        }
        let mut lanes = [0.0; MAX_LANES];
        sum.store(lanes.as_mut_ptr());
        let inverse = 1.0 / lanes.into_iter().sum::<f32>();
        scores.iter_mut().for_each(|weight| *weight *= inverse);
    }
}
