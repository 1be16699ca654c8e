//! Work on several cores, for the moments in which one encoder has them all: a single text, a last batch.
//!
//! The cores are those of rayon's pool. Whoever divides many small pieces of work first goes there ([`enter`]): between
//! threads of the pool a piece changes hands in a microsecond, from outside it takes tens.

/// Does work that will be divided, on a thread of the pool.
pub(super) fn enter<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}

/// Does something with each item, each on a core of its own if there is one.
pub(super) fn each<T: Send>(items: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
    let mut items = items.into_iter();
    let Some(own) = items.next() else { return };
    let work = &work;
    rayon::in_place_scope(|scope| {
        items.for_each(|item| scope.spawn(move |_| work(item)));
        work(own);
    });
}
