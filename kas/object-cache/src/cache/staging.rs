//! A list of all objects that is being collected.

use proto::graph::rpc::Object;
use tonic::Status;

use super::{ObjectCache, State};

/// Collects the pages of a list. They count against the budget at once; dropping the list frees
/// them. A cache has one at a time.
#[derive(Debug)]
pub struct StagedList<'a>(&'a ObjectCache);

impl<'a> StagedList<'a> {
    pub(super) fn new(cache: &'a ObjectCache) -> Self {
        Self(cache)
    }

    /// Adds a page.
    ///
    /// # Errors
    /// When the budget has no room for it, or the cache has ended.
    pub fn push(&mut self, objects: Vec<Object>) -> Result<(), Status> {
        let page = self.0.charge(objects)?;
        let mut state = self.0.state();
        if state.failed {
            drop(state);
            let failure = self.0.failure();
            return Err(failure.unwrap_or_else(|| Status::unavailable("the cache has ended")));
        }
        let State {
            snapshot, staged, ..
        } = &mut *state;
        // An object that the cache has already counts once.
        staged.extend(page.into_iter().map(|it| snapshot.known(&it).unwrap_or(it)));
        Ok(())
    }

    /// Replaces all objects by the list; watchers receive the difference.
    pub fn commit(self, version: String) {
        let replace = |state: &mut State| {
            let staged = std::mem::take(&mut state.staged);
            state.snapshot.replace(staged, version)
        };
        self.0.change(replace, true);
    }
}

impl Drop for StagedList<'_> {
    fn drop(&mut self) {
        let staged = std::mem::take(&mut self.0.state().staged);
        drop(staged);
    }
}
