//! Pushes on their way to agents that run Flux, so that it looks at once.
//!
//! Nothing is kept: what is pushed while an agent has no stream is found at
//! Flux's own interval.

mod waiting;

use std::{collections::HashSet, sync::Arc};

use control_plane::{
    notifications::{Event, GitPush, Notifications},
    usage::Usage,
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use waiting::Offered;
pub(crate) use waiting::Waiting;

/// What agents' streams of pushes share. Clones share it.
#[derive(Debug, Clone)]
pub struct Flux {
    pushes: Notifications,
    usage: Option<Usage>,
    told: Counter,
    dropped: Counter,
}

impl Flux {
    /// Hears pushes of `pushes`, and counts for GitLab in `usage`.
    #[must_use]
    pub fn new(pushes: Notifications, usage: Option<Usage>, registry: &mut Registry) -> Self {
        let (told, dropped) = (Counter::default(), Counter::default());
        registry.register(
            "flux_git_push_notifications",
            "Pushes to projects that agents were told of for Flux",
            told.clone(),
        );
        registry.register(
            "flux_dropped_git_push_notifications",
            "Pushes that agents were not told of, because too many waited",
            dropped.clone(),
        );
        Self {
            pushes,
            usage,
            told,
            dropped,
        }
    }

    /// Pushes from now on.
    pub(crate) fn subscribe(&self) -> Receiver<Event> {
        self.pushes.subscribe()
    }

    /// Puts the pushes to these projects among those that wait for a stream,
    /// for as long as any come. Never waits for the stream.
    pub(crate) async fn collect(
        &self,
        mut events: Receiver<Event>,
        projects: &HashSet<String>,
        waiting: &Waiting,
    ) {
        loop {
            match events.recv().await {
                Ok(Event::GitPush(push)) if projects.contains(&*push.project_path) => {
                    self.offer(push, waiting);
                }
                Ok(Event::GitPush(_)) => {}
                Ok(Event::Missed) | Err(RecvError::Lagged(_)) => {
                    tracing::debug!("pushes may have been missed; Flux finds them at its interval");
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn offer(&self, push: GitPush, waiting: &Waiting) {
        let project = Arc::clone(&push.project_path);
        if waiting.offer(push) == Offered::Dropped {
            self.dropped.inc();
            tracing::info!(
                project = &*project,
                "too many pushes wait for an agent; this one is dropped"
            );
        }
    }

    /// An agent was told.
    pub(crate) fn told(&self, push: &GitPush) {
        self.told.inc();
        if let Some(usage) = &self.usage {
            usage.flux_told(push.project_id);
        }
    }
}
