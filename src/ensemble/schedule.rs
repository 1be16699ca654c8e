//! Turns: the models that are on the devices at the same time.

use crate::config::Mode;

/// Models that are loaded together, embed every collection, and leave together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Their places in the ensemble.
    pub models: Vec<usize>,
}

/// The turns of these models, in order. `models` are places in the ensemble: those that are ready to run.
pub fn turns(mode: Mode, models: &[usize]) -> Vec<Turn> {
    match mode {
        Mode::Rotate if models.is_empty() => Vec::new(),
        Mode::Rotate => vec![Turn { models: models.to_vec() }],
        Mode::Single | Mode::Sequential | Mode::Exclusive => {
            models.iter().map(|model| Turn { models: vec![*model] }).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mode: Mode, models: &[usize], expected: &[&[usize]]) {
        let found: Vec<Vec<usize>> = turns(mode, models).into_iter().map(|turn| turn.models).collect();
        assert_eq!(found, expected, "{mode:?}");
    }

    #[test]
    fn models_take_turns_alone_except_in_rotation() {
        check(Mode::Single, &[0], &[&[0]]);
        check(Mode::Exclusive, &[0, 2], &[&[0], &[2]]);
        check(Mode::Sequential, &[1, 0], &[&[1], &[0]]);
        check(Mode::Rotate, &[0, 1, 2], &[&[0, 1, 2]]);
        check(Mode::Rotate, &[], &[]);
    }
}
