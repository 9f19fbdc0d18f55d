//! Logging a failure that repeats once.

/// The failure that was logged last, so that the same one is not logged again.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastFailure(Option<String>);

impl LastFailure {
    /// Remembers a failure; whether it differs from the last one and is to be logged.
    pub(crate) fn is_new(&mut self, failure: &str) -> bool {
        let new = self.0.as_deref() != Some(failure);
        if new {
            self.0 = Some(failure.to_owned());
        }
        new
    }

    /// Forgets it, since what failed has succeeded.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}
