//! Results that a device is still computing.
//!
//! Whoever waits for a device stops handing it work. So what a batch needs is begun as a whole, and waited for once.

use super::NnError;

/// A result that was begun and has not been waited for.
#[must_use = "what was begun is waited for"]
pub struct Begun<T>(Box<dyn FnOnce() -> Result<T, NnError> + Send>);

impl<T: Send + 'static> Begun<T> {
    /// A result that is there already.
    pub fn done(value: T) -> Self {
        Self::when(move || Ok(value))
    }

    /// A result that something waits for and brings to the host.
    pub fn when(wait: impl FnOnce() -> Result<T, NnError> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Waits until it is there.
    ///
    /// # Errors
    /// What has failed on the device since it was begun.
    pub fn wait(self) -> Result<T, NnError> {
        (self.0)()
    }
}
