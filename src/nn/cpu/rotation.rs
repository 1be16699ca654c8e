//! Rotary positions on the CPU: the angles of all positions, computed once for all layers and batches.

use std::sync::{Arc, Mutex, PoisonError};

use crate::nn::{Pairing, Rotary};

/// Cosines and sines of the first positions.
#[derive(Debug)]
pub(super) struct Rotation {
    rotary: Rotary,
    positions: usize,
    /// [positions, pairs].
    cosines: Vec<f32>,
    /// [positions, pairs].
    sines: Vec<f32>,
}

/// The rotations that a worker has met: one for most models, two where local layers have another base.
#[derive(Debug, Default)]
pub(super) struct Rotations(Mutex<Vec<Arc<Rotation>>>);

impl Rotations {
    /// The rotation of at least so many positions.
    pub(super) fn get(&self, rotary: &Rotary, positions: usize) -> Arc<Rotation> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = known.iter().position(|rotation| rotation.rotary == *rotary);
        match place {
            Some(place) if known[place].positions >= positions => return Arc::clone(&known[place]),
            Some(place) => {
                known.swap_remove(place);
            }
            None => {}
        }
        let positions = positions.next_power_of_two();
        let (cosines, sines) = rotary.table(positions);
        let rotation = Arc::new(Rotation { rotary: rotary.clone(), positions, cosines, sines });
        known.push(Arc::clone(&rotation));
        rotation
    }
}

impl Rotation {
    /// Turns one head of a token.
    ///
    /// # Panics
    /// When the table ends before the position.
    #[expect(clippy::inline_always, reason = "inlined, it is compiled for the instructions of its caller")]
    #[inline(always)]
    pub(super) fn turn(&self, head: &mut [f32], position: usize) {
        let pairs = self.rotary.inverse_frequencies.len();
        let cosines = &self.cosines[position * pairs..][..pairs];
        let sines = &self.sines[position * pairs..][..pairs];
        let turn = |first: &mut f32, second: &mut f32, cosine: f32, sine: f32| {
            (*first, *second) = (*first * cosine - *second * sine, *second * cosine + *first * sine);
        };
        match self.rotary.pairing {
            Pairing::HalfSplit => {
                let (first, second) = head[..2 * pairs].split_at_mut(pairs);
                for (((first, second), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                    turn(first, second, *cosine, *sine);
                }
            }
            Pairing::Interleaved => {
                for (([first, second], cosine), sine) in head.as_chunks_mut().0.iter_mut().zip(cosines).zip(sines) {
                    turn(first, second, *cosine, *sine);
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "what is not turned stays as it is")]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pairing: Pairing, head: [f32; 5], expected: [f32; 5]) {
        // A quarter turn and a half turn a position; the fifth number stays.
        let quarter = std::f32::consts::FRAC_PI_2;
        let rotary = Rotary { inverse_frequencies: vec![quarter, 2.0 * quarter], pairing };
        let rotation = Rotations::default().get(&rotary, 3);
        let mut turned = head;
        rotation.turn(&mut turned, 1);
        assert!(turned.iter().zip(expected).all(|(one, other)| (one - other).abs() < 1e-6), "{turned:?}");
        let mut unturned = head;
        rotation.turn(&mut unturned, 0);
        assert_eq!(unturned, head);
    }

    #[test]
    fn pairs_are_turned_by_their_position() {
        check(Pairing::HalfSplit, [1.0, 2.0, 3.0, 4.0, 5.0], [-3.0, -2.0, 1.0, -4.0, 5.0]);
        check(Pairing::Interleaved, [1.0, 2.0, 3.0, 4.0, 5.0], [-2.0, 1.0, -3.0, -4.0, 5.0]);
    }

    #[test]
    fn a_table_is_computed_again_only_for_more_positions() {
        let rotations = Rotations::default();
        let (one, other) =
            (Rotary::new(10_000.0, 8, Pairing::HalfSplit), Rotary::new(160_000.0, 8, Pairing::HalfSplit));
        let first = rotations.get(&one, 100);
        let _ = rotations.get(&other, 100);
        assert!(Arc::ptr_eq(&first, &rotations.get(&one, 128)));
        assert_eq!(rotations.get(&one, 129).positions, 256);
        assert_eq!(rotations.0.lock().unwrap().len(), 2);
    }
}
