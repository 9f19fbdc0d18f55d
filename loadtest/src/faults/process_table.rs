//! Which processes there are now, by name: some come and go while they are looked at.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use rustix::process::Pid;

/// Process ids by name.
#[derive(Debug, Default)]
pub(crate) struct ProcessTable(Mutex<BTreeMap<String, Pid>>);

impl ProcessTable {
    /// A process is there.
    pub(crate) fn insert(&self, name: &str, pid: Pid) {
        self.lock().insert(name.to_owned(), pid);
    }

    /// A process is away.
    pub(crate) fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    /// All that are there.
    pub(crate) fn all(&self) -> Vec<(String, Pid)> {
        let processes = self.lock();
        processes
            .iter()
            .map(|(name, pid)| (name.clone(), *pid))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
