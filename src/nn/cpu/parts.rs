//! Rows divided among cores, where an operation is the same for each of them.

use std::panic::resume_unwind;

/// Fewest numbers that are worth a core of their own: about ten times the cost of asking it.
const NUMBERS_OF_A_CORE: usize = 1 << 18;

/// Has parts of [rows, width] written on up to so many cores. The work is given the first row of its part and the part;
/// what it returns comes back in the order of the rows.
///
/// # Panics
/// When the work does.
pub(super) fn in_parts<T: Send>(
    cores: usize,
    out: &mut [f32],
    width: usize,
    work: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Vec<T> {
    let parts = cores.min(out.len() / NUMBERS_OF_A_CORE);
    if parts <= 1 {
        return vec![work(0, out)];
    }
    let rows = (out.len() / width).div_ceil(parts);
    std::thread::scope(|scope| {
        let work = &work;
        let mut parts = out.chunks_mut(rows * width).enumerate().map(|(part, out)| move || work(part * rows, out));
        let own = parts.next();
        let others: Vec<_> = parts.map(|part| scope.spawn(part)).collect();
        let own = own.map(|mut part| part());
        let others = others.into_iter().map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic)));
        own.into_iter().chain(others).collect()
    })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "small whole numbers are exact")]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cores: usize, rows: usize, width: usize, parts: usize) {
        let mut out = vec![f32::NAN; rows * width];
        let firsts = in_parts(cores, &mut out, width, |first, part| {
            part.chunks_exact_mut(width).zip(first..).for_each(|(row, number)| row.fill(number as f32));
            first
        });
        assert!(out.chunks_exact(width).enumerate().all(|(number, row)| row.iter().all(|&x| x == number as f32)));
        assert_eq!((firsts.len(), firsts[0], firsts.is_sorted()), (parts, 0, true));
    }

    #[test]
    fn every_row_is_written_once_by_as_many_cores_as_it_is_worth() {
        check(1, 5000, 384, 1);
        check(4, 100, 384, 1);
        check(4, 1500, 384, 2);
        check(2, 5000, 384, 2);
        check(16, 5001, 384, 7);
        check(4, 1, 1 << 20, 1);
    }
}
