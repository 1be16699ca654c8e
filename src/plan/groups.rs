//! Groups: the models that are on the devices at the same time.

/// How models follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All are loaded, and every batch of texts goes through each of them.
    Together,
    /// One after the other.
    OneByOne,
}

/// Which models share the devices, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One after the other.
    pub groups: Vec<Group>,
}

/// Models that are loaded together, embed every collection, and are unloaded together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Indexes of the models.
    pub models: Vec<usize>,
}

/// Groups so many models.
pub fn plan(order: Order, models: usize) -> Plan {
    let groups = match order {
        Order::Together if models == 0 => Vec::new(),
        Order::Together => vec![Group { models: (0..models).collect() }],
        Order::OneByOne => (0..models).map(|model| Group { models: vec![model] }).collect(),
    };
    Plan { groups }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(order: Order, models: usize, expected: &[&[usize]]) {
        let found: Vec<Vec<usize>> = plan(order, models).groups.into_iter().map(|group| group.models).collect();
        assert_eq!(found, expected, "{order:?}");
    }

    #[test]
    fn models_run_one_by_one_or_together() {
        check(Order::OneByOne, 1, &[&[0]]);
        check(Order::OneByOne, 2, &[&[0], &[1]]);
        check(Order::Together, 3, &[&[0, 1, 2]]);
        check(Order::Together, 0, &[]);
    }
}
