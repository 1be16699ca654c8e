//! Memory for what one core works on.

use std::sync::Arc;

use crate::nn::Attention;
use crate::nn::cpu::buffers::{Buffer, Buffers};
use crate::nn::cpu::vector::Vector;

/// Keys of a block: their scores stay in the nearest cache.
pub(super) const KEY_BLOCK: usize = 128;

/// Query rows that are worked on together: four of the widest vectors.
pub(super) const ROW_BLOCK: usize = 64;

/// Part of a buffer that begins at a cache line.
pub(super) struct Aligned {
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

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.buffer[self.first..].as_mut_ptr()
    }
}

/// Memory for one head of keys and values and for one block of rows.
pub(super) struct Scratch {
    /// [longest, head size].
    pub(super) keys: Aligned,
    /// [longest, head size in whole vectors].
    pub(super) values: Aligned,
    /// [panels of a row block, head size, lanes].
    pub(super) queries: Aligned,
    /// [`ROW_BLOCK`, head size]: queries after norm and rotation.
    pub(super) turned: Aligned,
    /// [`KEY_BLOCK`, `ROW_BLOCK`].
    pub(super) scores: Aligned,
}

impl Scratch {
    pub(super) fn take<V: Vector>(buffers: &Arc<Buffers>, attention: &Attention, longest: usize) -> Self {
        let head_size = attention.head_size;
        Self {
            keys: Aligned::take(buffers, longest * head_size),
            values: Aligned::take(buffers, longest * head_size.next_multiple_of(V::LANES)),
            queries: Aligned::take(buffers, ROW_BLOCK * head_size),
            turned: Aligned::take(buffers, ROW_BLOCK * head_size),
            scores: Aligned::take(buffers, KEY_BLOCK * ROW_BLOCK),
        }
    }
}
