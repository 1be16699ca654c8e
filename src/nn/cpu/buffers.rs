//! Memory that goes back to where it came from, so that a batch costs no allocation and no page fault.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that wait for their next use.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<f32>>>);

/// Some numbers of unspecified value; goes back when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    home: Arc<Buffers>,
    values: Vec<f32>,
    length: usize,
}

impl Buffers {
    /// A buffer of `length`. The smallest that is large enough is used, else the largest is made larger.
    pub(super) fn take(home: &Arc<Self>, length: usize) -> Buffer {
        let mut waiting = home.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sufficient = (0..waiting.len()).filter(|&index| waiting[index].len() >= length);
        let chosen = sufficient.min_by_key(|&index| waiting[index].len());
        let chosen = chosen.or_else(|| (0..waiting.len()).max_by_key(|&index| waiting[index].len()));
        let mut values = chosen.map_or_else(Vec::new, |index| waiting.swap_remove(index));
        if values.len() < length {
            values.resize(length, 0.0);
        }
        Buffer { home: Arc::clone(home), values, length }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(values);
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again() {
        let buffers = Arc::default();
        let address = |buffer: &Buffer| buffer.as_ptr();
        let (small, large) = (Buffers::take(&buffers, 10), Buffers::take(&buffers, 1000));
        let (small_address, large_address) = (address(&small), address(&large));
        drop((small, large));
        let large = Buffers::take(&buffers, 500);
        assert_eq!((address(&large), large.len()), (large_address, 500));
        let small = Buffers::take(&buffers, 3);
        assert_eq!((address(&small), small.len()), (small_address, 3));
    }
}
