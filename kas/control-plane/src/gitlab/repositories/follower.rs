//! One repository that is followed for the agents that are connected here.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cluster_state::AgentId;
use runtime::backoff::{Backoff, jittered};
use tokio::{sync::Notify, time::Instant};

use super::{
    super::GitLab,
    Sharing,
    round::{Failed, Round},
};

/// Pauses after failures, as GitLab's kas makes them.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(60), 2.0);

/// Why a follower looks, the weightier reasons last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// An agent came: what is known has to reach it.
    Agent,
    /// Another replica has posted something.
    Posted,
    /// Its time has come.
    Round,
    /// Something was pushed.
    Push,
    /// An agent has a version that is not known here.
    Doubt,
}

/// A repository that is followed.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) project: i64,
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    agents: BTreeSet<AgentId>,
    due: Option<Due>,
}

impl Follower {
    pub(super) fn new(project: i64) -> Self {
        Self {
            project,
            state: Mutex::default(),
            woken: Notify::new(),
        }
    }

    /// An agent wants its configuration.
    pub(super) fn join(&self, agent: AgentId, doubt: bool) {
        let new = self.lock().agents.insert(agent);
        match (doubt, new) {
            (true, _) => self.wake(Due::Doubt),
            (false, true) => self.wake(Due::Agent),
            (false, false) => {}
        }
    }

    pub(super) fn wake(&self, due: Due) {
        let mut state = self.lock();
        state.due = state.due.max(Some(due));
        drop(state);
        self.woken.notify_one();
    }

    /// Those who joined.
    pub(super) fn agents(&self) -> Vec<AgentId> {
        self.lock().agents.iter().copied().collect()
    }

    /// An agent is not connected any more.
    pub(super) fn part(&self, agent: AgentId) {
        self.lock().agents.remove(&agent);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lock().agents.is_empty()
    }

    /// Follows as long as there are agents.
    pub(super) async fn run(self: Arc<Self>, gitlab: GitLab, sharing: Option<Sharing>) {
        let period = gitlab.0.repositories.reading.period;
        let mut round = Round::new(gitlab.clone(), self.clone(), sharing);
        let (mut backoff, mut failed) = (BACKOFF, None);
        let mut next = Instant::now();
        loop {
            let due = self.due(next).await;
            // Whoever comes while nothing can be read is served by the next attempt.
            if failed.is_some() && due <= Due::Posted {
                continue;
            }
            let looked = round.look(due).await;
            if gitlab.0.repositories.ended(&self) {
                return round.leave().await;
            }
            match looked {
                Ok(false) => {}
                Ok(true) => {
                    report(&mut failed, None, self.project);
                    backoff.reset();
                    next = Instant::now() + jittered(period);
                }
                Err(error) => {
                    report(&mut failed, Some(error), self.project);
                    next = Instant::now() + backoff.next(rand::random()).min(period);
                }
            }
        }
    }

    /// Waits until there is something to do.
    async fn due(&self, next: Instant) -> Due {
        loop {
            if let Some(due) = self.lock().due.take() {
                return due;
            }
            tokio::select! {
                () = self.woken.notified() => {}
                () = tokio::time::sleep_until(next) => return Due::Round,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says once that something fails, and once that it is over.
fn report(failed: &mut Option<Failed>, now: Option<Failed>, project_id: i64) {
    match (&now, &failed) {
        (Some(error), None) => {
            tracing::error!(%error, project_id, "a configuration project cannot be read; its agents keep what they have");
        }
        (Some(error), Some(_)) => tracing::debug!(%error, project_id, "still not"),
        (None, Some(_)) => tracing::info!(project_id, "the configuration project is read again"),
        (None, None) => {}
    }
    *failed = now;
}
