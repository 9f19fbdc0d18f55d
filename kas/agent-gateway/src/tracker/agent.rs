//! The processes of one agent on this replica.

use super::instance::Instance;

/// Processes that one agent may have on a replica.
pub(super) const MAX_INSTANCES: usize = 100;

/// An agent with its processes.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) project: i64,
    pub(super) instances: Vec<Instance>,
}

impl Agent {
    /// The process that this is another call of: one that is connected, or else one that is away.
    pub(super) fn find(&mut self, instance: &Instance) -> Option<&mut Instance> {
        let is_here = |it: &Instance| it.away.is_none() && it.is_same(instance);
        let was_here = |it: &Instance| {
            it.away.is_some() && (it.is_same(instance) || it.is_predecessor(instance))
        };
        let at = self.instances.iter().position(is_here);
        let at = at.or_else(|| self.instances.iter().position(was_here))?;
        self.instances.get_mut(at)
    }

    pub(super) fn is_full(&self) -> bool {
        let here = self.instances.iter().filter(|it| it.away.is_none());
        here.count() >= MAX_INSTANCES
    }

    /// Adds a process, in the place of one that is away if there are too many.
    pub(super) fn add(&mut self, instance: Instance) -> Option<Instance> {
        let mut gone = None;
        if self.instances.len() >= MAX_INSTANCES {
            let longest = self.instances.iter().enumerate();
            let longest = longest.filter_map(|(at, it)| Some((it.away?.since, at)));
            if let Some((_, at)) = longest.min() {
                gone = Some(self.instances.swap_remove(at));
            }
        }
        if self.instances.is_empty() {
            // Most agents have one process, and an instance is large.
            self.instances.reserve_exact(1);
        }
        self.instances.push(instance);
        gone
    }
}
