//! CPU slots: the cores of a machine divided among encoders, as a machine's GPUs are.

use serde::Serialize;

/// An encoder's share of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CpuSlot {
    /// Its number, as in `cpu:0`.
    pub index: u32,
    /// Cores that belong to it.
    pub cores: usize,
}

/// A processor that cannot be divided so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} CPU slots are asked for, but this process may use {cores} of the cores; ask for at most {cores}")]
pub struct SlotError {
    /// Slots asked for.
    pub wanted: usize,
    /// Cores that there are.
    pub cores: usize,
}

/// Divides all `cores` among the slots as evenly as can be; the first ones get what does not divide.
///
/// # Errors
/// [`SlotError`] if a slot would have no core.
pub fn slots(indices: &[u32], cores: usize) -> Result<Vec<CpuSlot>, SlotError> {
    if indices.len() > cores {
        return Err(SlotError { wanted: indices.len(), cores });
    }
    let each = |place: usize| cores / indices.len() + usize::from(place < cores % indices.len());
    Ok(indices.iter().enumerate().map(|(place, index)| CpuSlot { index: *index, cores: each(place) }).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(slots_wanted: u32, cores: usize, expected: &[usize]) {
        let indices: Vec<u32> = (0..slots_wanted).collect();
        let shares: Vec<usize> = slots(&indices, cores).unwrap().iter().map(|slot| slot.cores).collect();
        assert_eq!(shares, expected);
    }

    #[test]
    fn cores_are_shared_out_evenly() {
        check(1, 1, &[1]);
        check(1, 8, &[8]);
        check(2, 8, &[4, 4]);
        check(3, 8, &[3, 3, 2]);
        check(0, 8, &[]);
    }

    #[test]
    fn more_slots_than_cores_are_an_error() {
        let error = slots(&[0, 1, 2], 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3 CPU slots are asked for, but this process may use 2 of the cores; ask for at most 2"
        );
    }

    proptest! {
        #[test]
        fn no_core_is_lost_and_no_share_differs_by_more_than_one(wanted in 1_u32..40, more in 0_usize..100) {
            let cores = wanted as usize + more;
            let indices: Vec<u32> = (0..wanted).collect();
            let shares: Vec<usize> = slots(&indices, cores).unwrap().iter().map(|slot| slot.cores).collect();
            prop_assert_eq!(shares.iter().sum::<usize>(), cores);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
