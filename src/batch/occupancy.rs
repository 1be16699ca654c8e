//! What of a device's memory batches may have: all of it, less what others hold, what the model holds, and what is kept
//! free.

/// Part of what is allowed that batches are cut for. The rest is for what nobody measures: memory in pieces, and what
/// comes between two looks.
const AIM: f64 = 0.95;

/// The memory of a device as it is now, and what this process may have of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Occupancy {
    /// Part of the device that may be used by all together.
    part: f64,
    /// Most of this process.
    limit_bytes: u64,
    total_bytes: u64,
    /// Held by others.
    others_bytes: u64,
    /// Left free besides.
    free_bytes: u64,
    /// Held by this process when the model was loaded and nothing ran.
    model_bytes: u64,
}

impl Occupancy {
    /// A device of which nothing is loaded yet: `planned_bytes` are what the model will take with all that stays.
    pub fn new(part: f64, limit_bytes: u64, total_bytes: u64, used_bytes: u64, planned_bytes: u64) -> Self {
        Self { part, limit_bytes, total_bytes, others_bytes: used_bytes, free_bytes: 0, model_bytes: planned_bytes }
    }

    /// With so much that is left free besides.
    #[must_use]
    pub fn keeping_free(self, free_bytes: u64) -> Self {
        Self { free_bytes, ..self }
    }

    /// A look at the device; what is not known stays as it was.
    pub fn see(&mut self, total_bytes: u64, used_bytes: u64, own_bytes: Option<u64>) {
        self.total_bytes = total_bytes;
        if let Some(own) = own_bytes {
            self.others_bytes = used_bytes.saturating_sub(own);
        }
    }

    /// What this process holds now is the model.
    pub fn loaded(&mut self, own_bytes: u64) {
        self.model_bytes = own_bytes;
    }

    /// Held by others.
    pub fn others_bytes(&self) -> u64 {
        self.others_bytes
    }

    /// What of this process's memory is not the model.
    pub fn beside_the_model(&self, own_bytes: u64) -> u64 {
        own_bytes.saturating_sub(self.model_bytes)
    }

    /// What this process may hold.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a number of bytes")]
    pub fn budget_bytes(&self) -> u64 {
        let part = (self.total_bytes as f64 * self.part) as u64;
        part.saturating_sub(self.others_bytes).min(self.limit_bytes).saturating_sub(self.free_bytes)
    }

    /// What batches may have.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a number of bytes")]
    pub fn room_bytes(&self) -> u64 {
        ((self.budget_bytes() as f64 * AIM) as u64).saturating_sub(self.model_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn others_the_model_and_the_limit_leave_what_they_leave() {
        let mut room = Occupancy::new(0.85, u64::MAX, 100 * GIB, 5 * GIB, 20 * GIB);
        assert_eq!(room.budget_bytes(), 80 * GIB);
        assert_eq!(room.room_bytes(), 56 * GIB);
        room.see(100 * GIB, 45 * GIB, Some(25 * GIB));
        assert_eq!(
            (room.others_bytes(), room.budget_bytes(), room.room_bytes()),
            (20 * GIB, 65 * GIB, 41 * GIB * 1024 / 1024 + 3 * GIB / 4)
        );
        room.loaded(30 * GIB);
        assert_eq!(room.room_bytes(), 31 * GIB + 3 * GIB / 4);
        assert_eq!(room.beside_the_model(33 * GIB), 3 * GIB);
        room.see(100 * GIB, 90 * GIB, None);
        assert_eq!(room.others_bytes(), 20 * GIB, "whose the rest is, is not known");
        let limited = Occupancy::new(0.85, 12 * GIB, 16 * GIB, 0, 2 * GIB);
        assert_eq!((limited.budget_bytes(), limited.room_bytes()), (12 * GIB, 9 * GIB + 2 * GIB / 5));
        assert_eq!(limited.keeping_free(2 * GIB).budget_bytes(), 10 * GIB);
        assert_eq!(Occupancy::new(0.85, 12 * GIB, 16 * GIB, 16 * GIB, 0).room_bytes(), 0);
    }
}
