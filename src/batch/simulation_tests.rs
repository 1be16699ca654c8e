//! What must hold on every made-up device.

use super::simulation::{each, gain};

#[test]
fn nothing_is_lost_and_memory_is_used_where_that_pays() {
    let mut ran = 0;
    each(0..3, |total, model, trouble, outcome| {
        let Some(outcome) = outcome else { return };
        ran += 1;
        let name = format!("{total} GB, {}, {}", model.name, trouble.name);
        assert_eq!((outcome.failed_rows, outcome.ended_rows), (0, outcome.all_rows), "{name}");
        assert!(outcome.full.iter().all(|full| full.used <= 1.0 / 0.85), "{name}");
        let (tokens, used) = outcome.mean();
        match outcome.is_bound_by_memory() {
            Some(true) => assert!(used >= 0.75, "{name}: {used}"),
            Some(false) => assert!(gain(model, tokens) < 1.05, "{name}: {tokens}"),
            None => panic!("{name}: no batch was full"),
        }
        assert!(outcome.batches_to_converge() <= 400, "{name}: {}", outcome.batches_to_converge());
        if trouble.transient == 0.0 {
            assert!(outcome.out_of_memory * 100 <= outcome.batches, "{name}");
            let (least, most) = (outcome.limits.iter().min().unwrap(), outcome.limits.iter().max().unwrap());
            assert!(trouble.neighbour > 0.0 || most * 2 <= least * 3, "batches come to rest: {name}");
        }
    });
    assert!(ran >= 3 * 7 * 18, "{ran}");
}
