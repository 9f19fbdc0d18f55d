//! The connected agents that are configured in one repository, and why it is to be looked at next.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cluster_state::AgentId;
use tokio::{sync::Notify, time::Instant};

/// Why a repository is looked at, the weightier reasons last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trigger {
    /// An agent subscribed: what is known has to reach it.
    Subscribed,
    /// Another replica has posted a commit.
    Posted,
    /// The poll period is over.
    Period,
    /// Something was pushed.
    Push,
    /// An agent has a version that is not known here.
    UnknownVersion,
}

/// Which version of its configuration an agent has that wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gitlab) enum Has {
    /// None: it has begun anew.
    Nothing,
    /// The one that is known here, or it will be told.
    KnownVersion,
    /// Another than is known here.
    UnknownVersion,
}

/// The agents of one repository.
#[derive(Debug)]
pub(super) struct Subscribers {
    pub(super) project: i64,
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    agents: BTreeSet<AgentId>,
    /// Those that have begun anew, of which GitLab is told again.
    restarted: BTreeSet<AgentId>,
    trigger: Option<Trigger>,
}

impl Subscribers {
    pub(super) fn new(project: i64) -> Self {
        Self {
            project,
            state: Mutex::default(),
            woken: Notify::new(),
        }
    }

    /// An agent wants its configuration.
    pub(super) fn subscribe(&self, agent: AgentId, has: Has) {
        let mut state = self.lock();
        let new = state.agents.insert(agent);
        if has == Has::Nothing {
            state.restarted.insert(agent);
        }
        drop(state);
        match (has, new) {
            (Has::UnknownVersion, _) => self.wake(Trigger::UnknownVersion),
            (Has::Nothing, _) | (Has::KnownVersion, true) => self.wake(Trigger::Subscribed),
            (Has::KnownVersion, false) => {}
        }
    }

    /// Whether an agent has begun anew since this was asked.
    pub(super) fn take_restarted(&self, agent: AgentId) -> bool {
        self.lock().restarted.remove(&agent)
    }

    pub(super) fn wake(&self, trigger: Trigger) {
        let mut state = self.lock();
        state.trigger = state.trigger.max(Some(trigger));
        drop(state);
        self.woken.notify_one();
    }

    pub(super) fn agents(&self) -> Vec<AgentId> {
        self.lock().agents.iter().copied().collect()
    }

    /// An agent is not connected any more.
    pub(super) fn unsubscribe(&self, agent: AgentId) {
        let mut state = self.lock();
        state.agents.remove(&agent);
        state.restarted.remove(&agent);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().agents.is_empty()
    }

    /// Waits for a trigger, at most until the next poll. Cancel-safe.
    pub(super) async fn triggered(&self, next_poll: Instant) -> Trigger {
        loop {
            if let Some(trigger) = self.lock().trigger.take() {
                return trigger;
            }
            tokio::select! {
                () = self.woken.notified() => {}
                () = tokio::time::sleep_until(next_poll) => return Trigger::Period,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
