//! What became of a fused row, from what became of its members' rows.

use crate::domain::{RowRecord, RowStatus};

/// A fused row is no better than the worst of its members' rows: failed if one has failed, else empty if one is empty,
/// else truncated if one is truncated, else ok.
pub(super) fn fused_status(members: impl IntoIterator<Item = RowStatus>) -> RowStatus {
    let severity = |status: &RowStatus| match status {
        RowStatus::Ok => 0,
        RowStatus::Truncated => 1,
        RowStatus::Empty => 2,
        RowStatus::Failed => 3,
    };
    members.into_iter().max_by_key(severity).unwrap_or(RowStatus::Ok)
}

/// The status of a member's row whose format stores none, from the ledger, which has those of one model: whether a text
/// is empty is the same for all, and whether one was truncated is taken to be.
pub(super) fn status_by_ledger(ledger: &RowRecord, vector: &[f32]) -> RowStatus {
    let has_vector = !vector.iter().all(|component| component.is_nan());
    match (has_vector, ledger.status) {
        (true, RowStatus::Truncated) => RowStatus::Truncated,
        (true, _) => RowStatus::Ok,
        (false, RowStatus::Empty) => RowStatus::Empty,
        (false, _) => RowStatus::Failed,
    }
}

#[cfg(test)]
mod tests {
    use RowStatus::{Empty, Failed, Ok, Truncated};

    use super::*;
    use crate::output::fixture::record;

    #[test]
    fn a_fused_row_is_no_better_than_the_worst_member() {
        for (members, expected) in [
            ([Ok, Ok, Ok], Ok),
            ([Ok, Truncated, Ok], Truncated),
            ([Empty, Truncated, Ok], Empty),
            ([Truncated, Empty, Failed], Failed),
            ([Failed, Ok, Ok], Failed),
        ] {
            assert_eq!(fused_status(members), expected, "{members:?}");
        }
    }

    #[test]
    fn without_a_status_the_vector_and_the_ledger_tell() {
        let (vector, null): (&[f32], &[f32]) = (&[f32::NAN, 1.0], &[f32::NAN; 2]);
        for (ledger, vector, expected) in [
            (Ok, vector, Ok),
            (Truncated, vector, Truncated),
            (Failed, vector, Ok),
            (Ok, null, Failed),
            (Empty, null, Empty),
            (Empty, &[], Empty),
            (Failed, &[], Failed),
        ] {
            assert_eq!(status_by_ledger(&record("a", ledger), vector), expected, "{ledger} {vector:?}");
        }
    }
}
