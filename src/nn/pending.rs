//! Results that a device computes while this thread continues.

use super::NnError;

/// A result on its way to the host.
#[must_use = "the result is lost unless it is read"]
pub struct Pending<T = Vec<f32>>(Box<dyn FnOnce() -> Result<T, NnError> + Send>);

impl<T: Send + 'static> Pending<T> {
    /// A result that is there already.
    pub fn ready(result: T) -> Self {
        Self::new(|| Ok(result))
    }

    /// The result of `wait`, which blocks.
    pub(super) fn new(wait: impl FnOnce() -> Result<T, NnError> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Changes it once it is there.
    pub(super) fn map<U: Send + 'static>(self, change: impl FnOnce(T) -> U + Send + 'static) -> Pending<U> {
        Pending::new(|| Ok(change(self.get()?)))
    }

    /// Waits for it.
    ///
    /// # Errors
    /// [`NnError`], if what was begun has failed.
    pub fn get(self) -> Result<T, NnError> {
        (self.0)()
    }
}
