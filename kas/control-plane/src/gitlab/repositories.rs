//! Agents' configuration files, read from their repositories.
//!
//! Each repository that connected agents here are configured in has a poller. Of all
//! replicas that follow a repository, the first in the order of the hash ring is its
//! assignee: it polls, and posts the commit in the shared poll state; the others read it
//! there, are woken when it changes, and read the files of their own agents. Without
//! shared state, or when it cannot be read, each polls itself.

mod assignee;
mod poller;
mod reader;
mod refresh;
mod subscribers;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cluster_state::{AgentId, Ring, SharedPollState};
use runtime::shares::{Rate, Rates};
use tokio::{
    sync::{Notify, broadcast},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::GitLab;
use crate::{
    gitaly::Gitaly,
    notifications::{Event, Notifications},
};
pub(super) use subscribers::Has;
use subscribers::{Subscribers, Trigger};

/// How often GitLab is told again of an agent's configuration because its agent has begun anew.
const RESTARTS: Rate = Rate {
    per_second: 1.0 / 60.0,
    burst: 5,
};
/// Agents whose restarts are counted.
const RESTARTING_AGENTS_MAX: usize = 10_000;

/// How repositories are read.
#[derive(Debug, Clone)]
pub struct RepositorySettings {
    /// Reads them.
    pub gitaly: Gitaly,
    /// How often each is polled.
    pub period: Duration,
    /// Largest file in bytes.
    pub max_file_size: u32,
}

/// How replicas share the polling of repositories.
#[derive(Clone)]
pub struct PollSharing {
    /// The shared poll state.
    pub polls: Arc<dyn SharedPollState>,
    /// The live replicas.
    pub live: Arc<dyn Fn() -> Ring + Send + Sync>,
}

impl fmt::Debug for PollSharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollSharing").finish_non_exhaustive()
    }
}

/// The repositories that are polled, by project.
#[derive(Debug)]
pub(super) struct Repositories {
    pub(super) settings: RepositorySettings,
    known: Mutex<Known>,
    joined: Notify,
    restarts: Rates<AgentId>,
}

#[derive(Debug, Default)]
struct Known {
    subscribers: HashMap<i64, Arc<Subscribers>>,
    /// Those whose pollers do not run yet.
    new: Vec<Arc<Subscribers>>,
}

impl Repositories {
    pub(super) fn new(settings: RepositorySettings) -> Self {
        Self {
            settings,
            known: Mutex::default(),
            joined: Notify::new(),
            restarts: Rates::new(RESTARTS, RESTARTING_AGENTS_MAX),
        }
    }

    /// An agent of a project wants its configuration.
    pub(super) fn subscribe(&self, project: i64, agent: AgentId, has: Has) {
        let has = match has {
            // One that begins anew all the time is not told of each time.
            Has::Nothing if !self.restarts.take(&agent, Instant::now()) => Has::KnownVersion,
            has => has,
        };
        let mut known = self.lock();
        if let Some(subscribers) = known.subscribers.get(&project) {
            return subscribers.subscribe(agent, has);
        }
        let subscribers = Arc::new(Subscribers::new(project));
        subscribers.subscribe(agent, has);
        known.subscribers.insert(project, subscribers.clone());
        known.new.push(subscribers);
        self.joined.notify_one();
    }

    /// Whether a repository has no agents left, so that its poller ends.
    fn ended(&self, subscribers: &Subscribers) -> bool {
        let mut known = self.lock();
        let ended = subscribers.is_empty();
        if ended {
            known.subscribers.remove(&subscribers.project);
        }
        ended
    }

    fn wake(&self, project: i64, trigger: Trigger) {
        if let Some(subscribers) = self.lock().subscribers.get(&project) {
            subscribers.wake(trigger);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GitLab {
    /// Polls the repositories of connected agents until `stop`.
    pub async fn read_repositories(
        self,
        sharing: Option<PollSharing>,
        notifications: Notifications,
        stop: CancellationToken,
    ) {
        let mut pushes = notifications.subscribe();
        let mut changes = sharing.as_ref().map(|it| it.polls.changes());
        let mut pollers = JoinSet::new();
        let repositories = &self.0.repositories;
        loop {
            for subscribers in std::mem::take(&mut repositories.lock().new) {
                let run = poller::poll(subscribers, self.clone(), sharing.clone());
                pollers.spawn(stop.clone().run_until_cancelled_owned(run));
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = repositories.joined.notified() => {}
                event = pushes.recv() => match event {
                    Ok(Event::GitPush(push)) => repositories.wake(push.project_id, Trigger::Push),
                    // What was missed is found by polling.
                    Ok(Event::Missed) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                project = changed(&mut changes) => repositories.wake(project, Trigger::Posted),
                Some(_) = pollers.join_next(), if !pollers.is_empty() => {}
            }
        }
        while pollers.join_next().await.is_some() {}
    }
}

/// The next repository about which something was posted. Cancel-safe.
async fn changed(changes: &mut Option<broadcast::Receiver<i64>>) -> i64 {
    use broadcast::error::RecvError;
    let Some(changes) = changes else {
        return std::future::pending().await;
    };
    loop {
        match changes.recv().await {
            Ok(project) => return project,
            // Those that were missed look when their time comes.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}
