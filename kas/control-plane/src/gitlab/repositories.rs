//! Agents' configuration files, read from their repositories.
//!
//! Each repository that connected agents here are configured in has a follower.
//! Of all replicas that follow a repository, the first in the order of the hash
//! ring polls it, and posts the commit on a board; the others read it there,
//! are woken when it changes, and read the files of their own agents. Without a
//! board, or when it cannot be read, each polls itself.

mod duty;
mod follower;
mod reader;
mod round;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cluster_state::{AgentId, Ring, SharedPollState};
use tokio::{
    sync::{Notify, broadcast},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::GitLab;
use crate::{
    gitaly::Gitaly,
    notifications::{Event, Notifications},
};
use follower::{Due, Follower};

/// How repositories are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Reads them.
    pub gitaly: Gitaly,
    /// How often each is polled.
    pub period: Duration,
    /// Largest file in bytes.
    pub max_file_size: u32,
}

/// How replicas share the work.
#[derive(Clone)]
pub struct Sharing {
    /// The shared poll state.
    pub polls: Arc<dyn SharedPollState>,
    /// Those that live.
    pub live: Arc<dyn Fn() -> Ring + Send + Sync>,
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharing").finish_non_exhaustive()
    }
}

/// The repositories that are followed, by project.
#[derive(Debug)]
pub(super) struct Repositories {
    pub(super) reading: Reading,
    known: Mutex<Known>,
    joined: Notify,
}

#[derive(Debug, Default)]
struct Known {
    followers: HashMap<i64, Arc<Follower>>,
    /// Those that do not run yet.
    new: Vec<Arc<Follower>>,
}

impl Repositories {
    pub(super) fn new(reading: Reading) -> Self {
        Self {
            reading,
            known: Mutex::default(),
            joined: Notify::new(),
        }
    }

    /// An agent of a project wants its configuration. `doubt`: it has another
    /// version than is known here.
    pub(super) fn join(&self, project: i64, agent: AgentId, doubt: bool) {
        let mut known = self.lock();
        if let Some(follower) = known.followers.get(&project) {
            return follower.join(agent, doubt);
        }
        let follower = Arc::new(Follower::new(project));
        follower.join(agent, doubt);
        known.followers.insert(project, follower.clone());
        known.new.push(follower);
        self.joined.notify_one();
    }

    /// Whether a follower has nobody left to follow for, and ends.
    fn ended(&self, follower: &Follower) -> bool {
        let mut known = self.lock();
        let ended = follower.is_idle();
        if ended {
            known.followers.remove(&follower.project);
        }
        ended
    }

    fn wake(&self, project: i64, due: Due) {
        if let Some(follower) = self.lock().followers.get(&project) {
            follower.wake(due);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GitLab {
    /// Follows the repositories of connected agents until `stop`.
    pub async fn read_repositories(
        self,
        sharing: Option<Sharing>,
        notifications: Notifications,
        stop: CancellationToken,
    ) {
        let mut pushes = notifications.subscribe();
        let mut changes = sharing.as_ref().map(|it| it.polls.changes());
        let mut followers = JoinSet::new();
        let repositories = &self.0.repositories;
        loop {
            for follower in std::mem::take(&mut repositories.lock().new) {
                let run = follower.run(self.clone(), sharing.clone());
                followers.spawn(stop.clone().run_until_cancelled_owned(run));
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = repositories.joined.notified() => {}
                event = pushes.recv() => match event {
                    Ok(Event::GitPush(push)) => repositories.wake(push.project_id, Due::Push),
                    // What was missed is found by polling.
                    Ok(Event::Missed) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                project = changed(&mut changes) => repositories.wake(project, Due::Posted),
                Some(_) = followers.join_next(), if !followers.is_empty() => {}
            }
        }
        while followers.join_next().await.is_some() {}
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
