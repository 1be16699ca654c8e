//! What a kill would cost: rows that are encoded, or on their way to be, and not committed.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const SHARD_ROWS: usize = 5;

/// Counts what it begins, and what of it is lost if the process is killed now.
struct Counting<'a> {
    begun: &'a AtomicUsize,
    committed: &'a AtomicUsize,
    most_lost: &'a AtomicUsize,
}

impl Encoder for Counting<'_> {
    fn encode(&mut self, batch: &PackedBatch, _: &Profile) -> Result<Embeddings, EncodeError> {
        // What is committed is read first, so that a commit in between can only make the loss look larger.
        let committed = self.committed.load(Ordering::SeqCst);
        let begun = self.begun.fetch_add(batch.sequences(), Ordering::SeqCst) + batch.sequences();
        self.most_lost.fetch_max(begun - committed, Ordering::SeqCst);
        Ok(Embeddings::dense(2, vec![1.0; 2 * batch.sequences()]))
    }
}

/// Takes its time, in which encoders would go on if they might.
struct Slow<'a>(&'a AtomicUsize);

impl Commit for Slow<'_> {
    fn commit(&mut self, shard: &Shard) -> Result<(), CommitError> {
        std::thread::sleep(std::time::Duration::from_millis(3));
        self.0.fetch_add(shard.records.len(), Ordering::SeqCst);
        Ok(())
    }
}

/// The most rows that a kill would have cost, with a worker on each of these devices.
fn most_lost(devices: &[&str]) -> usize {
    let [begun, committed, most_lost] = [const { AtomicUsize::new(0) }; 3];
    let counting = || Counting { begun: &begun, committed: &committed, most_lost: &most_lost };
    let mut workers: Vec<Worker<'_>> = devices
        .iter()
        .map(|device| Worker {
            device: (*device).to_owned(),
            lost: Arc::default(),
            encoders: vec![Box::new(counting())],
        })
        .collect();
    let start = BatchLimits { tokens: 30, sequences: 2 };
    let span = Span { start, most_tokens: start.tokens };
    let controllers = Mutex::new(Controllers::one(devices[0], Controller::new(span, true)));
    let line = Line { rows: 103, shard_rows: SHARD_ROWS, controllers: &controllers, fallback: None, exact: None };
    let end = line.run(&mut workers, &mut Slow(&committed), &Events::default());
    assert_eq!(end, Ok(PassEnd::Complete { rows: 103 }));
    assert_eq!((begun.load(Ordering::SeqCst), committed.load(Ordering::SeqCst)), (103, 103));
    most_lost.load(Ordering::SeqCst)
}

#[test]
fn no_more_is_lost_by_a_kill_than_a_shard_for_each_device() {
    assert!((1..=SHARD_ROWS).contains(&most_lost(&["cuda:0"])));
    assert!((1..=SHARD_ROWS).contains(&most_lost(&["cpu", "cpu", "cpu"])), "workers on one device share a shard");
    let both = most_lost(&["cuda:0", "cuda:1", "cuda:1"]);
    assert!((SHARD_ROWS + 1..=2 * SHARD_ROWS).contains(&both), "{both}: devices go on while shards are written");
}
