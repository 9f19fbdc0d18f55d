//! Notifications of pushes for agents that run Flux, so that it reconciles at once.
//!
//! Nothing is stored: a push while an agent has no stream is found at Flux's own interval.

mod pending;

use std::{collections::HashSet, sync::Arc};

use control_plane::{
    notifications::{Event, GitPush, Notifications},
    usage::Usage,
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use pending::Enqueued;
pub(crate) use pending::PendingPushes;

/// What all streams of pushes need. Clones share it.
#[derive(Debug, Clone)]
pub struct Flux {
    pushes: Notifications,
    usage: Option<Usage>,
    notified: Counter,
    dropped: Counter,
}

impl Flux {
    /// Follows `pushes`; `usage` counts for GitLab, `None` if it does not want to know.
    #[must_use]
    pub fn new(pushes: Notifications, usage: Option<Usage>, registry: &mut Registry) -> Self {
        let (notified, dropped) = (Counter::default(), Counter::default());
        registry.register(
            "flux_git_push_notifications",
            "Push notifications sent to agents for Flux",
            notified.clone(),
        );
        registry.register(
            "flux_dropped_git_push_notifications",
            "Push notifications for Flux dropped because the agent's queue was full",
            dropped.clone(),
        );
        Self {
            pushes,
            usage,
            notified,
            dropped,
        }
    }

    /// Pushes from now on.
    pub(crate) fn subscribe(&self) -> Receiver<Event> {
        self.pushes.subscribe()
    }

    /// Queues the pushes to these projects for a stream, for as long as any come. Never waits for the stream.
    pub(crate) async fn collect(
        &self,
        mut events: Receiver<Event>,
        projects: &HashSet<String>,
        pending: &PendingPushes,
    ) {
        loop {
            match events.recv().await {
                Ok(Event::GitPush(push)) if projects.contains(&*push.project_path) => {
                    self.enqueue(push, pending);
                }
                Ok(Event::GitPush(_)) => {}
                Ok(Event::Missed) | Err(RecvError::Lagged(_)) => {
                    tracing::debug!(
                        "push notifications may have been missed; Flux reconciles at its own interval"
                    );
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn enqueue(&self, push: GitPush, pending: &PendingPushes) {
        let project = Arc::clone(&push.project_path);
        if pending.enqueue(push) == Enqueued::Dropped {
            self.dropped.inc();
            tracing::info!(
                project = &*project,
                "push notification queue of the agent is full; dropping the notification"
            );
        }
    }

    /// Counts a notification that was sent.
    pub(crate) fn notified(&self, push: &GitPush) {
        self.notified.inc();
        if let Some(usage) = &self.usage {
            usage.flux_told(push.project_id);
        }
    }
}
