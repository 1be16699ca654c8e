//! What must hold on every made-up device, and the table of the README.

use super::*;

const DEVICES: [f64; 7] = [4.0, 8.0, 12.0, 16.0, 24.0, 80.0, 141.0];
const SHARDS: usize = 60;

const TROUBLES: [Trouble; 7] = [
    NO_TROUBLE,
    Trouble { name: "batches take half of the plan", error: 0.5, ..NO_TROUBLE },
    Trouble { name: "batches take twice the plan", error: 2.0, ..NO_TROUBLE },
    Trouble { name: "memory in pieces, 20 %", waste: 0.2, ..NO_TROUBLE },
    Trouble { name: "a neighbour takes 40 %", neighbour: 0.4, ..NO_TROUBLE },
    Trouble { name: "2 % of batches fail once", transient: 0.02, ..NO_TROUBLE },
    Trouble { name: "twice the plan, pieces, peaks not counted", error: 2.0, waste: 0.2, counted: false, ..NO_TROUBLE },
];

impl Outcome {
    /// Whether memory bounds most of the full batches; nothing where shards have too few texts to fill one.
    fn is_bound_by_memory(&self) -> Option<bool> {
        let by_memory = self.full.iter().filter(|full| full.by_memory).count();
        (!self.full.is_empty()).then_some(by_memory * 2 > self.full.len())
    }

    /// Tokens and part of the budget of the batches that are bound by the same.
    fn mean(&self) -> (f64, f64) {
        let of: Vec<&Full> =
            self.full.iter().filter(|full| Some(full.by_memory) == self.is_bound_by_memory()).collect();
        let mean = |value: fn(&Full) -> f64| of.iter().map(|full| value(full)).sum::<f64>() / of.len().max(1) as f64;
        (mean(|full| full.tokens), mean(|full| full.used))
    }
}

/// Whether twice as many tokens at once would still be a twentieth faster.
fn would_gain(model: Model, tokens: f64) -> bool {
    2.0 * (tokens + model.half) / (2.0 * tokens + model.half) >= 1.05
}

fn each(mut with: impl FnMut(f64, Model, Trouble, Option<Outcome>)) {
    for trouble in TROUBLES {
        for total in DEVICES {
            for model in MODELS {
                with(total, model, trouble, run(total, model, trouble, SHARDS));
            }
        }
    }
}

#[test]
fn nothing_is_lost_and_memory_is_used_where_that_pays() {
    let mut ran = 0;
    each(|total, model, trouble, outcome| {
        let Some(outcome) = outcome else { return };
        ran += 1;
        let name = format!("{total} GB, {}, {}: {outcome:?}", model.name, trouble.name);
        assert_eq!((outcome.failed_rows, outcome.ended_rows), (0, outcome.all_rows), "{name}");
        assert!(outcome.full.iter().all(|full| full.used <= 1.0 / 0.85), "{name}");
        let (tokens, used) = outcome.mean();
        match outcome.is_bound_by_memory() {
            // Two failures in a row are taken for a want of memory, whatever they were.
            _ if trouble.transient > 0.0 => {}
            Some(true) if trouble.counted => assert!(used >= 0.75, "{name}"),
            Some(false) => assert!(!would_gain(model, tokens), "{name}"),
            _ => {}
        }
        if trouble.transient == 0.0 && trouble.neighbour == 0.0 {
            let (least, most) = (outcome.limits.iter().min().unwrap(), outcome.limits.iter().max().unwrap());
            assert!(most * 2 <= least * 3, "batches come to rest: {name}");
        }
        if trouble.transient == 0.0 {
            assert!(outcome.out_of_memory * 100 <= outcome.batches, "{name}");
        }
    });
    assert!(ran >= 7 * 18, "{ran}");
}

/// `cargo test --lib batch::simulation -- --ignored --nocapture`
#[test]
#[ignore = "prints the table of the README"]
#[expect(clippy::print_stdout, reason = "its purpose")]
fn the_table_of_the_readme() {
    println!(
        "| trouble | device | model | tokens in a batch | part of the budget | bound by | out of memory | rows lost |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    each(|total, model, trouble, outcome| {
        let head = format!("| {} | {total} GB | {} |", trouble.name, model.name);
        let Some(outcome) = outcome else {
            println!("{head} | | not loaded: no room | | |");
            return;
        };
        let by = match outcome.is_bound_by_memory() {
            None => "shard",
            Some(true) => "memory",
            Some(false) => "rate",
        };
        let (tokens, used) = outcome.mean();
        println!(
            "{head} {tokens:.0} | {used:.2} | {by} | {} of {} | {} |",
            outcome.out_of_memory, outcome.batches, outcome.failed_rows,
        );
    });
}
