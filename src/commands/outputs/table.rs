//! A survey as a table for people.

use std::io::{self, Write};

use crate::output::{Damaged, Depth, OutputState, OutputSurvey, ShareSurvey, StrayKind, Survey};

/// Digits of a hash that tell it from others at a glance.
const HASH_DIGITS: usize = 12;

pub(super) fn write(survey: &Survey, depth: Depth, out: &mut dyn Write) -> io::Result<()> {
    let mut rows = vec![
        ["collection", "output", "state", "rows", "parts", "failed", "dimension", "formats", "vector space"]
            .map(str::to_owned),
    ];
    for collection in &survey.collections {
        rows.extend(collection.outputs.iter().map(|output| row(collection.name.as_str(), output)));
    }
    crate::commands::models::table::write(&rows, out)?;
    for collection in &survey.collections {
        collection.faults.iter().try_for_each(|fault| fault_line(fault, out))?;
        collection.remedy.iter().try_for_each(|remedy| writeln!(out, "{}: {remedy}", collection.name))?;
        for output in &collection.outputs {
            write_output(collection.name.as_str(), output, out)?;
        }
    }
    for stray in &survey.strays {
        let what = match stray.kind {
            StrayKind::Stale => "stale: left by a run that was interrupted; the next one there removes it",
            StrayKind::Foreign => "foreign: not made by this program; it is left alone",
        };
        writeln!(out, "{} is {what}", stray.path.display())?;
    }
    spaces(survey, out)?;
    if let Some(writer) = &survey.written_by {
        writeln!(out, "{writer} is writing at this moment: what is unfinished may be on its way")?;
    }
    let read = match depth {
        Depth::Lengths => "files were looked at by their names and lengths; `verify` reads them",
        Depth::Content => "every file was read",
    };
    let state = match survey.state {
        OutputState::Complete => "complete and sound",
        OutputState::Unmerged => "all shares are complete, and are to be merged",
        OutputState::Unfinished | OutputState::Missing => "not complete",
        OutputState::Damaged => "damaged",
    };
    writeln!(out, "{}: {state} ({read})", survey.directory.display())
}

fn row(collection: &str, output: &OutputSurvey) -> [String; 9] {
    let of = |number: u64, of: Option<u64>| match of {
        Some(of) if of != number => format!("{number} of {of}"),
        Some(_) => number.to_string(),
        None => format!("{number} of ?"),
    };
    let formats: Vec<String> = output.formats.iter().map(ToString::to_string).collect();
    [
        collection.to_owned(),
        output.directory.clone(),
        word(output.state).to_owned(),
        of(output.rows, output.rows_of),
        of(output.parts, output.parts_of),
        output.failed.to_string(),
        output.dimension.to_string(),
        formats.join(","),
        output.vector_space.as_deref().unwrap_or("?").chars().take(HASH_DIGITS).collect(),
    ]
}

fn word(state: OutputState) -> &'static str {
    match state {
        OutputState::Complete => "complete",
        OutputState::Unmerged => "to be merged",
        OutputState::Unfinished => "unfinished",
        OutputState::Missing => "missing",
        OutputState::Damaged => "damaged",
    }
}

fn fault_line(fault: &Damaged, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}: {}", fault.path.display(), fault.what)
}

fn write_output(collection: &str, output: &OutputSurvey, out: &mut dyn Write) -> io::Result<()> {
    output.faults.iter().try_for_each(|fault| fault_line(fault, out))?;
    let name = format!("{collection}/{}", output.directory);
    let in_state = |state: OutputState| {
        let shares = output.shares.iter().filter(move |share| share.state == state);
        shares.map(|ShareSurvey { share, .. }| share.to_string()).collect::<Vec<_>>()
    };
    let states = [OutputState::Complete, OutputState::Unfinished, OutputState::Missing, OutputState::Damaged];
    let shares: Vec<String> = states
        .into_iter()
        .filter_map(|state| Some((word(state), in_state(state))).filter(|(_, shares)| !shares.is_empty()))
        .map(|(state, shares)| format!("{state}: {}", shares.join(" ")))
        .collect();
    if !shares.is_empty() {
        writeln!(out, "{name}: shares {}", shares.join("; "))?;
    }
    output.remedy.iter().try_for_each(|remedy| writeln!(out, "{name}: {remedy}"))
}

/// Says so if outputs of one name are in several vector spaces.
fn spaces(survey: &Survey, out: &mut dyn Write) -> io::Result<()> {
    let outputs: Vec<&OutputSurvey> = survey.collections.iter().flat_map(|collection| &collection.outputs).collect();
    let mut told: Vec<&str> = Vec::new();
    for output in &outputs {
        let other = outputs.iter().find(|other| {
            other.directory == output.directory
                && other.vector_space.is_some()
                && output.vector_space.is_some()
                && other.vector_space != output.vector_space
        });
        if other.is_some() && !told.contains(&output.directory.as_str()) {
            told.push(&output.directory);
            writeln!(
                out,
                "{}: not all collections are in one vector space; compare vectors within one",
                output.directory
            )?;
        }
    }
    Ok(())
}
