//! Numbers that are computed apart from this thread and come to the host when they are asked for.

use super::NnError;

/// Numbers on their way to the host.
#[must_use = "what was to be computed is lost unless it is asked for"]
pub struct Awaited(Box<dyn FnOnce() -> Result<Vec<f32>, NnError> + Send>);

impl Awaited {
    /// Numbers that are there already.
    pub fn ready(values: Vec<f32>) -> Self {
        Self::new(|| Ok(values))
    }

    /// Numbers that `wait` waits for and copies.
    pub(super) fn new(wait: impl FnOnce() -> Result<Vec<f32>, NnError> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// The same, changed once they are there.
    pub(super) fn map(self, change: impl FnOnce(Vec<f32>) -> Vec<f32> + Send + 'static) -> Self {
        Self::new(|| Ok(change(self.get()?)))
    }

    /// Waits for them.
    ///
    /// # Errors
    /// [`NnError`], if what was begun has failed.
    pub fn get(self) -> Result<Vec<f32>, NnError> {
        (self.0)()
    }
}
