//! Work on several cores, for when one encoder has them all: a single text, a last batch.
//!
//! The cores are those of rayon's pool. Work of many small pieces enters it first ([`enter`]): a piece changes threads in
//! a microsecond there, in tens of them from outside or to a sleeping thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::nn::NnError;

/// Fewest numbers for another core: about ten microseconds of the cheapest operation, ten times the cost of a handover.
const NUMBERS_OF_A_CORE: usize = 1 << 15;

/// Runs work that will be divided among so many cores on a thread of the pool; the other threads stay awake for it.
pub(super) fn enter<T: Send>(cores: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| {
        let done = OnDrop(Arc::default());
        for _ in 1..cores {
            let done = Arc::clone(&done.0);
            rayon::spawn(move || stay_awake(&done));
        }
        work()
    })
}

/// Takes work of the pool until all is done, without sleeping in the microseconds between two pieces.
fn stay_awake(done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        if rayon::yield_now() != Some(rayon::Yield::Executed) {
            // Other threads of this core come first.
            std::thread::yield_now();
        }
    }
}

/// True once it is dropped, also by a panic.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does something with each item, each on a core of its own if there is one.
pub(super) fn each<T: Send>(
    items: impl IntoParallelIterator<Item = T, Iter: IndexedParallelIterator>,
    work: impl Fn(T) + Sync + Send,
) {
    items.into_par_iter().with_max_len(1).for_each(work);
}

/// Has parts of [rows, width] written on up to so many cores. The work is given the first row of its part and the part.
///
/// # Errors
/// The first of the work's.
pub(super) fn rows(
    cores: usize,
    out: &mut [f32],
    width: usize,
    work: impl Fn(usize, &mut [f32]) -> Result<(), NnError> + Sync + Send,
) -> Result<(), NnError> {
    let parts = cores.min(out.len() / NUMBERS_OF_A_CORE);
    if parts <= 1 {
        return work(0, out);
    }
    let rows = (out.len() / width).div_ceil(parts);
    let parts: Vec<Result<(), NnError>> = out
        .par_chunks_mut(rows * width)
        .with_max_len(1)
        .enumerate()
        .map(|(part, out)| work(part * rows, out))
        .collect();
    parts.into_iter().collect()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "small whole numbers are exact")]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[track_caller]
    fn check(cores: usize, count: usize, width: usize, parts: usize) {
        let mut out = vec![f32::NAN; count * width];
        let firsts = Mutex::new(Vec::new());
        rows(cores, &mut out, width, |first, part| {
            part.chunks_exact_mut(width).zip(first..).for_each(|(row, number)| row.fill(number as f32));
            firsts.lock().unwrap().push(first);
            Ok(())
        })
        .unwrap();
        assert!(out.chunks_exact(width).enumerate().all(|(number, row)| row.iter().all(|&x| x == number as f32)));
        assert_eq!(firsts.into_inner().unwrap().len(), parts);
    }

    #[test]
    fn every_row_is_written_once_by_as_many_cores_as_it_is_worth() {
        check(1, 5000, 384, 1);
        check(4, 100, 384, 1);
        check(4, 1500, 384, 4);
        check(2, 5000, 384, 2);
        check(4, 200, 384, 2);
        check(16, 5001, 384, 16);
        check(4, 1, 1 << 20, 1);
    }

    #[test]
    fn the_pool_is_left_as_it_was_by_work_that_ends_and_by_work_that_panics() {
        assert_eq!(enter(4, || rayon::join(|| 1, || 2)), (1, 2));
        std::panic::catch_unwind(|| enter(4, || panic!("on purpose"))).unwrap_err();
        // Threads that stayed awake would hold every job back, and this one would have no end.
        assert_eq!(rayon::broadcast(|_| ()).len(), rayon::current_num_threads());
    }

    #[test]
    fn an_error_of_any_part_is_that_of_all() {
        let mut out = vec![0.0; 1 << 20];
        let failing = |first: usize, _: &mut [f32]| match first {
            0 => Ok(()),
            _ => Err(NnError::IndexOutOfRange { index: 1, entries: first }),
        };
        assert_eq!(
            rows(2, &mut out, 1 << 10, failing).unwrap_err().to_string(),
            "token 1 is beyond the 512 entries of a table"
        );
        assert!(rows(1, &mut out, 1 << 10, failing).is_ok());
    }
}
