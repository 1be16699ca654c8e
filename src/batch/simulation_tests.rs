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

impl Outcome {
    /// Batches until the limit first came as near as a quarter to what it is in the end.
    fn batches_to_converge(&self) -> usize {
        let last: Vec<usize> = self.trajectory[self.trajectory.len() * 3 / 4..].to_vec();
        let mean = last.iter().sum::<usize>() / last.len();
        self.trajectory.iter().position(|tokens| *tokens >= mean * 3 / 4).unwrap_or(self.trajectory.len())
    }
}

/// By how much twice as many tokens at once would be faster.
fn gain(model: Model, tokens: f64) -> f64 {
    2.0 * (tokens + model.half) / (2.0 * tokens + model.half)
}

fn each(seeds: std::ops::Range<u64>, mut with: impl FnMut(f64, Model, Trouble, Option<Outcome>)) {
    for trouble in TROUBLES {
        for total in DEVICES {
            for model in MODELS {
                for seed in seeds.clone() {
                    with(total, model, trouble, run(total, model, trouble, SHARDS, seed));
                }
            }
        }
    }
}

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

/// `cargo test --lib batch::simulation -- --ignored --nocapture`
#[test]
#[ignore = "prints the tables of the README"]
fn the_tables_of_the_readme() {
    let mut rows: Vec<(&str, Row)> = TROUBLES.iter().map(|trouble| (trouble.name, Row::default())).collect();
    println!(
        "| what goes otherwise than planned | device | model | tokens | budget | bound by | batches to converge | out of memory | rows lost |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    each(0..3, |total, model, trouble, outcome| {
        let head = format!("| {} | {total} GB | {} |", trouble.name, model.name);
        let Some(outcome) = outcome else {
            println!("{head} | | not loaded: no room | | | |");
            return;
        };
        let by_memory = outcome.is_bound_by_memory().unwrap();
        let ((tokens, used), converged) = (outcome.mean(), outcome.batches_to_converge());
        println!(
            "{head} {tokens:.0} | {used:.2} | {} | {converged} | {} of {} | {} |",
            if by_memory { "memory" } else { "rate" },
            outcome.out_of_memory,
            outcome.batches,
            outcome.failed_rows,
        );
        let row = &mut rows.iter_mut().find(|(name, _)| *name == trouble.name).unwrap().1;
        if by_memory {
            row.used.push(used);
        } else {
            row.gains.push(gain(model, tokens) - 1.0);
        }
        row.converged.push(converged);
        let counts = [outcome.out_of_memory, outcome.batches, outcome.failed_rows];
        row.counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    });
    println!(
        "\n| what goes otherwise than planned | bound by memory: of the budget | bound by the rate: twice as many would gain | batches to converge | out of memory | rows lost |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, Row { used, gains, mut converged, counts: [out_of_memory, batches, lost] }) in rows {
        converged.sort_unstable();
        let (median, most) = (converged[converged.len() / 2], converged[converged.len() - 1]);
        let least_used = 100.0 * used.iter().copied().fold(1.0, f64::min);
        let most_gain = 100.0 * gains.iter().copied().fold(0.0, f64::max);
        println!(
            "| {name} | {} runs, {least_used:.0} % or more | {} runs, {most_gain:.1} % or less | {median}, at most {most} | {out_of_memory} of {batches} | {lost} |",
            used.len(),
            gains.len(),
        );
    }
}

/// What all runs with one trouble come to.
#[derive(Default)]
struct Row {
    used: Vec<f64>,
    gains: Vec<f64>,
    converged: Vec<usize>,
    counts: [usize; 3],
}
