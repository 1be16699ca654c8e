//! All rows of the registry.

use std::io::{self, Write};

use serde::Serialize;

use super::{Report, table};
use crate::model::registry::{Entry, Registry};

/// What `models list` says.
#[derive(Debug, Serialize)]
pub(super) struct List<'a> {
    models: &'a [Entry],
}

impl<'a> List<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Self { models: registry.entries() }
    }
}

impl Report for List<'_> {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut rows = vec![
            ["name", "architecture", "gives", "dimension", "tokens", "parameters", "layers", "hub", "revision", "from"]
                .map(str::to_owned),
        ];
        rows.extend(self.models.iter().map(row));
        table::write(&rows, out)
    }
}

fn row(entry: &Entry) -> [String; 10] {
    [
        entry.name.clone(),
        entry.architecture.clone(),
        kinds(entry),
        entry.dimension.to_string(),
        limit(entry),
        count(entry.parameters),
        entry.layers.to_string(),
        entry.hub.clone(),
        // A commit is known by its beginning; a branch has a name.
        if entry.is_pinned() { entry.revision.chars().take(12).collect() } else { entry.revision_in_words() },
        entry.file.as_ref().map_or_else(|| "built in".to_owned(), |file| file.display().to_string()),
    ]
}

/// The kinds of vectors, first the one that the model is for.
pub(super) fn kinds(entry: &Entry) -> String {
    entry.emit.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
}

/// The longest text.
pub(super) fn limit(entry: &Entry) -> String {
    entry.max_tokens.map_or_else(|| "any".to_owned(), |tokens| tokens.to_string())
}

/// `22.7 M`
pub(super) fn count(number: u64) -> String {
    let number = number as f64;
    match number {
        billions if billions >= 1e9 => format!("{:.2} G", billions / 1e9),
        millions if millions >= 1e6 => format!("{:.1} M", millions / 1e6),
        few => format!("{few}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_in_the_unit_that_fits() {
        assert_eq!([22_713_216, 7_110_660_096, 999].map(count), ["22.7 M", "7.11 G", "999"]);
    }
}
