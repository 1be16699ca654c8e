//! Results that are computed apart from this thread and come to the host when they are asked for.

use super::NnError;

/// A result on its way to the host: numbers, or what is made of them.
#[must_use = "what was to be computed is lost unless it is asked for"]
pub struct Awaited<T = Vec<f32>>(Box<dyn FnOnce() -> Result<T, NnError> + Send>);

impl<T: Send + 'static> Awaited<T> {
    /// A result that is there already.
    pub fn ready(result: T) -> Self {
        Self::new(|| Ok(result))
    }

    /// A result that `wait` waits for and copies.
    pub(super) fn new(wait: impl FnOnce() -> Result<T, NnError> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// What becomes of it once it is there.
    pub(super) fn map<U: Send + 'static>(self, change: impl FnOnce(T) -> U + Send + 'static) -> Awaited<U> {
        Awaited::new(|| Ok(change(self.get()?)))
    }

    /// Waits for it.
    ///
    /// # Errors
    /// [`NnError`], if what was begun has failed.
    pub fn get(self) -> Result<T, NnError> {
        (self.0)()
    }
}
