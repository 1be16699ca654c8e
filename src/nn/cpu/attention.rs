//! Attention with an online softmax over blocks of keys, so that memory does not grow with the length of a sequence.
//!
//! For each block of keys of a head, keys are packed with one key a lane and values with one number of the head a lane.
//! Then, for some query rows at a time, scores are computed, made into weights, and the weighted values are added to what
//! is in the result from earlier blocks (Milakov and Gimelshein 2018, <https://arxiv.org/abs/1805.02867>; Dao et al. 2022,
//! <https://arxiv.org/abs/2205.14135>). Everything is cut from the beginning of its own sequence, so that a row's result
//! depends on nothing else in the batch. The plain twin is `nn::candle`.
#![expect(clippy::inline_always, reason = "a body that is not inlined is compiled without the instructions")]

use std::ops::Range;
use std::sync::Arc;

use super::buffers::{Buffer, Buffers};
use super::rotation::Rotation;
use super::tile::Product;
use super::vector::{Vector, Work};
use crate::domain::PackedBatch;
use crate::nn::Attention;

/// Keys of a block: scores of a row block, keys and values stay in the nearest caches (16 KiB to 64 KiB each).
const KEY_BLOCK: usize = 256;

/// Query rows that are worked on together, a multiple of the rows of every tile.
const ROW_BLOCK: usize = 24;

/// Rows whose sums are taken at once.
const ROW_GROUP: usize = 4;

/// Distance between rows of scores: not a power of two, lest all rows fall into the same lines of the cache.
const SCORE_STRIDE: usize = KEY_BLOCK + 16;

/// Most lanes of a vector.
const MOST_LANES: usize = 16;

/// One attention layer over a batch.
pub(super) struct Layer<'a> {
    pub(super) attention: &'a Attention,
    /// Present when the layer has rotary positions; for as many positions as the longest sequence has.
    pub(super) rotation: Option<Arc<Rotation>>,
    /// [tokens, input width].
    pub(super) qkv: &'a [f32],
    pub(super) batch: &'a PackedBatch,
    /// [tokens, output width].
    pub(super) out: &'a mut [f32],
    pub(super) buffers: &'a Arc<Buffers>,
}

impl Work for Layer<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn on<V: Vector>(self) {
        let attention = self.attention;
        let tokens = self.batch.tokens();
        assert_eq!(self.qkv.len(), tokens * attention.input_width(), "q, k and v have another shape");
        assert_eq!(self.out.len(), tokens * attention.output_width(), "the result has another shape");
        let mut scratch = Scratch::take::<V>(self.buffers, attention, self.batch.longest());
        let bias = Bias::new(attention, self.batch.longest());
        let group = attention.heads / attention.key_value_heads;
        for bounds in self.batch.cu_seqlens().windows(2) {
            let length = bounds[1] - bounds[0];
            for key_value_head in 0..attention.key_value_heads {
                for first_key in (0..length).step_by(KEY_BLOCK) {
                    let keys = first_key..(first_key + KEY_BLOCK).min(length);
                    // SAFETY: the shapes were checked above, and the sequence is inside the batch; the scratch memory
                    // was taken for the longest one; the caller has the instructions.
                    unsafe {
                        let sequence = Sequence {
                            attention,
                            rotation: self.rotation.as_deref(),
                            bias: bias.as_ref(),
                            length,
                            qkv: self.qkv.as_ptr().add(bounds[0] * attention.input_width()),
                            out: self.out.as_mut_ptr().add(bounds[0] * attention.output_width()),
                        };
                        sequence.pack::<V>(key_value_head, keys.clone(), &mut scratch);
                        for member in 0..group {
                            let head = key_value_head * group + member;
                            sequence.attend::<V>(head, member * length, keys.clone(), &mut scratch);
                        }
                    }
                }
            }
        }
    }
}

/// Part of a buffer that begins at a cache line.
struct Aligned {
    buffer: Buffer,
    first: usize,
}

impl Aligned {
    fn take(buffers: &Arc<Buffers>, length: usize) -> Self {
        const LINE: usize = 64;
        let buffer = Buffers::take(buffers, length + LINE / size_of::<f32>());
        let first = buffer.as_ptr().align_offset(LINE);
        Self { buffer, first }
    }

    fn as_mut_ptr(&mut self) -> *mut f32 {
        self.buffer[self.first..].as_mut_ptr()
    }
}

/// Memory for one block of keys and one block of rows.
struct Scratch {
    /// [panels of keys, head size, lanes].
    keys: Aligned,
    /// [panels of the head, `key_stride`, lanes].
    values: Aligned,
    /// Keys for which there is room.
    key_stride: usize,
    /// [`ROW_BLOCK`, `SCORE_STRIDE`].
    scores: Aligned,
    /// [`ROW_BLOCK`, head size]: queries after norm and rotation, or as many keys.
    turned: Aligned,
    /// [heads of a group, length]: the largest score of each row up to now, as exponent of 2.
    largest: Aligned,
    /// [heads of a group, length]: the sum of its weights.
    sums: Aligned,
}

impl Scratch {
    fn take<V: Vector>(buffers: &Arc<Buffers>, attention: &Attention, longest: usize) -> Self {
        let key_stride = longest.min(KEY_BLOCK).next_multiple_of(V::LANES);
        let head_size = attention.head_size;
        let rows = attention.heads / attention.key_value_heads * longest;
        Self {
            keys: Aligned::take(buffers, key_stride * head_size),
            values: Aligned::take(buffers, key_stride * head_size.next_multiple_of(V::LANES)),
            key_stride,
            scores: Aligned::take(buffers, ROW_BLOCK * SCORE_STRIDE),
            turned: Aligned::take(buffers, ROW_BLOCK.max(MOST_LANES) * head_size),
            largest: Aligned::take(buffers, rows),
            sums: Aligned::take(buffers, rows),
        }
    }
}

/// Position biases as exponents of 2.
struct Bias {
    /// [heads, columns], and some more at the end.
    values: Vec<f32>,
    columns: usize,
    /// Column of the query's own position.
    center: usize,
}

impl Bias {
    fn new(attention: &Attention, longest: usize) -> Option<Self> {
        let by_offset = attention.position_bias.as_ref()?.by_offset(attention.heads, longest);
        let mut values: Vec<f32> = by_offset.values.iter().map(|bias| bias * std::f32::consts::LOG2_E).collect();
        values.resize(values.len() + MOST_LANES, 0.0);
        Some(Self { values, columns: by_offset.columns, center: longest.saturating_sub(1) })
    }

    /// The bias of key 0 for a query.
    fn row(&self, head: usize, query: usize) -> *const f32 {
        self.values[head * self.columns + self.center - query..].as_ptr()
    }
}

/// One sequence of a batch.
struct Sequence<'a> {
    attention: &'a Attention,
    rotation: Option<&'a Rotation>,
    bias: Option<&'a Bias>,
    length: usize,
    /// [length, input width].
    qkv: *const f32,
    /// [length, output width].
    out: *mut f32,
}

/// Rows of one head and the keys of a block that some of them see.
struct Block {
    rows: Range<usize>,
    /// The keys that any of the rows sees, from the first lane of a panel on.
    keys: Range<usize>,
    /// How many panels these are.
    panels: usize,
}

impl Sequence<'_> {
    /// Packs the keys and values of one head.
    #[inline(always)]
    unsafe fn pack<V: Vector>(&self, head: usize, keys: Range<usize>, scratch: &mut Scratch) {
        let Attention { heads, key_value_heads, head_size, .. } = *self.attention;
        let stride = self.attention.input_width();
        let norm = self.attention.head_norm.as_ref().map(|norm| (norm.key.as_slice(), norm.epsilon));
        let in_place = norm.is_none() && self.rotation.is_none();
        let mut packed = scratch.keys.as_mut_ptr();
        for first in keys.clone().step_by(V::LANES) {
            let rows = V::LANES.min(keys.end - first);
            // SAFETY: the rows are inside the sequence and the head inside a row; `turned` has room for a vector of rows,
            // `keys` for all panels of a block.
            unsafe {
                let mut source = self.qkv.add(first * stride + (heads + head) * head_size);
                let mut source_stride = stride;
                if !in_place {
                    let turned = scratch.turned.as_mut_ptr();
                    self.turn(norm, source, first..first + rows, turned);
                    (source, source_stride) = (turned, head_size);
                }
                for column in (0..head_size).step_by(V::LANES) {
                    let columns = V::LANES.min(head_size - column);
                    V::transpose(source.add(column), source_stride, rows, columns, packed.add(column * V::LANES));
                }
                packed = packed.add(head_size * V::LANES);
            }
        }
        // SAFETY: as above; `values` has room for `key_stride` vectors in each panel of the head.
        unsafe {
            let source = self.qkv.add(keys.start * stride + (heads + key_value_heads + head) * head_size);
            for (panel, column) in (0..head_size).step_by(V::LANES).enumerate() {
                let columns = V::LANES.min(head_size - column);
                let packed = scratch.values.as_mut_ptr().add(panel * scratch.key_stride * V::LANES);
                for key in 0..keys.len() {
                    let source = source.add(key * stride + column);
                    let values = if columns == V::LANES { V::load(source) } else { V::load_first(source, columns) };
                    values.store(packed.add(key * V::LANES));
                }
            }
        }
    }

    /// Rows of queries or keys, normalised and turned by their positions, without gaps at `to`.
    #[inline(always)]
    unsafe fn turn(&self, norm: Option<(&[f32], f32)>, from: *const f32, positions: Range<usize>, to: *mut f32) {
        let head_size = self.attention.head_size;
        for (row, position) in positions.enumerate() {
            // SAFETY: the caller has so many rows in the input and room for as many.
            let (source, out) = unsafe {
                (
                    std::slice::from_raw_parts(from.add(row * self.attention.input_width()), head_size),
                    std::slice::from_raw_parts_mut(to.add(row * head_size), head_size),
                )
            };
            match norm {
                Some((weight, epsilon)) => super::norm::rms_norm(source, weight, epsilon, out),
                None => out.copy_from_slice(source),
            }
            if let Some(rotation) = self.rotation {
                rotation.turn(out, position);
            }
        }
    }

    /// Adds what a block of keys contributes to all rows of a head.
    #[inline(always)]
    unsafe fn attend<V: Vector>(&self, head: usize, state: usize, keys: Range<usize>, scratch: &mut Scratch) {
        let mask = self.attention.mask;
        let first = keys.start.saturating_sub(mask.after) / ROW_BLOCK * ROW_BLOCK;
        let end = keys.end.saturating_add(mask.before).min(self.length);
        for first in (first..end).step_by(ROW_BLOCK) {
            let rows = first..(first + ROW_BLOCK).min(self.length);
            let (of_first, of_last) = (mask.keys(rows.start, self.length), mask.keys(rows.end - 1, self.length));
            let (seen_from, seen_to) = (of_first.start.max(keys.start), of_last.end.min(keys.end));
            if seen_from >= seen_to {
                continue;
            }
            let first_panel = (seen_from - keys.start) / V::LANES;
            let block_keys = keys.start + first_panel * V::LANES..seen_to;
            let block = Block { rows, panels: block_keys.len().div_ceil(V::LANES), keys: block_keys };
            let is_first = of_first.start >= keys.start;
            let is_last = of_last.end <= keys.end;
            // SAFETY: rows and keys are inside the sequence, the keys in the packed block; as the caller says.
            unsafe {
                self.score::<V>(head, first_panel, &block, scratch);
                self.weigh_and_add::<V>(head, state, first_panel, &block, (is_first, is_last), scratch);
            }
        }
    }

    /// q kᵀ of a block.
    #[inline(always)]
    unsafe fn score<V: Vector>(&self, head: usize, first_panel: usize, block: &Block, scratch: &mut Scratch) {
        let head_size = self.attention.head_size;
        let norm = self.attention.head_norm.as_ref().map(|norm| (norm.query.as_slice(), norm.epsilon));
        let mut stride = self.attention.input_width();
        // SAFETY: the block's rows are inside the sequence; `turned` has room for a block of rows, `scores` for all panels
        // of a block of keys.
        unsafe {
            let mut query = self.qkv.add(block.rows.start * stride + head * head_size);
            if norm.is_some() || self.rotation.is_some() {
                let turned = scratch.turned.as_mut_ptr();
                self.turn(norm, query, block.rows.clone(), turned);
                (query, stride) = (turned, head_size);
            }
            let panel_stride = head_size * V::LANES;
            let product = Product {
                rows: block.rows.len(),
                panels: block.panels,
                inner: head_size,
                left: query,
                left_stride: stride,
                right: scratch.keys.as_mut_ptr().add(first_panel * panel_stride),
                panel_stride,
                out: scratch.scores.as_mut_ptr(),
                out_stride: SCORE_STRIDE,
                last_lanes: V::LANES,
                before: None,
                after: None,
            };
            product.compute::<V>();
        }
    }

    /// Makes scores into weights, and adds the weighted values to the result.
    #[inline(always)]
    unsafe fn weigh_and_add<V: Vector>(
        &self,
        head: usize,
        state: usize,
        first_panel: usize,
        block: &Block,
        (is_first, is_last): (bool, bool),
        scratch: &mut Scratch,
    ) {
        let head_size = self.attention.head_size;
        let rows = block.rows.len();
        let mut largest = [0.0; ROW_BLOCK];
        let mut before = [0.0; ROW_BLOCK];
        let mut sums = [0.0; ROW_BLOCK];
        // SAFETY: `scores` has a row for each of a block, `largest` and `sums` one number for each row of the sequence and
        // head of the group; the arrays on the stack are as long as a block has rows.
        unsafe {
            let scores = scratch.scores.as_mut_ptr();
            for row in (0..rows).step_by(ROW_GROUP) {
                let found = self.scale_and_mask::<V>(head, block, row, scores.add(row * SCORE_STRIDE));
                largest[row..row + ROW_GROUP].copy_from_slice(&found);
            }
            let state = state + block.rows.start;
            let (old_largest, old_sums) =
                (scratch.largest.as_mut_ptr().add(state), scratch.sums.as_mut_ptr().add(state));
            if !is_first {
                for row in (0..rows).step_by(V::LANES) {
                    let count = V::LANES.min(rows - row);
                    let old = V::load_first(old_largest.add(row), count);
                    let new = V::load_first(largest.as_ptr().add(row), count).max(old);
                    new.store_first(largest.as_mut_ptr().add(row), count);
                    old.sub(new).exp2().store_first(before.as_mut_ptr().add(row), count);
                }
            }
            for row in (0..rows).step_by(ROW_GROUP) {
                let found =
                    exponentiate::<V>(block.panels, &largest[row..row + ROW_GROUP], scores.add(row * SCORE_STRIDE));
                sums[row..row + ROW_GROUP].copy_from_slice(&found);
            }
            if !is_first {
                for row in 0..rows {
                    sums[row] += *old_sums.add(row) * before[row];
                }
            }
            if is_last {
                sums.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
            } else {
                for row in 0..rows {
                    *old_largest.add(row) = largest[row];
                    *old_sums.add(row) = sums[row];
                }
            }
            let width = self.attention.output_width();
            let panels = head_size.div_ceil(V::LANES);
            let product = Product {
                rows,
                panels,
                inner: block.keys.len(),
                left: scores,
                left_stride: SCORE_STRIDE,
                right: scratch.values.as_mut_ptr().add(first_panel * V::LANES * V::LANES),
                panel_stride: scratch.key_stride * V::LANES,
                out: self.out.add(block.rows.start * width + head * head_size),
                out_stride: width,
                last_lanes: head_size - (panels - 1) * V::LANES,
                before: (!is_first).then_some(before.as_ptr()),
                after: is_last.then_some(sums.as_ptr()),
            };
            product.compute::<V>();
        }
    }

    /// Makes raw scores of some rows into exponents of 2, hides keys, and finds the largest of each row. Rows beyond the
    /// block's last are like it; what is in their scores does not matter.
    #[inline(always)]
    unsafe fn scale_and_mask<V: Vector>(
        &self,
        head: usize,
        block: &Block,
        first_row: usize,
        scores: *mut f32,
    ) -> [f32; ROW_GROUP] {
        let query = |row: usize| (block.rows.start + first_row + row).min(block.rows.end - 1);
        let seen: [Range<usize>; ROW_GROUP] = std::array::from_fn(|row| {
            let seen = self.attention.mask.keys(query(row), self.length);
            let relative = |key: usize| key.clamp(block.keys.start, block.keys.end) - block.keys.start;
            relative(seen.start)..relative(seen.end)
        });
        // What all of these rows see.
        let common = seen
            .iter()
            .fold(0..block.keys.len(), |common, seen| common.start.max(seen.start)..common.end.min(seen.end));
        let biases = self.bias.map(|bias| std::array::from_fn::<_, ROW_GROUP, _>(|row| bias.row(head, query(row))));
        // SAFETY: `scores` has `ROW_GROUP` rows of `panels` vectors; biases reach beyond the last key by a vector.
        unsafe {
            let scale = V::splat(self.attention.scale * std::f32::consts::LOG2_E);
            // Finite, so that a row that sees no key of its first block has weights of 0 there.
            let mut largest = [V::splat(f32::MIN); ROW_GROUP];
            for panel in 0..block.panels {
                let lanes = panel * V::LANES..(panel + 1) * V::LANES;
                let all_seen = common.start <= lanes.start && lanes.end <= common.end;
                for row in 0..ROW_GROUP {
                    let place = scores.add(row * SCORE_STRIDE + lanes.start);
                    let score = V::load(place);
                    let mut score = match &biases {
                        Some(biases) => score.mul_add(scale, V::load(biases[row].add(block.keys.start + lanes.start))),
                        None => score.mul(scale),
                    };
                    if !all_seen {
                        let lane = |key: usize| key.clamp(lanes.start, lanes.end) - lanes.start;
                        score = score.only(lane(seen[row].start), lane(seen[row].end));
                    }
                    score.store(place);
                    largest[row] = largest[row].max(score);
                }
            }
            V::maxima(largest)
        }
    }
}

/// Makes exponents of 2 into weights relative to the largest of each row, and sums them.
#[inline(always)]
unsafe fn exponentiate<V: Vector>(panels: usize, largest: &[f32], scores: *mut f32) -> [f32; ROW_GROUP] {
    // SAFETY: `scores` has `ROW_GROUP` rows of `panels` vectors.
    unsafe {
        let mut sums = [V::splat(0.0); ROW_GROUP];
        for panel in 0..panels {
            for row in 0..ROW_GROUP {
                let place = scores.add(row * SCORE_STRIDE + panel * V::LANES);
                let weight = V::load(place).sub(V::splat(largest[row])).exp2();
                weight.store(place);
                sums[row] = sums[row].add(weight);
            }
        }
        V::sums(sums)
    }
}
