//! How batches find their size on made-up devices: the table of the README, and each run of it. `cargo bench --bench batches`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and panics when it fails")]

#[path = "../src/batch/simulation.rs"]
mod simulation;

use embed_collections::batch::{
    BatchLimits, Controller, Costs, Finished, MemoryModel, Occupancy, Pressure, Recovery, Span, Step, fitting, plan,
};

use self::simulation::{TROUBLES, each, gain};

fn main() {
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
